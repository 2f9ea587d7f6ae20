"""The training worker: it answers, and whatever happens to it the device goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import cache

import psutil
import pytest
import torch

from common.files import sha256
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.answer import Answer, Refusal, decode_answer
from common.protocol.plan import Plan
from common.protocol.tensors import Weights, encode_weights, schema_of
from common.task import Task
from fl_client.home import DeviceHome
from fl_client.orders import answer_order
from fl_client.settings import DeviceSettings
from fl_client.training_process import TrainingProcess
from tests.processes import SMALL, wait_for

TASK = Task.model_validate(SMALL["task"])
KITCHEN = DeviceSettings(name="kitchen", server="127.0.0.1:1")


@cache
def start_weights() -> Weights:
    return get_weights(build_model(TASK, torch.Generator().manual_seed(0)))


@cache
def weight_bytes() -> bytes:
    return encode_weights(start_weights())


def order(**changes: object) -> bytes:
    facts = {"run": "r", "round": 1, "task": TASK, "recipe": SMALL["recipe"], "base": sha256(weight_bytes())}
    return Plan.model_validate(facts | {"holdout": 0.0} | changes).model_dump_json().encode()


def read(data: bytes) -> Answer | Refusal:
    return decode_answer(data, schema_of(start_weights()))


def refused(data: bytes) -> str:
    answer = read(data)
    assert isinstance(answer, Refusal), answer
    assert answer.reason
    return answer.code


@pytest.fixture
def training(device: DeviceHome) -> Iterator[TrainingProcess]:
    training = TrainingProcess(device, idle_seconds=300)
    yield training
    training.close()


def worker_of(training: TrainingProcess) -> psutil.Process:
    (process,) = psutil.Process().children()
    return process


LONG: dict[str, object] = {"recipe": {"steps": 100_000, "batch_size": 2}}


def test_a_life_with_a_kill_and_a_delay(training: TrainingProcess) -> None:
    # One test for the whole life, for each start of a worker costs seconds.
    answer = read(training.answer(order(), weight_bytes()))
    assert isinstance(answer, Answer)
    assert answer.report.device == "kitchen"
    assert answer.report.clips == 6
    assert any(value.any() for value in answer.delta.values())
    assert training.running
    worker = worker_of(training)
    assert worker.nice() >= 10

    # Killed in the middle of an order: a refusal, and the next order works.
    def kill_when_busy() -> None:
        busy = worker.cpu_times().user
        wait_for(lambda: worker.cpu_times().user > busy + 0.2, "work")
        os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_busy)
    killer.start()
    assert refused(training.answer(order(**LONG), weight_bytes())) == "FA-4003"
    killer.join()
    again = read(training.answer(order(), weight_bytes()))
    assert isinstance(again, Answer)
    # The same order on the same clips gives the same bits, also from another process.
    assert all(again.delta[name].tobytes() == value.tobytes() for name, value in answer.delta.items())

    # Too slow: a refusal, and the worker is gone.
    late = worker_of(training)
    assert refused(training.answer(order(seconds=0.5, **LONG), weight_bytes())) == "FA-4002"
    assert not late.is_running()
    assert not training.running


def test_a_malformed_plan_is_refused_without_a_worker(training: TrainingProcess) -> None:
    for plan in (b"", b"{}", b"\xff" * 100, order()[:-5]):
        assert refused(training.answer(plan, weight_bytes())) == "FA-3005"
    assert not training.running


def test_a_worker_that_stands_still_is_not_waited_for(training: TrainingProcess) -> None:
    assert refused(training.answer(order(base="0" * 64), weight_bytes())) == "FA-3010"
    worker = worker_of(training)
    worker.suspend()
    # More than a pipe holds, so the order itself cannot be handed over.
    assert refused(training.answer(order(seconds=0.5), bytes(3_000_000))) == "FA-4002"
    assert not worker.is_running()
    assert not training.running


def test_an_idle_worker_goes(device: DeviceHome) -> None:
    training = TrainingProcess(device, idle_seconds=0.0)
    assert refused(training.answer(order(base="0" * 64), weight_bytes())) == "FA-3010"
    wait_for(lambda: not training.running, "the worker's end")


class TestOrders:
    """What the worker does with an order, in this process."""

    def test_a_training(self, device: DeviceHome) -> None:
        answer = read(answer_order(order(), weight_bytes(), device, KITCHEN))
        assert isinstance(answer, Answer)
        assert (answer.report.kind, answer.report.round) == ("train", 1)

    def test_an_evaluation(self, device: DeviceHome) -> None:
        plan = order(kind="evaluate", holdout=0.5)
        answer = read(answer_order(plan, weight_bytes(), device, KITCHEN))
        assert isinstance(answer, Answer)
        assert answer.delta == {}
        assert answer.report.correct <= answer.report.clips <= 6

    def test_weights_that_the_plan_does_not_name(self, device: DeviceHome) -> None:
        data = answer_order(order(base="0" * 64), weight_bytes(), device, KITCHEN)
        assert refused(data) == "FA-3010"

    def test_weights_of_another_model(self, device: DeviceHome) -> None:
        other = TASK.model_copy(update={"width": 8})
        assert refused(answer_order(order(task=other), weight_bytes(), device, KITCHEN)) == "FA-3002"

    def test_an_architecture_nobody_knows(self, device: DeviceHome) -> None:
        other = TASK.model_copy(update={"architecture": "../../evil"})
        assert refused(answer_order(order(task=other), weight_bytes(), device, KITCHEN)) == "FA-7001"

    def test_labels_the_device_has_no_clips_of(self, device: DeviceHome) -> None:
        other = TASK.model_copy(update={"labels": ("yes", "no")})
        assert refused(answer_order(order(task=other), weight_bytes(), device, KITCHEN)) == "FA-2007"

    def test_no_clips(self, device: DeviceHome) -> None:
        for file in device.clips.glob("*/*.flac"):
            file.unlink()
        assert refused(answer_order(order(), weight_bytes(), device, KITCHEN)) == "FA-2002"

    def test_a_cache_that_cannot_be_written(self, device: DeviceHome) -> None:
        device.cache.write_text("a file in the place of the folder")
        assert refused(answer_order(order(), weight_bytes(), device, KITCHEN)) == "FA-8001"

    def test_damaged_clips_are_skipped_and_counted(
        self, device: DeviceHome, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = (device.clips / "high" / "0.flac").read_bytes()
        damaged = {
            "cut.flac": whole[: len(whole) // 2],
            "empty.flac": b"",
            "text.flac": b"not a sound",
            "noise.flac": whole[:50] + os.urandom(len(whole) - 50),
        }
        for name, data in damaged.items():
            (device.clips / "high" / name).write_bytes(data)
        answer = read(answer_order(order(), weight_bytes(), device, KITCHEN))
        assert isinstance(answer, Answer)
        assert answer.report.clips == 6
        assert answer.report.skipped == len(damaged)
        for name in damaged:
            assert name in caplog.text
