"""Workers: their answers are those of a workbench, and one that is killed is missed by nobody."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from common.algorithms.registry import ALGORITHMS
from common.errors import SimulationError
from common.protocol.answer import Answer, Refusal, decode_answer
from common.protocol.tensors import schema_of
from simulations.federation import draft_exchange
from simulations.pool import Answered, Job, ProcessPool
from simulations.population import open_population
from simulations.read_ahead import ReadAhead
from simulations.scenario import Scenario
from tests.processes import ROOT, wait_for
from tests.simulations.made_pool import SCAFFOLD, quick, started


class Work:
    """An order to all devices of a world, and the jobs in it."""

    def __init__(self, scenario: Scenario, folder: Path, cache: Path) -> None:
        simulation, self.bench, start = started(scenario, folder, cache)
        self.scenario, self.world, self.kept = scenario, simulation.world.folder, folder / "kept"
        algorithm = ALGORITHMS[scenario.recipe.algorithm]
        self.schema = algorithm.answer_schema(schema_of(start.weights))
        population = simulation.world.population
        cohort = {device: population.id(device) for device in range(len(population))}
        order = algorithm.order(start.weights, {})
        exchange = draft_exchange(simulation.settings, 1, "train", order, self.schema, cohort)
        self.plan, self.order = exchange.order, exchange.weights
        self.jobs = [Job(device, population.training_windows(device)) for device in cohort]

    def pool(self, workers: int) -> ProcessPool:
        return ProcessPool(self.world, self.scenario, 0, self.kept, workers)

    def rows(self, answers: Iterator[Answered]) -> dict[int, bytes]:
        """The tensors of each answer: the report beside them states how long the work took."""
        rows: dict[int, bytes] = {}
        for device, data in answers:
            answer = decode_answer(data, self.schema)
            assert isinstance(answer, Answer)
            assert device not in rows
            rows[device] = answer.row.tobytes()
        return dict(sorted(rows.items()))

    def expected(self) -> dict[int, bytes]:
        return self.rows(self.bench.work(self.plan, self.order, self.jobs))


@pytest.fixture
def work(small: Scenario, tmp_path: Path, cache: Path) -> Work:
    return Work(quick(small), tmp_path, cache)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_answer_as_devices_do(work: Work, workers: int) -> None:
    with closing(work.pool(workers)) as pool:
        for _ in range(2):
            assert work.rows(pool.work(work.plan, work.order, work.jobs)) == work.expected()
        assert pool.training_seconds > 0
    assert not psutil.Process().children()


def test_a_worker_that_is_killed_is_replaced(work: Work) -> None:
    expected = work.expected()
    with closing(work.pool(2)) as pool:
        answers = pool.work(work.plan, work.order, work.jobs)

        def disturbed() -> Iterator[Answered]:
            for count, answered in enumerate(answers):
                yield answered
                if count < 3:
                    psutil.Process().children()[-1].kill()

        assert work.rows(disturbed()) == expected
        assert len(psutil.Process().children()) == 2
        assert work.rows(pool.work(work.plan, work.order, work.jobs)) == expected
    assert not psutil.Process().children()


def test_a_job_that_kills_every_worker_is_given_up(small: Scenario, tmp_path: Path, cache: Path) -> None:
    work = Work(quick(small, **SCAFFOLD), tmp_path, cache)
    damaged = work.kept / "3" / "0.safetensors"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"nothing that a device has kept")
    with closing(work.pool(1)) as pool, pytest.raises(SimulationError, match=r"FA-9001.*device 3"):
        work.rows(pool.work(work.plan, work.order, work.jobs))
    assert not psutil.Process().children()


def test_workers_that_cannot_start(work: Work) -> None:
    with pytest.raises(SimulationError, match=r"FA-9001.*its start"):
        ProcessPool(work.world, work.scenario, "no number", work.kept, 1)  # type: ignore[arg-type]
    assert not psutil.Process().children()


def test_answers_that_nobody_waits_for(work: Work) -> None:
    """A round that is broken off leaves nothing behind that the next one would take for its own."""
    with closing(work.pool(2)) as pool:
        answers = pool.work(work.plan, work.order, work.jobs)
        next(answers)
        answers.close()
        assert work.rows(pool.work(work.plan, work.order, work.jobs)) == work.expected()


def test_workers_end_with_whoever_started_them(work: Work, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from simulations.pool import ProcessPool; "
        "from simulations.scenario import Scenario; "
        "pool = ProcessPool(Path(sys.argv[1]), Scenario.model_validate_json(sys.argv[2]), 0, "
        "Path(sys.argv[3]), 2); print('there', flush=True); time.sleep(600)"
    )
    arguments = [str(work.world), work.scenario.model_dump_json(), str(work.kept)]
    before = {entry.name for entry in Path("/dev/shm").iterdir()}
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout
    assert parent.stdout.readline() == b"there\n"
    workers = psutil.Process(parent.pid).children()
    assert len(workers) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not any(worker.is_running() for worker in workers), "the workers' end")
    assert {entry.name for entry in Path("/dev/shm").iterdir()} <= before


def test_a_refusal_is_an_answer(small: Scenario, tmp_path: Path, cache: Path) -> None:
    """A device that cannot train says why, as it does deployed, and its worker goes on."""
    work = Work(quick(small, privacy={"noise_multiplier": 0.001}), tmp_path, cache)
    with closing(work.pool(1)) as pool:
        said = [decode_answer(bytes(data), {}) for _, data in pool.work(work.plan, work.order, work.jobs)]
    assert [refusal.code for refusal in said if isinstance(refusal, Refusal)] == ["FA-7005"] * len(work.jobs)


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Lets files of this process, and of those it starts, grow to so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_for_an_order(work: Work, small_files: Callable[[int], None]) -> None:
    with closing(work.pool(1)) as pool:
        small_files(len(work.plan) + 100)
        with pytest.raises(SimulationError, match=r"FA-9006.*an order"):
            work.rows(pool.work(work.plan, work.order, work.jobs))


def test_no_room_for_an_answer(work: Work, small_files: Callable[[int], None]) -> None:
    small_files(1000)
    with closing(work.pool(1)) as pool:
        small_files(resource.RLIM_INFINITY)
        with pytest.raises(SimulationError, match=r"FA-9006.*an answer"):
            work.rows(pool.work(work.plan, work.order, work.jobs))
    assert not psutil.Process().children()


def test_windows_are_read_ahead_wherever_they_lie(work: Work) -> None:
    ahead, population = ReadAhead(work.world), open_population(work.world)
    for device in range(len(population)):
        ahead.expect(device)
        places = [place + step for place, count in population.stretches(device) for step in range(count)]
        assert np.array_equal(population.recordings.energies[places], population.data(device).energies)
