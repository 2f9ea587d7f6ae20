"""Who does the devices' work: a pool takes one order and many jobs, and hands out answers as they come."""

from __future__ import annotations

import mmap
import os
import selectors
import struct
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, TypeAlias, cast

from common.errors import SimulationError
from simulations.read_ahead import ReadAhead
from simulations.scenario import Scenario


@dataclass(frozen=True)
class Job:
    """One device's work on an order.

    Args:
        device: its number in the population.
        cost: windows to go through, or anything else that grows with the time it takes.
        attacks: whether the device changes its clips as the scenario's attack does.
    """

    device: int
    cost: int
    attacks: bool = False


Answered: TypeAlias = tuple[int, bytes | memoryview]
"""A device, and the bytes it would send; they are good until the next are asked for."""


class Pool(Protocol):
    """Does jobs; what comes out does not depend on how many work at once, nor on who does what.

    Args:
        training_seconds: work so far, summed over workers.
    """

    training_seconds: float

    def work(
        self, plan: bytes, order: bytes, jobs: Sequence[Job]
    ) -> Iterator[tuple[int, bytes | memoryview]]:
        """Do `jobs`, each device once, and yield their answers as they come.

        Args:
            plan: canonical bytes of the plan.
            order: the tensors that go with it.

        Raises:
            SimulationError: FA-9001 a job cannot be done, FA-9006 there is no room for an order or an answer.
        """
        ...

    def close(self) -> None:
        """End all workers, at once."""
        ...


TO_WORKER = struct.Struct("<qqq")
"""A job: device, slot for its answer, whether it attacks. Or an order: `ORDER`, bytes of the plan, and of the
tensors; both lie in the orders' file, one after the other."""

FROM_WORKER = struct.Struct("<qd")
"""Bytes of an answer, and the seconds it took. Answers come in the order of the jobs. One more, of no bytes,
comes first of all: the worker is there. Below 0 is the system's number of why one was not written."""

ORDER = -1

SLOTS = 3
"""Answers that a worker's file holds: one is written, one waits to be read, one is read."""

SLOT_BYTES = 1 << 32
"""From one slot of a file to the next. What is not written takes no space."""

Pipe: TypeAlias = IO[bytes]

AHEAD = 2
"""Jobs a worker is given at a time: one to do, one to go on with at once."""

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Asks glibc for pages of 2 MB where Linux has some: a step of training then takes a twentieth less time."""

TRIES = 3
"""Workers that may die of the same job."""


class ProcessPool:
    """Processes of this machine, one model each. Orders and answers go through memory, not through pipes.

    Args:
        world: folder of the devices' clips, see `simulations.population.open_population`.
        kept: folder for what devices keep between rounds.

    Raises:
        SimulationError: FA-9001, workers cannot be started.
    """

    def __init__(self, world: Path, scenario: Scenario, seed: int, kept: Path, workers: int) -> None:
        self.training_seconds = 0.0
        self._arguments = (str(world), scenario.model_dump_json(), str(seed), str(kept))
        self._ahead = ReadAhead(world)
        self._orders = _nameless_file()
        self._order = b""
        self._deaths: Counter[int | None] = Counter()
        self._selector = selectors.DefaultSelector()
        self._workers: set[_Worker] = set()
        try:
            for _ in range(workers):
                self._start()
            for _ in self._replies(deque()):
                pass
        except BaseException:
            self.close()
            raise

    def work(self, plan: bytes, order: bytes, jobs: Sequence[Job]) -> Iterator[Answered]:
        try:
            write_whole(self._orders.fileno(), plan + order, 0)
        except OSError as error:
            raise _no_room("an order", error.errno or 0) from error
        self._order = TO_WORKER.pack(ORDER, len(plan), len(order))
        # Longest first, so that none is left with a long one when all others are done (Graham 1969).
        waiting = deque(sorted(jobs, key=lambda job: (-job.cost, job.device)))
        self._deaths.clear()
        for worker in self._workers:
            worker.send(self._order)
            self._fill(worker, waiting)
        try:
            yield from self._replies(waiting)
        finally:
            # Nobody may still read an order when the next one takes its place.
            waiting.clear()
            for _ in self._replies(waiting):
                pass

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self._selector.close()
        self._orders.close()

    def _replies(self, waiting: deque[Job]) -> Iterator[Answered]:
        """Answers, until no job is waiting and none is at any worker."""
        while any(worker.at_work for worker in self._workers):
            for key, _ in self._selector.select():
                worker: _Worker = key.data
                reply = worker.reply()
                if reply is None:
                    self._replace(worker, waiting)
                    continue
                job, size, seconds = reply
                if size < 0:
                    raise _no_room("an answer", -size)
                self._fill(worker, waiting)
                if job is not None:
                    self.training_seconds += seconds
                    with worker.answer(size) as view:
                        yield job.device, view

    def _fill(self, worker: _Worker, waiting: deque[Job]) -> None:
        """Give a worker jobs, so that it need not wait for the next, nor for its data."""
        while waiting and len(worker.at_work) < AHEAD:
            job = waiting.popleft()
            worker.give(job)
            self._ahead.expect(job.device)

    def _start(self) -> _Worker:
        worker = _Worker(self._arguments, self._orders)
        self._workers.add(worker)
        self._selector.register(worker.replies, selectors.EVENT_READ, worker)
        return worker

    def _replace(self, dead: _Worker, waiting: deque[Job]) -> None:
        """Put another worker in the place of one that died, and let it do what that one had to."""
        self._selector.unregister(dead.replies)
        self._workers.remove(dead)
        status = dead.end()
        job = dead.at_work[0] if dead.at_work else None
        device = None if job is None else job.device
        self._deaths[device] += 1
        if self._deaths[device] >= TRIES:
            raise SimulationError(
                "FA-9001",
                f"A worker died {TRIES} times at {'its start' if job is None else f'device {device}'}; "
                f"status {status}.",
                "See what it said on standard error; -9 mostly means that memory ran out: use fewer workers.",
            )
        waiting.extendleft(job for job in reversed(dead.at_work) if job is not None)
        self._start().send(self._order)


@dataclass(eq=False)
class _Worker:
    """One process, and what it has been given to do.

    Args:
        orders: file with the plan and the tensors of the newest order.
    """

    arguments: Sequence[str]
    orders: IO[bytes]
    at_work: deque[Job | None] = field(default_factory=lambda: deque([None]), init=False)
    """Jobs that it has not answered; None until it is there."""

    def __post_init__(self) -> None:
        self._answers = _nameless_file()
        self._given = self._taken = 0
        files = self.orders.fileno(), self._answers.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "simulations.worker", *self.arguments, *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=files,
            env=HUGE_PAGES | os.environ | {"OMP_NUM_THREADS": "1"},
            # Ctrl-C is for whoever holds the rounds, and not for workers in the middle of a job.
            process_group=0,
        )
        self._jobs, self.replies = cast(Pipe, self._process.stdin), cast(Pipe, self._process.stdout)

    def send(self, message: bytes) -> None:
        # Whether it is still there shows when it does not answer.
        with suppress(BrokenPipeError):
            if message:
                self._jobs.write(message)

    def give(self, job: Job) -> None:
        """Give it one more job."""
        self.at_work.append(job)
        self.send(TO_WORKER.pack(job.device, self._given % SLOTS, job.attacks))
        self._given += 1

    def reply(self) -> tuple[Job | None, int, float] | None:
        """The job that it has done, bytes of the answer, and seconds it took; None if it has died."""
        data = self.replies.read(FROM_WORKER.size)
        if len(data) < FROM_WORKER.size:
            return None
        return self.at_work.popleft(), *FROM_WORKER.unpack(data)

    def answer(self, size: int) -> memoryview:
        """The oldest answer that was not read, where the worker has put it."""
        slot = self._taken % SLOTS
        self._taken += 1
        return memoryview(
            mmap.mmap(self._answers.fileno(), size, offset=slot * SLOT_BYTES, access=mmap.ACCESS_READ)
        )

    def end(self) -> int:
        """Kill it, if need be, and return its status."""
        self._process.kill()
        for pipe in (self._jobs, self.replies, self._answers):
            pipe.close()
        return self._process.wait()


def write_whole(file: int, data: bytes, at: int) -> None:
    """Write all of `data` into an open file, from place `at` on; the system may take less of it at once.

    Raises:
        OSError: there is no room for all of it.
    """
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, at)
        view, at = view[count:], at + count


def _no_room(what: str, number: int) -> SimulationError:
    return SimulationError(
        "FA-9006",
        f"The memory in which workers are told of their work took no more of {what}: {os.strerror(number)}.",
        "Make /dev/shm larger, use fewer workers or a smaller model, and go on with --resume.",
    )


def _nameless_file() -> IO[bytes]:
    """A file in memory where that can be had; it is gone with the last process that has it open."""
    memory = Path("/dev/shm")  # noqa: S108 nobody else can open what has no name
    return tempfile.TemporaryFile(buffering=0, dir=memory if os.access(memory, os.W_OK) else None)
