"""The link's handle on its training worker."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from common.errors import FedAudioError
from common.protocol.answer import Refusal, encode_refusal
from common.protocol.plan import parse_plan
from fl_client.frames import read_frame_until, write_frame, write_frame_until
from fl_client.home import DeviceHome
from fl_client.refusing import refuse

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""How often the owner's policy is asked again while an order is worked on."""


class TrainingProcess:
    """Starts a worker when an order comes, keeps it warm for a while, ends it when it is late or idle.

    Args:
        home: the device's folder.
        device: the device's id.
        key: of the device's ledger.
        idle_seconds: how long the worker stays after an order; importing torch costs about two seconds.
        objection: asked every `LOOK_SECONDS` while the worker works; what it says ends the work.
    """

    def __init__(
        self,
        home: DeviceHome,
        device: str,
        key: bytes,
        idle_seconds: float,
        objection: Callable[[], FedAudioError | None] = lambda: None,
    ) -> None:
        self._home, self._device, self._key, self._objection = home, device, key, objection
        self._idle_seconds = idle_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._idle: threading.Timer | None = None

    def answer(self, plan: bytes, weights: bytes) -> bytes:
        """The worker's answer to an order, or a refusal that says why there is none.

        Args:
            plan: body of a plan whose signature has been checked.
        """
        try:
            seconds = parse_plan(plan).seconds
        except FedAudioError as error:
            return refuse(error)
        with self._lock:
            if self._idle:
                self._idle.cancel()
            try:
                with self._watched() as against:
                    answer = self._ask(plan, weights, time.monotonic() + seconds)
                return refuse(against[0]) if against else answer
            finally:
                self._idle = threading.Timer(self._idle_seconds, self.close)
                self._idle.daemon = True
                self._idle.start()

    def close(self) -> None:
        """End the worker, if there is one."""
        with self._lock:
            self._end()

    def abort(self) -> None:
        """Kill the worker at once, also in the middle of an order, which is then refused."""
        process = self._process
        if process is not None:
            process.kill()

    @property
    def running(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    @contextmanager
    def _watched(self) -> Iterator[list[FedAudioError]]:
        """Look whether the owner still agrees, while the worker works; if not, the list says why."""
        against: list[FedAudioError] = []
        done = threading.Event()

        def watch() -> None:
            while not done.wait(LOOK_SECONDS):
                error = self._objection()
                if error is not None:
                    log.warning("an order is given up: %s", error)
                    against.append(error)
                    self.abort()
                    return

        watching = threading.Thread(target=watch, name="policy", daemon=True)
        watching.start()
        try:
            yield against
        finally:
            done.set()
            watching.join()

    def _ask(self, plan: bytes, weights: bytes, deadline: float) -> bytes:
        process = self._started()
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            return _refuse("FA-4003", "The training process has no pipes.")
        try:
            write_frame_until(stdin.fileno(), plan, deadline)
            write_frame_until(stdin.fileno(), weights, deadline)
            answer = read_frame_until(stdout.fileno(), deadline)
        except TimeoutError:
            self._end()
            return _refuse("FA-4002", "Training was not done when the time for the round was over.")
        except OSError:
            answer = None
        if answer is None:
            # It has closed its pipes, which a process that hangs may do too.
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            self._end()
            status = process.returncode
            log.error("the training process died with status %d", status)
            return _refuse("FA-4003", f"The training process died with status {status}.")
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fl_client.worker", str(self._home.root), self._device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            if self._process.stdin is not None:
                with suppress(OSError):  # it may have died at once, which is noticed when it is asked
                    write_frame(self._process.stdin, self._key)
                # A worker that does not read must not hold up the link beyond the deadline.
                os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # What the dead worker did not read is of no use to anybody.
                with suppress(OSError):
                    pipe.close()
        self._process = None


def _refuse(code: str, reason: str) -> bytes:
    return encode_refusal(Refusal(code=code, reason=reason))
