"""The training worker: it answers, and whatever happens to it the device goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import cache

import psutil
import pytest
import soundfile
import torch

from common.files import sha256
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.answer import Answer, Refusal, Report, decode_answer
from common.protocol.tensors import Weights, encode_weights, schema_of
from common.security.canonical import canonical
from common.security.envelope import open_envelope, parse_envelope
from common.security.statement import raw_public
from common.task import Task
from common.training.gradients import PrivateGradients
from fl_client import training_process
from fl_client.answers import Answering
from fl_client.home import DeviceHome
from fl_client.identity import ledger_key
from fl_client.objections import standing_objection
from fl_client.orders import answer_order
from fl_client.sealing import SealedOutlet
from fl_client.training_process import TrainingProcess
from tests.fl_client.made_identity import Authority, Made, ledger_of
from tests.fl_client.power_cut import PowerCut
from tests.fl_client.test_answers import Ring, SetClock
from tests.processes import SMALL, wait_for

TASK = Task.model_validate(SMALL["task"])
OTHER = TASK.model_copy(update={"width": 8})
KITCHEN = "0123456789abcdef" * 2
AUTHORITY = Authority.make()


@cache
def start_weights() -> Weights:
    return get_weights(build_model(TASK, torch.Generator().manual_seed(0)))


@cache
def weight_bytes() -> bytes:
    return encode_weights(start_weights())


def order(**changes: object) -> bytes:
    return canonical(AUTHORITY.plan_for(**{"base": sha256(weight_bytes()), "holdout": 0.0} | changes))


def read(data: bytes) -> Answer | Refusal:
    return decode_answer(data, schema_of(start_weights()))


def refused(data: bytes) -> str:
    answer = read(data)
    assert isinstance(answer, Refusal), answer
    assert answer.reason
    return answer.code


@pytest.fixture
def training(device: DeviceHome) -> Iterator[TrainingProcess]:
    training = TrainingProcess(device, KITCHEN, ledger_key(device, None), idle_seconds=300)
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
    assert answer.report.device == KITCHEN
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


def test_an_owner_who_changes_their_mind_is_heard_in_the_middle(
    device: DeviceHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_process, "LOOK_SECONDS", 0.1)
    training = TrainingProcess(
        device,
        KITCHEN,
        ledger_key(device, None),
        300,
        lambda: standing_objection(device, ledger_of(device)),
    )
    assert isinstance(read(training.answer(order(), weight_bytes())), Answer)
    worker = worker_of(training)
    answers: list[bytes] = []
    working = threading.Thread(
        target=lambda: answers.append(training.answer(order(round=2, **LONG), weight_bytes()))
    )
    busy = worker.cpu_times().user
    working.start()
    wait_for(lambda: worker.cpu_times().user > busy + 0.2, "work")
    device.policy.write_text("maximum_epsilon = 1.0\n")
    working.join(timeout=60)
    # It has answered exactly before.
    assert refused(answers[0]) == "FA-4044"
    assert not worker.is_running()
    training.close()


def test_a_malformed_plan_is_refused_without_a_worker(training: TrainingProcess) -> None:
    for plan in (b"", b"{}", b"\xff" * 100, order()[:-5]):
        assert refused(training.answer(plan, weight_bytes())) == "FA-3005"
    assert not training.running


def test_a_worker_that_stands_still_is_not_waited_for(training: TrainingProcess) -> None:
    assert refused(training.answer(order(task=OTHER), weight_bytes())) == "FA-3002"
    worker = worker_of(training)
    worker.suspend()
    # More than a pipe holds, so the order itself cannot be handed over.
    assert refused(training.answer(order(seconds=0.5), bytes(3_000_000))) == "FA-4002"
    assert not worker.is_running()
    assert not training.running


def test_an_idle_worker_goes(device: DeviceHome) -> None:
    training = TrainingProcess(device, KITCHEN, ledger_key(device, None), idle_seconds=0.0)
    assert refused(training.answer(order(task=OTHER), weight_bytes())) == "FA-3002"
    wait_for(lambda: not training.running, "the worker's end")


class TestOrders:
    """What the worker does with an order, in this process."""

    def test_a_training(self, device: DeviceHome) -> None:
        answer = read(answer_order(order(), weight_bytes(), device, KITCHEN, ledger_of(device)))
        assert isinstance(answer, Answer)
        assert (answer.report.kind, answer.report.round) == ("train", 1)

    def test_an_evaluation(self, device: DeviceHome) -> None:
        plan = order(kind="evaluate", holdout=0.5)
        answer = read(answer_order(plan, weight_bytes(), device, KITCHEN, ledger_of(device)))
        assert isinstance(answer, Answer)
        assert answer.delta == {}
        assert answer.report.correct <= answer.report.clips <= 6

    def test_weights_of_another_model(self, device: DeviceHome) -> None:
        assert (
            refused(answer_order(order(task=OTHER), weight_bytes(), device, KITCHEN, ledger_of(device)))
            == "FA-3002"
        )

    def test_an_architecture_nobody_knows(self, device: DeviceHome) -> None:
        other = TASK.model_copy(update={"architecture": "../../evil"})
        assert (
            refused(answer_order(order(task=other), weight_bytes(), device, KITCHEN, ledger_of(device)))
            == "FA-7001"
        )

    def test_labels_the_device_has_no_clips_of(self, device: DeviceHome) -> None:
        other = TASK.model_copy(update={"labels": ("yes", "no")})
        assert (
            refused(answer_order(order(task=other), weight_bytes(), device, KITCHEN, ledger_of(device)))
            == "FA-2007"
        )

    def test_no_clips(self, device: DeviceHome) -> None:
        for file in device.clips.glob("*/*.flac"):
            file.unlink()
        assert refused(answer_order(order(), weight_bytes(), device, KITCHEN, ledger_of(device))) == "FA-2002"

    def test_a_cache_that_cannot_be_written(self, device: DeviceHome) -> None:
        device.cache.write_text("a file in the place of the folder")
        assert refused(answer_order(order(), weight_bytes(), device, KITCHEN, ledger_of(device))) == "FA-8001"

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
        answer = read(answer_order(order(), weight_bytes(), device, KITCHEN, ledger_of(device)))
        assert isinstance(answer, Answer)
        assert answer.report.clips == 6
        assert answer.report.skipped == len(damaged)
        for name in damaged:
            assert name in caplog.text


PRIVATE: dict[str, object] = {"privacy": {"noise_multiplier": 1.0}, "recipe": {"steps": 2, "batch_size": 2}}


class TestPrivacy:
    """What is booked, and when."""

    def test_the_cost_is_booked_as_it_is_reported(self, device: DeviceHome) -> None:
        plan = order(**PRIVATE)
        answer = read(answer_order(plan, weight_bytes(), device, KITCHEN, ledger_of(device)))
        assert isinstance(answer, Answer)
        assert answer.report.privacy is not None
        reserved, spent = (entry for _, entry in ledger_of(device).entries())
        assert reserved.cost is not None
        assert reserved.cost.model_dump().items() <= answer.report.privacy.model_dump().items()
        assert (reserved.state, spent.state) == ("reserved", "spent")
        assert (reserved.run, reserved.round, reserved.plan) == ("00" * 8, 1, sha256(plan))
        assert spent.plan == reserved.plan
        answer_order(order(round=2, **PRIVATE), weight_bytes(), device, KITCHEN, ledger_of(device))
        account = ledger_of(device).account()
        assert account.steps["clip"].total() == 4
        assert account.exact == 0

    def test_what_is_exact_is_counted(self, device: DeviceHome) -> None:
        for number, changes in enumerate(({}, {"kind": "evaluate", "holdout": 0.5}), start=1):
            answer_order(order(**changes), weight_bytes(), device, KITCHEN, ledger_of(device))
            assert ledger_of(device).account().exact == number
        assert ledger_of(device).account().steps == {}

    def test_it_is_booked_before_the_first_step(
        self, device: DeviceHome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A power cut stands for whatever ends a training in its first step.
        def cut(*_: object) -> float:
            raise PowerCut

        monkeypatch.setattr(PrivateGradients, "next_step", cut)
        with pytest.raises(PowerCut):
            answer_order(order(**PRIVATE), weight_bytes(), device, KITCHEN, ledger_of(device))
        assert [entry.state for _, entry in ledger_of(device).entries()] == ["reserved"]
        assert ledger_of(device).account().steps["clip"].total() == 2

    @pytest.mark.parametrize(
        ("rule", "code"),
        [("maximum_epsilon_per_round = 0.01", "FA-4033"), ("maximum_epsilon = 0.01", "FA-4034")],
    )
    def test_too_much_is_refused_before_anything_is_spent(
        self, device: DeviceHome, rule: str, code: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PrivateGradients, "next_step", lambda self: pytest.fail("a step was taken"))
        device.policy.write_text(rule + "\n")
        assert (
            refused(answer_order(order(**PRIVATE), weight_bytes(), device, KITCHEN, ledger_of(device)))
            == code
        )
        assert ledger_of(device).account().steps == {}

    def test_the_budget_is_of_all_rounds_together(self, device: DeviceHome) -> None:
        data = answer_order(order(**PRIVATE), weight_bytes(), device, KITCHEN, ledger_of(device))
        answer = read(data)
        assert isinstance(answer, Answer)
        assert answer.report.privacy is not None
        device.policy.write_text(f"maximum_epsilon = {1.01 * answer.report.privacy.epsilon}\n")
        data = answer_order(order(round=2, **PRIVATE), weight_bytes(), device, KITCHEN, ledger_of(device))
        assert refused(data) == "FA-4034"


class TestBudget:
    """Who decides is the owner, who is told is the coordinator, and how is in an envelope."""

    def sealed(self, made: Made, number: int, **changes: object) -> Answer | Refusal:
        identity = made.identity
        outlet = SealedOutlet(lambda: identity, Ring(identity.trust), SetClock())  # type: ignore[arg-type]
        ledger = made.ledger

        def work(plan: bytes, weights: bytes) -> bytes:
            return answer_order(plan, weights, made.home, made.device, ledger)

        facts = PRIVATE | {"base": sha256(weight_bytes()), "holdout": 0.0, "round": number} | changes
        answering = Answering(made.home, outlet, ledger, work)
        data = answering.answer(made.authority.signed_plan(**facts), weight_bytes())
        envelope = parse_envelope(data, 100_000)
        signer = raw_public(identity.signing_key)
        return read(open_envelope(envelope, signer, made.authority.opening))

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"privacy": {"noise_multiplier": 1.0, "delta": 0.09}},
            {"privacy": {"noise_multiplier": 1.0}, "recipe": {"steps": 1, "batch_size": 6}},
            {"run": "11" * 8},
            {"cohort": 10**6},
        ],
    )
    def test_at_99_per_cent_no_plan_crosses_it(self, made: Made, changes: dict[str, object]) -> None:
        first = self.sealed(made, 1)
        assert isinstance(first, Answer)
        assert first.report.privacy is not None
        made.home.policy.write_text(f"maximum_epsilon = {first.report.privacy.epsilon / 0.99}\n")
        before = made.ledger.account().steps
        refusal = self.sealed(made, 2, **changes)
        assert isinstance(refusal, Refusal)
        assert refusal.code == "FA-4034"
        assert made.ledger.account().steps == before


class TestTold:
    """What a report of a private training tells beside its cost."""

    def report(self, device: DeviceHome, units: int) -> Report:
        changes = {"privacy": {"noise_multiplier": 1.0, "units": units}}
        recipe = {"epochs": 3, "batch_size": 2}
        plan = order(**PRIVATE | changes | {"recipe": recipe})
        answer = read(answer_order(plan, weight_bytes(), device, KITCHEN, ledger_of(device)))
        assert isinstance(answer, Answer)
        return answer.report

    def test_nothing_of_how_many_clips_there_are_how_many_are_damaged_and_how_long_it_took(
        self, device: DeviceHome
    ) -> None:
        many = self.report(device, units=4)
        (device.clips / "high" / "0.flac").write_bytes(b"not a sound")
        (device.clips / "low" / "0.flac").unlink()
        assert canonical(self.report(device, units=4)) == canonical(many)
        assert (many.clips, many.skipped, many.seconds, many.loss) == (4, 0, 0.0, 0.0)
        assert many.privacy is not None
        assert (many.privacy.sampling_rate, many.privacy.steps) == (0.5, 6)

    def test_else_the_number_of_clips_and_no_more(self, device: DeviceHome) -> None:
        report = self.report(device, units=0)
        assert (report.clips, report.skipped, report.seconds, report.loss) == (6, 0, 0.0, 0.0)


ORDER_CODES = {"damaged": "FA-2007", "none": "FA-2002", "disk": "FA-8001"}


@pytest.mark.parametrize("fault", ORDER_CODES)
def test_no_file_and_no_speaker_is_named_to_the_coordinator(
    device: DeviceHome, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    for file in device.clips.glob("*/*.flac"):
        file.unlink()
    if fault == "damaged":
        (device.clips / "high" / "Alice_0123.flac").write_bytes(b"not a sound")
    if fault == "disk":
        soundfile.write(device.clips / "high" / "Alice_0123.flac", [0.1, -0.1] * 2000, 16_000)
        device.cache.write_text("a file in the place of the folder")
    refusal = read(answer_order(order(), weight_bytes(), device, KITCHEN, ledger_of(device)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == ORDER_CODES[fault]
    assert refusal.reason
    for secret in ("Alice", str(device.root), "/"):
        assert secret not in refusal.reason
    # Its owner is told everything.
    assert str(device.root) in caplog.text
    assert ("Alice" in caplog.text) == (fault == "damaged")
