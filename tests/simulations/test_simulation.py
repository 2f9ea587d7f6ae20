"""Rounds of virtual devices: every algorithm, who is late, who attacks, what is spent, what is void."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from common.errors import ConfigError, SimulationError
from common.privacy.accounting import epsilon_of
from common.protocol.algorithms import AlgorithmName
from simulations.checkpoint import Checkpoint
from simulations.conclusion import conclude, flattened
from simulations.scenario import AttackName, Scenario
from tests.simulations.made_pool import PLAIN_MEAN, SCAFFOLD, SGD, digest, quick, started

PRIVATE = {"noise_multiplier": 1.0, "delta": 1e-3, "units": 0}
EVERYBODY = 6


def rounds(scenario: Scenario, folder: Path, cache: Path, count: int = 2, **how: object) -> Checkpoint:
    simulation, _, at = started(scenario, folder, cache, **how)  # type: ignore[arg-type]
    for _ in range(count):
        at = simulation.after(at)
    return at


def _leaving(folder: Path, count: int) -> dict[str, object]:
    """One device is late, so a round lasts until 600 s; by then `count` of all six have gone."""
    stay = [f"{device},0,{300 if device < count else 1e6}" for device in range(EVERYBODY)]
    path = folder / "trace.csv"
    path.write_text("\n".join(["device,start,end", *stay, "nobody,0,1e6"]))
    return {"trace": path, "stragglers": 0.17, "straggler_factor": 1e4, "seconds_per_clip": 1.0}


class TestRounds:
    @pytest.mark.parametrize("name", get_args(AlgorithmName))
    def test_every_algorithm_learns(self, name: str, small: Scenario, tmp_path: Path, cache: Path) -> None:
        scenario = quick(small, recipe=SGD | {"algorithm": name}, aggregation=PLAIN_MEAN)
        simulation, _, start = started(scenario, tmp_path, cache)
        first = simulation.after(start)
        second = simulation.after(first)
        assert len({digest(at.weights) for at in (start, first, second)}) == 3
        assert [held.participants for held in second.rounds] == [EVERYBODY, EVERYBODY]
        assert second.facts.version == 2
        devices = conclude(simulation, second, interrupted=False).devices
        personal = name in {"fedper", "fedrep"}
        assert len(devices) == EVERYBODY
        assert all((device.correct_shared is not None) == personal for device in devices)

    def test_the_order_of_answers_changes_nothing(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        scenario = quick(small, attack={"kind": "alie", "share": 0.3}, **SCAFFOLD)
        ends = [
            rounds(scenario, tmp_path / str(seed), cache, rng=np.random.default_rng(seed))
            for seed in range(3)
        ]
        assert len({digest(at.weights) for at in ends}) == 1
        assert len({at.memory.encode() for at in ends}) == 1

    def test_another_seed_is_another_run(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        ends = [rounds(quick(small), tmp_path / str(seed), cache, seed=seed) for seed in (0, 1)]
        assert digest(ends[0].weights) != digest(ends[1].weights)

    def test_a_cohort_is_asked_and_nobody_else(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        scenario = quick(small, rounds={"cohort": 2, "evaluate": False})
        simulation, pool, at = started(scenario, tmp_path, cache)
        for _ in range(4):
            at = simulation.after(at)
        asked = [{job.device for job in jobs} for jobs in pool.jobs]
        assert [len(devices) for devices in asked] == [2] * 4
        assert len(set.union(*asked)) > 2
        assert [held.cohort for held in at.rounds] == [2] * 4

    def test_what_is_tested_when(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        scenario = quick(small, evaluate_every=2, number_of_rounds=5)
        at = rounds(scenario, tmp_path, cache, count=5)
        losses = [held.loss for held in at.rounds]
        assert losses[0] == at.facts.initial.loss
        assert losses[1] == losses[2] != losses[3]
        assert losses[4] != losses[3]

    def test_the_last_version_is_tested_whatever_comes_after_it(
        self, small: Scenario, tmp_path: Path, cache: Path
    ) -> None:
        """Round 1 makes a version and is not tested; round 2, the last, is void."""
        scenario = quick(
            small,
            evaluate_every=5,
            number_of_rounds=2,
            attack={"kind": "backdoor", "share": 0.2},
            behaviour=_leaving(tmp_path, 6),
            rounds={"min_devices": 6, "wait_seconds": 100.0, "evaluate": False},
        )
        simulation, _, start = started(scenario, tmp_path, cache)
        first = simulation.after(start)
        assert (first.rounds[0].void, first.facts.tested) == (None, start.facts.initial)
        expected = simulation.judge.test(first.weights)
        for at in (first, simulation.after(first)):
            results = conclude(simulation, at, interrupted=True)
            assert results.final.accuracy_unseen == expected.accuracy
            assert results.attack_success == expected.attack_success is not None
        assert (at.rounds[1].void, at.rounds[1].loss) == ("FA-5001", expected.loss)
        assert at.rounds[1].accuracy_devices is None

    def test_attackers_who_are_nobody(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        scenario = quick(small, attack={"kind": "alie", "share": 0.08})
        with pytest.raises(SimulationError, match=r"FA-9204.*0\.083"):
            started(scenario, tmp_path, cache)

    def test_a_rule_that_can_work_in_no_round(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        with pytest.raises(ConfigError, match="FA-6041"):
            started(quick(small, aggregation={"rule": "trust"}), tmp_path, cache)
        with pytest.raises(ConfigError, match="FA-6040"):
            started(quick(small, aggregation={"rule": "krum"}, rounds={"cohort": 2}), tmp_path, cache)

    def test_a_rule_that_has_too_few_this_time(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        scenario = quick(
            small,
            aggregation={"rule": "krum"},
            behaviour=_leaving(tmp_path, 4),
            rounds={"wait_seconds": 30.0},
        )
        simulation, _, at = started(scenario, tmp_path, cache)
        first = simulation.after(at)
        second = simulation.after(first)
        assert [held.void for held in second.rounds] == [None, "FA-6040"]
        assert second.facts.clock == first.facts.clock + 30.0

    def test_how_much_comes_up_is_the_same_on_any_machine(
        self, small: Scenario, tmp_path: Path, cache: Path
    ) -> None:
        ends = [rounds(quick(small), tmp_path / name, cache) for name in ("a", "b")]
        first, second = ([held.bytes_up for held in at.rounds] for at in ends)
        assert first == second


class TestBehaviour:
    def test_devices_that_never_answer_are_counted(
        self, small: Scenario, tmp_path: Path, cache: Path
    ) -> None:
        scenario = quick(small, behaviour={"dropout": 0.5}, rounds={"answer_seconds": 30.0})
        simulation, pool, at = started(scenario, tmp_path, cache)
        while not at.rounds or not 0 < at.rounds[-1].dropped < EVERYBODY:
            at = simulation.after(at)
        held = at.rounds[-1]
        assert held.participants == EVERYBODY - held.dropped
        assert held.failed == held.dropped
        trained = [jobs for jobs in pool.jobs if len(jobs) == held.participants][-1]
        assert len(trained) == held.participants
        assert held.clock_seconds - (at.rounds[-2].clock_seconds if len(at.rounds) > 1 else 0) >= 30.0

    def test_the_slow_are_late(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        scenario = quick(
            small,
            behaviour={"stragglers": 0.5, "straggler_factor": 1e4, "seconds_per_clip": 1.0},
            rounds={"answer_seconds": 60.0, "evaluate": False},
        )
        held = rounds(scenario, tmp_path, cache, count=1).rounds[0]
        assert (held.late, held.dropped, held.participants) == (3, 0, 3)
        assert held.clock_seconds == 60.0

    def test_a_round_lasts_as_long_as_its_slowest_device(
        self, small: Scenario, tmp_path: Path, cache: Path
    ) -> None:
        scenario = quick(small, behaviour={"seconds_per_clip": 2.0}, rounds={"evaluate": False})
        at = rounds(scenario, tmp_path, cache, count=2)
        clips = scenario.recipe.batch_size * (scenario.recipe.steps or 0)
        first, second = (held.clock_seconds for held in at.rounds)
        assert 2.0 * clips < first < 2.0 * clips + 1
        assert second == pytest.approx(2 * first)

    def test_without_enough_devices_a_round_is_void(
        self, small: Scenario, tmp_path: Path, cache: Path
    ) -> None:
        scenario = quick(small, rounds={"min_devices": 7, "wait_seconds": 50.0})
        simulation, _, start = started(scenario, tmp_path, cache)
        at = simulation.after(start)
        assert digest(at.weights) == digest(start.weights)
        assert (at.rounds[0].void, at.rounds[0].version, at.facts.version) == ("FA-5001", 0, 0)
        assert at.facts.clock == 50.0

    def test_too_few_answers_make_a_round_void(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        scenario = quick(small, behaviour={"dropout": 0.9}, rounds={"min_answers": 6})
        at = rounds(scenario, tmp_path, cache, count=1)
        assert at.rounds[0].void == "FA-5004"
        assert at.facts.round == 1


class TestAttacks:
    @pytest.mark.parametrize("kind", get_args(AttackName))
    def test_attackers_change_what_comes_out(
        self, kind: str, small: Scenario, tmp_path: Path, cache: Path
    ) -> None:
        honest = rounds(quick(small, aggregation=PLAIN_MEAN), tmp_path / "honest", cache)
        scenario = quick(small, aggregation=PLAIN_MEAN, attack={"kind": kind, "share": 0.4})
        simulation, pool, at = started(scenario, tmp_path / kind, cache)
        at = simulation.after(simulation.after(at))
        assert (digest(at.weights) == digest(honest.weights)) == (kind == "none")
        assert [held.participants for held in at.rounds] == [EVERYBODY, EVERYBODY]
        attacking = {job.device for job in pool.jobs[0] if job.attacks}
        assert attacking == simulation.attackers
        assert len(attacking) == (0 if kind == "none" else 2)
        assert (at.rounds[-1].attack_success is not None) == (kind == "backdoor")

    def test_they_wait_for_their_round(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        honest = rounds(quick(small), tmp_path / "honest", cache, count=1)
        scenario = quick(small, attack={"kind": "sign-flip", "from_round": 2})
        simulation, _, start = started(scenario, tmp_path / "attacked", cache)
        first = simulation.after(start)
        assert digest(first.weights) == digest(honest.weights)
        alone = rounds(quick(small), tmp_path / "alone", cache, count=2)
        assert digest(simulation.after(first).weights) != digest(alone.weights)


class TestPrivacy:
    def test_what_is_spent_is_added_up(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        scenario = quick(small, privacy=PRIVATE)
        simulation, _, at = started(scenario, tmp_path, cache)
        for _ in range(3):
            at = simulation.after(at)
        # Six clips of one window each on every device, batches of two, two steps a round.
        expected = [epsilon_of({(2 / 6, 1.0): 2 * count}, 1e-3) for count in (1, 2, 3)]
        assert [held.epsilon for held in at.rounds] == pytest.approx(expected)
        results = conclude(simulation, at, interrupted=False)
        assert results.final.epsilon == pytest.approx(expected[-1])
        assert results.noise == "operating system"
        assert results.devices == ()

    def test_noise_repeats_only_if_it_is_seeded(self, small: Scenario, tmp_path: Path, cache: Path) -> None:
        def end(seeded: bool, folder: str) -> str:
            scenario = quick(small, privacy=PRIVATE, seeded_noise=seeded)
            return digest(rounds(scenario, tmp_path / folder, cache).weights)

        assert end(True, "a") == end(True, "b")
        assert end(False, "c") != end(False, "d")


def test_the_configuration_is_stated_flat(small: Scenario) -> None:
    flat = flattened(quick(small, rounds={"cohort": 3}))
    assert flat["rounds.cohort"] == 3
    assert flat["task.width"] == 4
    assert flat["privacy"] is None
    assert all(isinstance(value, str | int | float | bool | None) for value in flat.values())
