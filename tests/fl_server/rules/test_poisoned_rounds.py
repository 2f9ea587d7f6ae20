"""Whole rounds with attackers among the devices: what the coordinator makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import get_args

import numpy as np
import pytest

from common.errors import CoordinatorError
from common.protocol.answer import encode_answer
from common.protocol.tensors import Row, Schema, Weights, encode_weights, split_row
from fl_server.candidate import Candidate, train_candidate
from fl_server.fleet import Kind
from fl_server.memory import Memory
from fl_server.rounds import Collected, Exchange
from fl_server.settings import Mixing, RuleName, ServerSettings
from tests.fl_server.made_fleet import (
    SCHEMA,
    WEIGHTS,
    Behaviour,
    MadeCoordinator,
    MadeDevice,
    MemoryFleet,
    Order,
)
from tests.fl_server.rules.made_rules import ROBUST, honest_rows, settings_for

DEVICES, ATTACKERS = 10, 2
VALUES = 15


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeCoordinator]:
    made = MadeCoordinator(tmp_path_factory.mktemp("house"), suite=None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def devices(coordinator: MadeCoordinator) -> list[MadeDevice]:
    return [coordinator.enrol(f"device {number}") for number in range(DEVICES)]


class Rounds:
    """Rounds among devices that send given rows, in any order."""

    def __init__(self, coordinator: MadeCoordinator, devices: list[MadeDevice]) -> None:
        self.coordinator, self.devices = coordinator, devices

    def sends(self, device: MadeDevice, row: Row) -> Behaviour:
        def answer(order: Order) -> list[bytes]:
            return [encode_answer(device.report(order.plan), split_row(row, SCHEMA))]

        return answer

    def hold(
        self, settings: ServerSettings, rows: np.ndarray, memory: Memory, order: list[int] | None = None
    ) -> Candidate:
        behaviours = {node: self.sends(self.devices[node], row) for node, row in enumerate(rows)}
        fleet = MemoryFleet(behaviours, order=order)
        self.coordinator.settings = settings

        def draft(kind: Kind, order: Weights, schema: Schema, cohort: Mapping[int, str]) -> Exchange:
            assert schema == SCHEMA
            return self.coordinator.exchange(cohort, kind, weights=encode_weights(order))

        return train_candidate(
            fleet,
            settings,
            WEIGHTS,
            memory,
            dict.fromkeys(range(DEVICES), ""),
            enrolled=DEVICES,
            draft=draft,
            collected=Collected(),
            reference=lambda: rows[ATTACKERS:].mean(axis=0),
        )


@pytest.fixture
def rounds(coordinator: MadeCoordinator, devices: list[MadeDevice]) -> Rounds:
    return Rounds(coordinator, devices)


def step_of(candidate: Candidate) -> Row:
    return np.concatenate([candidate.weights[name].ravel() for name in sorted(SCHEMA)])


def flipped(strength: float, seed: int = 0) -> np.ndarray:
    rows = 0.1 * honest_rows(DEVICES, VALUES, seed, spread=0.5)
    rows[:ATTACKERS] *= -np.float32(strength)
    return rows


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("mixing", get_args(Mixing))
@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_a_fifth_of_the_devices_flips_its_updates_and_hardly_moves_the_result(
    rounds: Rounds, rule: RuleName, mixing: Mixing, strength: float
) -> None:
    rows = flipped(strength)
    honest = rows[ATTACKERS:].mean(axis=0)
    step = step_of(rounds.hold(settings_for(rule, mixing=mixing, clipping=2.0), rows, Memory()))
    # Krum takes one update for all, which is as far from the mean as one device is.
    allowed = 0.7 if rule == "krum" and mixing == "off" else 0.45
    assert np.linalg.norm(step - honest) < allowed * np.linalg.norm(honest)
    assert step @ honest > 0.8 * np.linalg.norm(step) * np.linalg.norm(honest)


def test_a_plain_mean_is_moved(rounds: Rounds) -> None:
    rows = flipped(4.0)
    honest = rows[ATTACKERS:].mean(axis=0)
    step = step_of(rounds.hold(settings_for("mean"), rows, Memory()))
    assert np.linalg.norm(step - honest) > 0.9 * np.linalg.norm(honest)


def test_clipping_halves_what_they_do_to_a_mean(rounds: Rounds) -> None:
    rows = flipped(4.0)
    honest = rows[ATTACKERS:].mean(axis=0)
    steps = [
        step_of(rounds.hold(settings_for("mean", clipping=clipping), rows, Memory()))
        for clipping in (0.0, 1.0)
    ]
    plain, clipped = (np.linalg.norm(step - honest) for step in steps)
    assert clipped < 0.5 * plain


@pytest.mark.parametrize("rule", ["mean", *ROBUST])
def test_whoever_answers_first_the_model_is_the_same_to_the_last_bit(rounds: Rounds, rule: RuleName) -> None:
    rows, chosen = (
        flipped(4.0),
        settings_for(rule, mixing="off" if rule == "mean" else "direction", clipping=2.0),
    )
    order = list(range(DEVICES))
    random.Random(0).shuffle(order)
    first, second = (rounds.hold(chosen, rows, Memory(), order) for order in (None, order))
    assert step_of(first).tobytes() == step_of(second).tobytes()
    assert first.memory.encode() == second.memory.encode()


def test_the_limit_of_a_later_round_comes_from_the_earlier_ones(rounds: Rounds) -> None:
    chosen, memory = settings_for("mean", clipping=2.0), Memory()
    for seed in range(3):
        candidate = rounds.hold(chosen, flipped(4.0, seed), memory)
        memory = candidate.memory
    assert len(memory.norms) == len(memory.steps) == 3
    usual = float(np.median(memory.norms))
    rows = np.zeros((DEVICES, VALUES), np.float32)
    rows[0, 0] = 90.0
    step = step_of(rounds.hold(chosen, rows, memory))
    assert step[0] == pytest.approx(2 * usual / DEVICES, rel=1e-5)


def test_half_of_the_devices_cannot_raise_what_is_remembered(rounds: Rounds) -> None:
    rows = np.zeros((DEVICES, VALUES), np.float32)
    rows[:, 0] = [1.0] * 5 + [50.0] * 5
    assert rounds.hold(settings_for("mean"), rows, Memory()).memory.norms == (1.0,)


def test_too_few_answers_make_the_round_void(rounds: Rounds) -> None:
    with pytest.raises(CoordinatorError, match="FA-5114"):
        rounds.hold(settings_for("median"), flipped(4.0)[:4], Memory(), order=[0, 1, 2, 3])
