"""What a device keeps between two trainings: whose it is, that it lasts, what happens without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.algorithms.registry import ALGORITHMS
from common.data.clips import Clips
from common.data.features import load_background, load_features
from common.files import sha256
from common.models.acoustic import HEAD
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.algorithms import AlgorithmName
from common.protocol.answer import Answer, Refusal, decode_answer
from common.protocol.plan import Plan, Privacy, Recipe, parse_plan
from common.protocol.tensors import Weights, decode_weights, encode_weights, schema_of
from common.security.canonical import canonical
from common.security.envelope import open_envelope, parse_envelope
from common.security.statement import SIGNATURE_BYTES, raw_public
from common.task import Task
from common.training.local import Done, LocalTrainer
from fl_client.answers import Answering
from fl_client.home import DeviceHome
from fl_client.identity import ledger_key
from fl_client.kept import load_kept, save_kept
from fl_client.orders import answer_order
from fl_client.sealing import SealedOutlet
from fl_client.training_process import TrainingProcess
from tests.fl_client.made_identity import Authority, Made, ledger_of
from tests.fl_client.power_cut import PowerCut, crash_at
from tests.fl_client.test_answers import Ring, SetClock
from tests.processes import ROOT, SMALL

TASK = Task.model_validate(SMALL["task"])
KITCHEN = "0123456789abcdef" * 2
AUTHORITY = Authority.make()
RECIPES: dict[AlgorithmName, Recipe] = {
    "fedavg": Recipe(steps=2, batch_size=2),
    "scaffold": Recipe(
        algorithm="scaffold", optimizer="sgd", momentum=0.0, gradient_clip=0.0, steps=2, batch_size=2
    ),
    "fedper": Recipe(algorithm="fedper", steps=2, batch_size=2),
    "fedrep": Recipe(algorithm="fedrep", steps=2, batch_size=2),
}
KEEPING: tuple[AlgorithmName, ...] = ("scaffold", "fedper", "fedrep")


@cache
def start_weights() -> Weights:
    return get_weights(build_model(TASK, torch.Generator().manual_seed(0)))


def kept_schema(algorithm: AlgorithmName) -> dict[str, tuple[int, ...]]:
    return ALGORITHMS[algorithm].kept_schema(schema_of(start_weights()))


@cache
def tensors(algorithm: AlgorithmName) -> bytes:
    """The tensors of an order, as they are sent."""
    return encode_weights(ALGORITHMS[algorithm].order(start_weights(), {}))


def order(algorithm: AlgorithmName, number: int = 1, **changes: object) -> bytes:
    facts = {"recipe": RECIPES[algorithm], "base": sha256(tensors(algorithm)), "holdout": 0.0}
    return canonical(AUTHORITY.plan_for(**facts | {"round": number} | changes))


def obey(device: DeviceHome, algorithm: AlgorithmName, number: int = 1, **changes: object) -> Answer:
    data = answer_order(
        order(algorithm, number, **changes), tensors(algorithm), device, KITCHEN, ledger_of(device)
    )
    return read(data, algorithm)


def read(data: bytes, algorithm: AlgorithmName) -> Answer:
    answer = decode_answer(data, ALGORITHMS[algorithm].answer_schema(schema_of(start_weights())))
    assert isinstance(answer, Answer), answer
    return answer


def path_of(device: DeviceHome) -> Path:
    return device.kept / f"{AUTHORITY.pin}.safetensors"


def kept(device: DeviceHome, algorithm: AlgorithmName) -> Weights:
    return decode_weights(path_of(device).read_bytes(), kept_schema(algorithm))


def expected(device: DeviceHome, plan: Plan, of_before: Weights) -> Done:
    """What `plan` comes to with what was kept before it, without any file."""
    clips = Clips.load(device.clips)
    data, background = load_features(clips, TASK, device.cache), device.cache / "background"
    given = decode_weights(
        tensors(plan.recipe.algorithm),
        ALGORITHMS[plan.recipe.algorithm].order_schema(schema_of(start_weights())),
    )
    noise = load_background(device.clips, TASK, background)
    return LocalTrainer(TASK).answer(plan, given, data, (), KITCHEN, kept=of_before, noise=noise)


def same(first: Weights, second: Weights) -> bool:
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("algorithm", KEEPING)
def test_a_training_goes_on_from_what_the_last_one_kept(device: DeviceHome, algorithm: AlgorithmName) -> None:
    obey(device, algorithm)
    first = kept(device, algorithm)
    assert (path_of(device).stat().st_mode & 0o777, device.kept.stat().st_mode & 0o777) == (0o600, 0o700)
    again = expected(device, parse_plan(order(algorithm, 2)), first)
    answer = obey(device, algorithm, 2)
    assert again.answer is not None
    assert same(answer.delta, again.answer)
    assert same(kept(device, algorithm), again.kept)
    assert not same(kept(device, algorithm), first)


def test_it_outlives_the_training_process(device: DeviceHome) -> None:
    def train_in_a_process(number: int) -> Answer:
        training = TrainingProcess(device, KITCHEN, ledger_key(device, None), idle_seconds=300)
        try:
            return read(training.answer(order("fedper", number), tensors("fedper")), "fedper")
        finally:
            training.close()

    train_in_a_process(1)
    again = expected(device, parse_plan(order("fedper", 2)), kept(device, "fedper"))
    assert again.answer is not None
    assert same(train_in_a_process(2).delta, again.answer)


def test_an_evaluation_hears_with_it_and_leaves_it(device: DeviceHome) -> None:
    before = obey(device, "fedper", kind="evaluate", holdout=0.5).report.loss
    assert not path_of(device).exists()
    obey(device, "fedper")
    data = path_of(device).read_bytes()
    assert obey(device, "fedper", kind="evaluate", holdout=0.5).report.loss != before
    assert path_of(device).read_bytes() == data


def test_each_coordinator_has_its_own(device: DeviceHome) -> None:
    obey(device, "fedper")
    other, schema = "ab" * 32, kept_schema("fedper")
    assert load_kept(device.kept, other, schema, private=False) == {}
    mine = kept(device, "fedper")
    save_kept(device.kept, other, {name: value + 1 for name, value in mine.items()}, private=False)
    assert same(load_kept(device.kept, AUTHORITY.pin, schema, private=False), mine)
    save_kept(device.kept, other, {}, private=False)
    assert same(load_kept(device.kept, AUTHORITY.pin, schema, private=False), mine)


PRIVATE = {"privacy": Privacy(noise_multiplier=1.0, delta=1e-3)}


def test_what_an_exact_training_kept_does_not_enter_a_private_one(
    device: DeviceHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[Weights] = []
    real = LocalTrainer.answer

    def answer(self: LocalTrainer, *facts: Any, kept: Weights, **more: Any) -> Done:
        entered.append(kept)
        return real(self, *facts, kept=kept, **more)

    monkeypatch.setattr(LocalTrainer, "answer", answer)
    private_file = path_of(device).with_suffix(".private.safetensors")

    def files() -> list[Path]:
        return sorted(device.kept.iterdir())

    obey(device, "fedper")
    assert files() == [path_of(device)]
    obey(device, "fedper", 2, **PRIVATE)
    assert entered[-1] == {}
    assert files() == [private_file]
    private = decode_weights(private_file.read_bytes(), kept_schema("fedper"))
    # A private one, and an exact one too, go on from a private one.
    obey(device, "fedper", 3, **PRIVATE)
    assert same(entered[-1], private)
    private = decode_weights(private_file.read_bytes(), kept_schema("fedper"))
    obey(device, "fedper", 4)
    assert same(entered[-1], private)
    assert files() == [path_of(device)]
    obey(device, "fedavg", 5)
    assert files() == []


def test_an_algorithm_that_keeps_nothing_leaves_nothing(device: DeviceHome) -> None:
    obey(device, "fedper")
    obey(device, "fedavg", 2)
    assert list(device.kept.iterdir()) == []
    obey(device, "fedavg", 3)


HEADS = {name: np.ones(shape, np.float32) for name, shape in kept_schema("fedper").items()}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[:-3],
    "not a number": lambda data: data[:-4] + np.float32(np.nan).tobytes(),
    "of another model": lambda data: encode_weights({name: value[:1] for name, value in HEADS.items()}),
    "of another algorithm": lambda data: encode_weights({"control.bias": np.ones(3, np.float32)}),
    "a tensor less": lambda data: encode_weights({HEAD + "bias": HEADS[HEAD + "bias"]}),
    "empty": lambda data: b"",
    "noise": lambda data: os.urandom(200),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_what_does_not_fit_is_passed_over_and_replaced(
    device: DeviceHome, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = obey(device, "fedper").delta
    whole = path_of(device).read_bytes()
    path_of(device).write_bytes(DAMAGES[how](whole))
    assert same(obey(device, "fedper").delta, fresh)
    assert "is not used" in caplog.text
    assert path_of(device).read_bytes() == whole


def test_without_a_disk_nothing_is_answered(device: DeviceHome) -> None:
    device.kept.write_text("a file in the place of the folder")
    refusal = decode_answer(
        answer_order(order("fedper"), tensors("fedper"), device, KITCHEN, ledger_of(device)), {}
    )
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FA-8001"


def test_a_power_cut_while_it_is_written_leaves_the_old(
    device: DeviceHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    obey(device, "fedper")
    before = path_of(device).read_bytes()
    with monkeypatch.context() as power:
        # The one file before it: that an exact answer is given.
        crash_at(power, 2, device)
        with pytest.raises(PowerCut):
            obey(device, "fedper", 2)
    assert path_of(device).read_bytes() == before
    obey(device, "fedper", 3)


class Link:
    """A device's link whose worker is this process."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self._identity = made.identity
        outlet = SealedOutlet(lambda: self._identity, Ring(made.trust), SetClock())  # type: ignore[arg-type]
        self._answering = Answering(
            made.home, outlet, made.ledger, lambda plan, data: work(made.home, plan, data)
        )

    def plan(self, number: int) -> bytes:
        facts = {"recipe": RECIPES["fedper"], "base": sha256(tensors("fedper")), "holdout": 0.0}
        return self.made.authority.signed_plan(**facts, round=number)

    def answer(self, plan: bytes) -> bytes:
        return self._answering.answer(plan, tensors("fedper"))

    def opened(self, sealed: bytes) -> bytes:
        signer = raw_public(self._identity.signing_key)
        return open_envelope(parse_envelope(sealed, 100_000), signer, self.made.authority.opening)

    @property
    def head(self) -> Weights:
        return load_kept(self.made.home.kept, self.made.authority.pin, kept_schema("fedper"), private=False)


def work(home: DeviceHome, plan: bytes, data: bytes) -> bytes:
    return answer_order(plan, data, home, KITCHEN, ledger_of(home))


def test_the_same_plan_again_gets_the_same_bytes_and_trains_nothing(made: Made) -> None:
    link = Link(made)
    plan = link.plan(1)
    sealed, head = link.answer(plan), link.head
    assert Link(made).answer(plan) == sealed
    assert same(link.head, head)


def test_a_crash_between_the_work_and_the_answer(made: Made, tmp_path: Path) -> None:
    """The head has gone on and the coordinator knows nothing of it; the next round goes on from there."""
    link = Link(made)
    plan = link.plan(1)
    (tmp_path / "plan").write_bytes(plan)
    (tmp_path / "tensors").write_bytes(tensors("fedper"))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(made.home.root), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    head = link.head
    assert head
    refusal = decode_answer(link.opened(link.answer(plan)), {})
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FA-4022"
    assert same(link.head, head)
    following = link.plan(2)
    answer = read(link.opened(link.answer(following)), "fedper")
    again = expected(made.home, parse_plan(following[SIGNATURE_BYTES:]), head)
    assert again.answer is not None
    assert answer.report.round == 2
    assert same(link.head, again.kept)


KILLED = """
import os, signal, sys
from pathlib import Path
from fl_client.answers import Answering
from fl_client.home import DeviceHome
from fl_client.identity import Identity
from fl_client.sealing import SealedOutlet
from tests.fl_client.made_identity import ledger_of
from tests.fl_client.test_answers import Ring, SetClock
from tests.fl_client.test_kept import work

home, data = DeviceHome(Path(sys.argv[1])), Path(sys.argv[2])
identity = Identity.load(home, None)

def work_and_die(plan, tensors):
    work(home, plan, tensors)
    os.kill(os.getpid(), signal.SIGKILL)

outlet = SealedOutlet(lambda: identity, Ring(identity.trust), SetClock())
answering = Answering(home, outlet, ledger_of(home), work_and_die)
answering.answer((data / "plan").read_bytes(), (data / "tensors").read_bytes())
"""
