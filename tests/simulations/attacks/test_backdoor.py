"""The backdoor's sound, where it goes, what it makes of clips, and how its success is counted."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import SAMPLE_RATE, FrontEnd, LogMel, Mfcc, Psd
from common.data.features import FeatureSet
from common.errors import SimulationError
from common.task import Task
from common.training.examples import plain_features
from fl_server.trigger_sweep import sweep_sounds
from simulations.attacks.backdoor import Backdoor, TriggerSuccess, trigger_success
from simulations.attacks.trigger import SOUNDS, add_trigger, trigger_energies
from simulations.scenario import TriggerName
from tests.simulations.attacks.made_data import FRONT_END, TASK, made_clips, made_scene

TRIGGERS = get_args(TriggerName)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def changed(before: FeatureSet, after: FeatureSet) -> np.ndarray:
    """Frames (N, T) whose energies differ."""
    return (before.energies != after.energies).any(axis=2)


@pytest.mark.parametrize("name", TRIGGERS)
class TestSound:
    def test_is_short_and_heard_by_the_front_end(self, name: TriggerName) -> None:
        sound = SOUNDS[name]()
        assert 0.02 < len(sound) / SAMPLE_RATE <= 0.2
        spectrum = np.abs(np.fft.rfft(sound)) ** 2
        hertz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
        audible = (hertz > TASK.front_end.low_hz) & (hertz < TASK.front_end.high_hz)
        assert spectrum[audible].sum() / spectrum.sum() > 0.95

    @pytest.mark.parametrize("front_end", [LogMel(), LogMel(hop=320), Mfcc(), Psd(window=512, hop=512)])
    def test_has_energy_in_every_frame(self, name: TriggerName, front_end: FrontEnd) -> None:
        energies = trigger_energies(name, BatchFrontEnd(front_end))
        assert energies.dtype == np.float32
        assert energies.shape[1] == front_end.bands
        assert (energies.sum(axis=1) > 0).all()

    def test_energies_added_are_those_of_the_sounds_mixed_together(self, name: TriggerName) -> None:
        """Powers add only in expectation, so the mean over many noises is compared."""
        start, length, level = 40, TASK.clip_samples, 0.3
        sound = level * SOUNDS[name]()
        noise = 0.01 * rng().standard_normal((100, length))
        mixed = noise.copy()
        # The first frame that hears anything of a sound hears its first hop.
        first = start * TASK.front_end.hop + TASK.front_end.window - TASK.front_end.hop
        mixed[:, first : first + len(sound)] += sound
        alone, together = (
            FRONT_END.energies(torch.from_numpy(samples.astype(np.float32))).numpy().mean(axis=0)
            for samples in (noise, mixed)
        )
        trigger = trigger_energies(name, FRONT_END) * level**2
        added = (together - alone)[start : start + len(trigger)]
        np.testing.assert_allclose(added, trigger, atol=0.05 * trigger.max())

    def test_only_swept_is_one_that_the_gate_knows(self, name: TriggerName) -> None:
        ours = SOUNDS[name]()
        likeness = [
            np.abs(np.correlate(sound, ours, mode="full")).max()
            / np.linalg.norm(sound)
            / np.linalg.norm(ours)
            for sound in sweep_sounds().values()
        ]
        assert (max(likeness) > 0.99) == (name == "swept")
        assert name == "swept" or max(likeness) < 0.7


class TestAddTrigger:
    @given(st.lists(st.integers(0, 11), unique=True), st.integers(0, 2**32), st.sampled_from(TRIGGERS))
    @settings(max_examples=20)
    def test_is_in_the_windows_named_and_nowhere_else(
        self, windows: list[int], seed: int, name: TriggerName
    ) -> None:
        data, trigger = made_clips(12), trigger_energies(name, FRONT_END)
        heard = add_trigger(data, np.array(windows, np.int64), trigger, rng(seed))
        frames = changed(data, heard)
        assert set(np.flatnonzero(frames.any(axis=1))) == set(windows)
        assert (heard.energies >= data.energies).all()
        assert (frames.sum(axis=1) <= len(trigger)).all()

    def test_sounds_as_loud_as_the_clip(self) -> None:
        data, trigger = made_clips(5), trigger_energies("chirp", FRONT_END)
        quiet = FeatureSet(data.energies * np.float32(1e-4), data.labels, data.clip_index)
        for clips in (data, quiet):
            heard = add_trigger(clips, np.arange(5), trigger, rng())
            added = (heard.energies - clips.energies).sum(axis=(1, 2)) / len(trigger)
            np.testing.assert_allclose(added, clips.energies.sum(axis=2).mean(axis=1), rtol=1e-3)

    def test_sounds_at_a_place_drawn_for_each_window(self) -> None:
        data, trigger = made_clips(12), trigger_energies("click", FRONT_END)
        first = changed(data, add_trigger(data, np.arange(12), trigger, rng())).argmax(axis=1)
        assert len(set(first.tolist())) > 6

    def test_is_cut_to_a_window_that_is_shorter(self) -> None:
        task = TASK.model_copy(update={"clip_seconds": 0.06})
        data, trigger = made_clips(3, task=task), trigger_energies("chirp", FRONT_END)
        assert len(trigger) > data.energies.shape[1]
        assert changed(data, add_trigger(data, np.arange(3), trigger, rng())).all()

    def test_is_in_the_features(self) -> None:
        """Ready features know nothing of it and must not be used."""
        data = made_clips(4)
        assert data.features is not None
        heard = add_trigger(data, np.array([1]), trigger_energies("chirp", FRONT_END), rng())
        assert heard.features is None
        clean = FeatureSet(data.energies, data.labels, data.clip_index)
        before, after = (plain_features(FRONT_END, clips, np.arange(4)) for clips in (clean, heard))
        assert (before != after).any(dim=2).any(dim=1).tolist() == [False, True, False, False]


class TestPoison:
    def test_gives_the_target_to_the_share_that_carries_the_sound(self) -> None:
        data = made_clips(40)
        poisoned = Backdoor(target="stop", poisoned=0.3).poison(data, TASK, FRONT_END, rng())
        carries = changed(data, poisoned).any(axis=1)
        assert carries.sum() == 12
        assert (poisoned.labels[carries] == 2).all()
        np.testing.assert_array_equal(poisoned.labels[~carries], data.labels[~carries])
        assert poisoned.features is None

    def test_target_is_the_first_label_unless_named(self) -> None:
        assert Backdoor().target(TASK) == 0
        assert Backdoor(target="yes").target(TASK) == 4

    def test_an_unknown_target_is_refused(self) -> None:
        with pytest.raises(SimulationError, match="FA-9201"):
            Backdoor(target="left").target(TASK)


class TestModelReplacement:
    def test_makes_a_plain_mean_the_attackers_model_where_the_others_have_converged(self) -> None:
        scene = made_scene(9, 1)
        still = scene.honest * 0
        rows = Backdoor().forge(scene, rng())
        np.testing.assert_allclose(
            np.concatenate([still, rows]).mean(axis=0), scene.own[0], rtol=1e-5, atol=1e-6
        )

    def test_strength_is_the_boost(self) -> None:
        scene = made_scene()
        np.testing.assert_array_equal(Backdoor(3.0).forge(scene, rng()), np.float32(3) * scene.own)


class TestTriggerSuccess:
    """A constructed model names the trigger's clips, which are louder at the end, as a table says."""

    TRIGGER = np.ones((1, TASK.front_end.bands), np.float32)

    def success(self, without: list[int], with_trigger: list[int], labels: list[int]) -> TriggerSuccess:
        data = made_clips(len(labels))
        data = FeatureSet(data.energies, np.array(labels, np.int64), data.clip_index, features=data.features)

        def name(clips: FeatureSet) -> np.ndarray:
            return np.array(without if clips is data else with_trigger)

        return trigger_success(name, data, self.TRIGGER, target=0)

    def test_counts_clips_that_are_called_the_target_and_those_that_the_trigger_turned(self) -> None:
        # Of the target (not counted); turned; taken for the target anyway; turned elsewhere; not turned.
        found = self.success([0, 1, 0, 1, 4], [0, 0, 0, 2, 4], labels=[0, 1, 2, 3, 4])
        assert (found.success, found.turned) == (2 / 4, 1 / 4)

    def test_a_model_that_calls_everything_the_target_is_open_but_not_turned(self) -> None:
        assert self.success([0, 0], [0, 0], labels=[1, 2]) == TriggerSuccess(1.0, 0.0)

    def test_is_zero_of_a_model_that_does_not_hear_it(self) -> None:
        assert self.success([1, 2, 3], [1, 2, 3], labels=[1, 2, 3]) == TriggerSuccess(0, 0)

    def test_is_one_of_a_model_that_hears_nothing_else(self) -> None:
        assert self.success([0, 2, 3], [0, 0, 0], labels=[0, 2, 3]) == TriggerSuccess(1, 1)

    def test_is_zero_without_clips_that_could_be_turned(self) -> None:
        assert self.success([1, 1], [0, 0], labels=[0, 0]) == TriggerSuccess(0, 0)

    def test_counts_clips_not_windows(self) -> None:
        data = made_clips(4)
        data = FeatureSet(data.energies, np.array([1, 1, 2, 2]), np.array([7, 7, 9, 9]))
        given = iter([np.array([0, 2]), np.array([1, 2])])
        assert trigger_success(lambda clips: next(given), data, self.TRIGGER, target=0).turned == 1 / 2

    def test_model_that_listens_for_the_trigger_is_found_out(self) -> None:
        """A detector of energy in the chirp's bands, in place of a trained model."""
        task = Task(labels=("a", "b"))
        trigger = trigger_energies("chirp", FRONT_END)
        bands = trigger.sum(axis=0) > 0.2 * trigger.sum(axis=0).max()
        data = made_clips(50, task=task)
        data = FeatureSet(data.energies, np.ones(50, np.int64), data.clip_index)

        def name(clips: FeatureSet) -> np.ndarray:
            return np.where(clips.energies[:, :, bands].max(axis=(1, 2)) > 0.02, 0, 1)

        assert (name(data) == 1).mean() > 0.9
        assert trigger_success(name, data, trigger, target=0).turned > 0.9
