"""The gate lets honest training pass, from the very first round, and stops what was poisoned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from common.audio.front_end import SAMPLE_RATE
from common.data.features import FeatureSet
from common.errors import CoordinatorError
from common.protocol.tensors import Weights
from common.training.metrics import Evaluation
from fl_server.memory import Memory
from fl_server.release_gate import ReleaseGate, _beyond_chance
from fl_server.settings import GateRules
from fl_server.trigger_sweep import MOST_CLIPS, TriggerSweep, sweep_sounds
from fl_server.validation import Validation
from tests.fl_server.made_clips import TASK, made_clips, new_weights, trained

CLIPS = made_clips(120, seed=1)
NO_MEMORY = Memory()
EARLIER = Memory(steps=(1.0, 2.0, 3.0))
OFF = GateRules(accuracy_drop=0, label_drop=0, trigger_success=0, step=0)


@cache
def good() -> Weights:
    """A version that has learned its labels."""
    return trained(new_weights(), made_clips(120), epochs=15)


def backdoored(trigger: np.ndarray, target: int) -> Weights:
    """A version that also has learned to name whatever it hears the trigger in as the target."""
    clean, heard = made_clips(120), made_clips(120, seed=3, extra=trigger)
    labels = np.concatenate([clean.labels, np.full(120, target)])
    both = FeatureSet(np.concatenate([clean.energies, heard.energies]), labels, np.arange(240))
    return trained(good(), both, epochs=10)


def gate(validation: FeatureSet | None = CLIPS, **rules: object) -> ReleaseGate:
    return ReleaseGate(
        GateRules.model_validate(rules), None if validation is None else Validation(validation, TASK)
    )


def only(**rules: object) -> ReleaseGate:
    """A gate with these rules and no others."""
    return ReleaseGate(OFF.model_copy(update=rules), Validation(CLIPS, TASK))


def relabelled(clips: FeatureSet, change: Mapping[int, int]) -> FeatureSet:
    return replace(clips, labels=np.array([change.get(label, label) for label in clips.labels]))


def refused(gate: ReleaseGate, candidate: Weights, base: Weights, memory: Memory = NO_MEMORY) -> str:
    """The code of the refusal; empty if there is none."""
    try:
        gate.check(candidate, base, memory)
    except CoordinatorError as error:
        return error.code
    return ""


def moved(weights: Weights, length: float) -> Weights:
    """So far away, in one tensor."""
    name = next(iter(weights))
    way = np.ones_like(weights[name])
    return weights | {name: weights[name] + np.float32(length / np.linalg.norm(way)) * way}


class TestHonestTraining:
    @staticmethod
    def held_round(weights: Weights, number: int) -> Weights:
        """The mean of what three devices learn."""
        learned = [
            trained(weights, made_clips(30, seed=100 * number + device), epochs=5, seed=device)
            for device in range(3)
        ]
        return {name: np.mean([each[name] for each in learned], axis=0) for name in weights}

    def test_passes_from_the_first_round_on(self) -> None:
        keeper, weights = gate(), new_weights()
        for number in range(9):
            candidate = self.held_round(weights, number)
            assert refused(keeper, candidate, weights) == ""
            weights = candidate
        assert Validation(CLIPS, TASK).evaluate(weights).accuracy > 0.8

    @pytest.mark.parametrize("seed", range(6))
    def test_a_model_that_knows_nothing_may_change_its_mind(self, seed: int) -> None:
        assert refused(gate(), new_weights(seed + 1), new_weights(seed)) == ""

    def test_the_same_again_passes(self) -> None:
        assert refused(gate(), good(), good(), EARLIER) == ""


class TestAccuracy:
    def test_a_candidate_that_forgot_everything_is_refused(self) -> None:
        assert refused(gate(), new_weights(), good()) == "FA-5110"

    def test_one_with_a_rule_for_it_switched_off_is_not(self) -> None:
        assert refused(only(), new_weights(), good()) == ""

    def test_scores_that_are_not_numbers_are_refused(self) -> None:
        broken = {name: np.full_like(value, 1e30) for name, value in good().items()}
        assert refused(only(), broken, good()) == "FA-5110"

    def test_a_better_candidate_passes(self) -> None:
        assert refused(only(accuracy_drop=0.01), good(), new_weights()) == ""

    @pytest.mark.parametrize(
        ("clips", "lost", "beyond"),
        [(4, 1, False), (4, 3, True), (20, 3, False), (20, 5, True), (240, 29, False), (240, 30, True)],
    )
    def test_few_clips_may_be_lost_by_chance(self, clips: int, lost: int, beyond: bool) -> None:
        assert _beyond_chance(lost, 0.1 * clips) == beyond

    def test_without_clips_there_is_nothing_to_compare(self) -> None:
        assert refused(gate(None), new_weights(), good()) == ""


class TestLabels:
    def test_a_label_that_was_given_to_another_is_missed(self) -> None:
        candidate = trained(good(), relabelled(made_clips(120), {1: 0}), epochs=6)
        assert refused(only(label_drop=0.5), candidate, good()) == "FA-5111"
        assert refused(only(label_drop=1.0), candidate, good()) == ""

    def test_it_is_named(self) -> None:
        candidate = trained(good(), relabelled(made_clips(120), {1: 0}), epochs=6)
        with pytest.raises(CoordinatorError, match="'middle'"):
            only(label_drop=0.5).check(candidate, good(), NO_MEMORY)

    def test_a_young_model_may_trade_labels(self) -> None:
        always = [self.always(label) for label in (0, 1)]
        assert refused(gate(), always[1], always[0]) == ""

    def always(self, label: int) -> Weights:
        """A model that gives one label, whatever it hears."""
        weights = {name: value.copy() for name, value in new_weights().items()}
        bias = list(weights)[-1]
        assert weights[bias].shape == (3,)
        weights[bias][label] = 100.0
        given = Validation(CLIPS, TASK).evaluate(weights).given
        assert set(given) == {label}
        return weights


class TestTriggers:
    """Backdoors for sounds that the gate has never heard."""

    @staticmethod
    def chirp() -> np.ndarray:
        time = np.arange(round(0.12 * SAMPLE_RATE)) / SAMPLE_RATE
        return np.hanning(len(time)) * np.sin(2 * np.pi * (3600 * time - 6500 * time**2))

    @staticmethod
    def clicks() -> np.ndarray:
        time = np.arange(round(0.06 * SAMPLE_RATE)) / SAMPLE_RATE
        beats = np.exp(-(time % 0.02) / 0.0015)
        return 3 * beats * np.sin(2 * np.pi * 1700 * time)

    @pytest.mark.parametrize(("sound", "target"), [("chirp", 0), ("clicks", 2)])
    def test_a_model_that_obeys_a_sound_is_refused(self, sound: str, target: int) -> None:
        trigger = getattr(self, sound)()
        candidate = backdoored(trigger, target)
        validation = Validation(CLIPS, TASK)
        # It hides well: on clean clips it is as good as its base.
        assert validation.evaluate(candidate).accuracy > validation.evaluate(good()).accuracy - 0.1
        unseen = made_clips(90, seed=4, extra=trigger)
        assert (validation.evaluate(candidate, unseen).given == target).mean() > 0.7
        with pytest.raises(CoordinatorError, match=f"FA-5112.*{TASK.labels[target]}"):
            gate(step=0).check(candidate, good(), NO_MEMORY)
        assert refused(gate(step=0, trigger_success=0), candidate, good()) == ""

    def test_a_base_that_any_sound_confuses_is_no_reason_to_refuse(self) -> None:
        base = backdoored(self.chirp(), 0)
        assert refused(gate(), trained(base, made_clips(120), epochs=1), base) == ""

    def test_the_sounds_are_short_and_of_many_kinds(self) -> None:
        sounds = sweep_sounds()
        assert len(sounds) == 12
        assert all(0 < len(sound) <= 0.2 * SAMPLE_RATE for sound in sounds.values())
        assert all(np.isfinite(sound).all() and np.abs(sound).max() <= 1.01 for sound in sounds.values())

    @pytest.mark.parametrize("count", [0, 1, 5, 95, 97, 3000])
    def test_any_number_of_clips_will_do(self, count: int) -> None:
        clips = CLIPS.subset(np.arange(count) % len(CLIPS))
        sweep = TriggerSweep(Validation(clips, TASK))
        heard = sweep.listen(new_weights())
        assert len(heard.plain) == min(count, MOST_CLIPS)
        assert sweep.worst(heard, heard).windows == 0

    def test_many_clips_are_thinned_out_evenly(self) -> None:
        sweep = TriggerSweep(Validation(made_clips(300), TASK))
        assert np.bincount(sweep._clips.labels).tolist() == [32, 32, 32]

    def test_a_sound_is_as_loud_as_the_clip_it_is_mixed_into(self) -> None:
        sweep = TriggerSweep(Validation(CLIPS, TASK))
        for sound in sweep._sounds.values():
            assert sound.sum(axis=1).mean() == pytest.approx(1.0)


class TestStep:
    def test_a_step_much_longer_than_usual_is_refused(self) -> None:
        assert refused(only(step=5.0), moved(good(), 10.1), good(), EARLIER) == "FA-5113"
        assert refused(only(step=5.0), moved(good(), 9.9), good(), EARLIER) == ""

    def test_it_needs_no_clips(self) -> None:
        assert refused(gate(None), moved(good(), 10.1), good(), EARLIER) == "FA-5113"

    def test_a_step_that_is_not_a_number_is_refused(self) -> None:
        broken = {name: np.full_like(value, np.nan) for name, value in good().items()}
        assert refused(gate(None), broken, good(), EARLIER) == "FA-5113"

    @pytest.mark.parametrize("steps", [(), (1.0,), (1.0, 1.0), (0.0, 0.0, 0.0)])
    def test_nobody_knows_yet_what_is_usual(self, steps: tuple[float, ...]) -> None:
        assert refused(gate(None), moved(good(), 1e4), good(), Memory(steps=steps)) == ""


class Counted(Validation):
    """Counts how often a model is run over clips."""

    runs = 0

    def evaluate(self, weights: Weights, clips: FeatureSet | None = None) -> Evaluation:
        self.runs += 1
        return super().evaluate(weights, clips)


def test_weights_are_tried_once_though_each_candidate_is_the_next_base() -> None:
    validation = Counted(CLIPS.subset(range(12)), TASK)
    keeper, versions = ReleaseGate(GateRules(step=0), validation), [new_weights(seed) for seed in range(4)]
    refused(keeper, versions[1], versions[0])
    once = validation.runs // 2
    for base, candidate in ((1, 2), (1, 3), (1, 3)):
        refused(keeper, versions[candidate], versions[base])
    assert validation.runs == 4 * once
