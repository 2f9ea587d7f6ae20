"""When devices are online, what an order takes, and that it all follows from the seed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from common.errors import SimulationError
from simulations.behaviour import Outcome, make_behaviour
from simulations.scenario import BehaviourChoice

DEVICES = 500
RARE = 1e-6
"""Chance that a right count lies outside the bounds of a test; seeds are fixed, so it does not change."""


def within_bounds(count: int, trials: int, chance: float) -> bool:
    low, high = binom.ppf([RARE / 2, 1 - RARE / 2], trials, chance)
    return bool(low <= count <= high)


def seconds(choice: BehaviourChoice, devices: int = DEVICES, seed: int = 0) -> np.ndarray:
    behaviour = make_behaviour(choice, devices, seed)
    return np.array([behaviour.outcome(1, device, 100, 0, 0, 0.0).seconds for device in range(devices)])


@given(st.floats(0.01, 1), st.floats(0, 0.99), st.floats(0, 5), st.integers(0, 2**53), st.integers(1, 300))
def test_a_device_does_the_same_whoever_asks_and_when(
    availability: float, dropout: float, spread: float, seed: int, devices: int
) -> None:
    choice = BehaviourChoice(availability=availability, dropout=dropout, speed_spread=spread, stragglers=0.1)
    first, second = (make_behaviour(choice, devices, seed) for _ in range(2))
    online = {number: first.online(number, 0.0) for number in (3, 1, 2)}
    for number in (1, 2, 3):
        assert second.online(number, 1e6 * number) == online[number]
        assert online[number] == sorted(set(online[number]) & set(range(devices)))
    asked = [(number, device) for number in (2, 1) for device in (devices - 1, 0)]
    outcomes = {key: first.outcome(*key, 10, 5, 5, 0.0) for key in asked}
    for key in reversed(asked):
        assert second.outcome(*key, 10, 5, 5, 0.0) == outcomes[key]


def test_by_default_everybody_is_there_and_answers() -> None:
    behaviour = make_behaviour(BehaviourChoice(), 5, 0)
    assert behaviour.online(1, 0.0) == [0, 1, 2, 3, 4]
    assert behaviour.outcome(1, 0, 50, 250_000, 500_000, 0.0) == Outcome(50 * 0.02 + 3, drops=False)


@pytest.mark.parametrize("availability", [0.05, 0.5, 0.9])
def test_as_many_are_online_as_stated(availability: float) -> None:
    behaviour = make_behaviour(BehaviourChoice(availability=availability), DEVICES, 1)
    rounds = [set(behaviour.online(number, 0.0)) for number in range(200)]
    assert within_bounds(sum(map(len, rounds)), 200 * DEVICES, availability)
    # Each device alike, and each round anew.
    for device in range(DEVICES):
        assert within_bounds(sum(device in there for there in rounds), 200, availability)
    both = sum(len(before & after) for before, after in zip(rounds[::2], rounds[1::2], strict=True))
    assert within_bounds(both, 100 * DEVICES, availability**2)


def test_as_many_answers_are_lost_as_stated() -> None:
    behaviour = make_behaviour(BehaviourChoice(dropout=0.2), DEVICES, 2)
    lost = np.array(
        [[behaviour.outcome(n, d, 1, 1, 1, 0.0).drops for d in range(DEVICES)] for n in range(20)]
    )
    assert within_bounds(int(lost.sum()), lost.size, 0.2)
    assert within_bounds(int((lost[::2] & lost[1::2]).sum()), lost.size // 2, 0.04)


def test_speeds_are_log_normal_around_the_usual_device() -> None:
    taken = seconds(BehaviourChoice(speed_spread=0.7, seconds_per_clip=0.05), 2000)
    assert kstest(np.log(taken / 5.0) / 0.7, "norm").pvalue > 1e-3
    assert np.ptp(seconds(BehaviourChoice(speed_spread=0.0))) == 0


def test_a_connection_is_no_faster_for_a_fast_processor() -> None:
    behaviour = make_behaviour(BehaviourChoice(speed_spread=1.0), 2000, 0)
    work = np.log([behaviour.outcome(1, device, 1, 0, 0, 0.0).seconds for device in range(2000)])
    traffic = np.log([behaviour.outcome(1, device, 0, 1, 1, 0.0).seconds for device in range(2000)])
    # The correlation of independent values has a standard deviation of 1 / sqrt(n).
    assert abs(np.corrcoef(work, traffic)[0, 1]) < 5 / math.sqrt(2000)
    assert np.std(traffic) == pytest.approx(1.0, abs=0.1)


def test_so_many_straggle_and_so_much() -> None:
    taken = seconds(BehaviourChoice(stragglers=0.1, straggler_factor=7.0))
    values, counts = np.unique(np.round(taken, 6), return_counts=True)
    assert values.tolist() == [2.0, 14.0]
    assert counts.tolist() == [450, 50]
    assert (taken != seconds(BehaviourChoice(stragglers=0.1, straggler_factor=7.0), seed=1)).any()


@given(st.integers(0, 10_000), st.integers(0, 10**9), st.integers(0, 10**9))
def test_more_work_and_more_bytes_take_longer(clips: int, down: int, up: int) -> None:
    behaviour = make_behaviour(BehaviourChoice(speed_spread=1.0), 3, 0)

    def takes(*order: int) -> float:
        return behaviour.outcome(1, 2, *order, 0.0).seconds

    assert takes(clips, down, up) < min(takes(clips + 1, down, up), takes(clips, down + 1, up))
    assert takes(clips, down, up) == pytest.approx(takes(clips, up, down))


class TestTrace:
    def online(self, path: Path, text: str, clock: float, devices: int = 2) -> list[int]:
        path.write_text("device,start,end\n" + text)
        # The share of rounds says nothing where there is a trace.
        choice = BehaviourChoice(trace=path, availability=0.01)
        return make_behaviour(choice, devices, 0).online(1, clock)

    @pytest.mark.parametrize(
        ("clock", "there"),
        [(0.0, [0]), (9.9, [0]), (10.0, [1]), (19.0, [1]), (20.0, []), (30.0, [0, 1]), (39.9, [0, 1])],
    )
    def test_a_device_is_online_from_its_start_to_its_end(
        self, clock: float, there: list[int], tmp_path: Path
    ) -> None:
        text = "phone,0,10\nwatch,10,20\nwatch,30,40\nphone,30,35\nphone,34,40\n"
        assert self.online(tmp_path / "t.csv", text, clock) == there

    @pytest.mark.parametrize(
        ("device", "clock", "seconds", "answers"),
        [
            (0, 0.0, 10.0, True),
            (0, 0.0, 10.5, False),
            (1, 12.0, 9.0, False),
            # Stretches that touch or overlap are one, across the end of the trace too.
            (0, 31.0, 19.0, True),
            (0, 31.0, 19.5, False),
            (0, 431.0, 19.0, True),
            (0, 15.0, 0.5, False),
            (2, 3.0, 1e9, True),
        ],
    )
    def test_who_goes_offline_never_answers(
        self, device: int, clock: float, seconds: float, answers: bool, tmp_path: Path
    ) -> None:
        text = "phone,0,10\nwatch,10,20\nwatch,30,40\nphone,30,35\nphone,34,40\nsocket,0,40\n"
        (tmp_path / "t.csv").write_text("device,start,end\n" + text)
        choice = BehaviourChoice(trace=tmp_path / "t.csv", seconds_per_clip=1.0)
        outcome = make_behaviour(choice, 3, 0).outcome(1, device, seconds, 0, 0, clock)
        assert outcome == Outcome(seconds, drops=not answers)

    def test_it_begins_anew_after_its_last_end(self, tmp_path: Path) -> None:
        text = "a,0,10\nb,5,20\n"
        for clock in (0.0, 7.0, 15.0):
            once = self.online(tmp_path / "t.csv", text, clock)
            assert self.online(tmp_path / "t.csv", text, clock + 20 * 50) == once

    def test_devices_beyond_the_trace_do_as_those_in_it(self, tmp_path: Path) -> None:
        assert self.online(tmp_path / "t.csv", "a,0,1\nb,1,2\nc,0,2\n", 0.5, devices=8) == [0, 2, 3, 5, 6]
        assert self.online(tmp_path / "t.csv", "a,0,1\nb,1,2\nc,0,2\n", 0.5, devices=1) == [0]

    @given(st.data())
    def test_it_says_what_a_look_at_every_row_says(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        stretch = st.tuples(st.integers(0, 4), st.integers(0, 50), st.integers(1, 30))
        rows = [(d, s, s + length) for d, s, length in data.draw(st.lists(stretch, min_size=1, max_size=12))]
        names = list(dict.fromkeys(row[0] for row in rows))
        clock, devices = data.draw(st.floats(0, 1000)), data.draw(st.integers(1, 12))
        moment = clock % max(end for _, _, end in rows)
        expected = [
            device
            for device in range(devices)
            if any(d == names[device % len(names)] and s <= moment < e for d, s, e in rows)
        ]
        path = tmp_path_factory.mktemp("traces") / "t.csv"
        text = "".join(f"{d},{s},{e}\n" for d, s, e in rows)
        assert self.online(path, text, clock, devices) == expected

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "device,start,end\n",
            "device,start\na,0\n",
            "device,start,end\na,0\n",
            "device,start,end\na,zero,1\n",
            "device,start,end\na,0,1\nb,-1,2\n",
            "device,start,end\na,5,5\n",
            "device,start,end\na,0,inf\n",
            "device,start,end\na,nan,1\n",
        ],
    )
    def test_a_bad_one_is_an_error(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "trace.csv"
        path.write_text(text)
        with pytest.raises(SimulationError, match=r"FA-9103.*trace\.csv"):
            make_behaviour(BehaviourChoice(trace=path), 2, 0)
        with pytest.raises(SimulationError, match="FA-9103"):
            make_behaviour(BehaviourChoice(trace=tmp_path / "none.csv"), 2, 0)
