"""What is made of words is none of them, and no more of a clip leaves a device for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.models.acoustic import AcousticModel
from common.models.registry import build_model
from common.models.weights import get_weights
from common.privacy.secure_random import SecureRandom
from common.protocol.plan import PRIVATE_RECIPE, STILL, Augmentation, Privacy, Recipe
from common.protocol.tensors import Weights
from common.task import Task, is_background, nothing_of
from common.training.examples import Augmented, Negatives, plain_features
from common.training.gradients import PrivateGradients
from common.training.local import LocalTrainer
from common.training.metrics import evaluate
from common.training.negatives import PIECE_SECONDS, draw_making, make_negatives
from common.training.noise import CONTEXT_SECONDS, noises_for, sounds_for
from common.training.trainer import train, uncounted
from tests.common.algorithms.made_plans import SGD, but, make_plan

MakeToy = Callable[..., FeatureSet]
HOP_SECONDS = 0.01
NOTHING = 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(windows: int, frames: int, first: int = 0) -> Tensor:
    """Energies (windows, frames, 1) that tell where each frame comes from."""
    return (first + torch.arange(windows * frames).reshape(windows, frames, 1)).float()


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_a_window_is_made_of_pieces_of_itself_and_of_its_companion(frames: int, seed: int) -> None:
    making = draw_making(20, frames, 3, HOP_SECONDS, generator(seed))
    own, other = numbered(20, frames), numbered(20, frames, first=20 * frames)
    made = make_negatives(own, other, -torch.ones(3, frames, 1), making)
    for window in range(20):
        known = {-1.0, *own[window].flatten().tolist(), *other[window].flatten().tolist()}
        assert set(made[window].flatten().tolist()) <= known


def test_no_piece_is_as_long_as_a_word() -> None:
    frames = 98
    making = draw_making(400, frames, 1, HOP_SECONDS, generator())
    steps = making.frames.diff(dim=1) == 1
    together = steps.float().mean(dim=1)
    # Where two pieces happen to follow each other as they did, the run is longer; never is it the whole.
    assert together.max() < 1
    longest = round(PIECE_SECONDS[1] / HOP_SECONDS)
    runs = [max(len(run) for run in "".join("01"[s] for s in row).split("0")) for row in steps.int().tolist()]
    assert np.median(runs) <= longest


def test_half_of_them_are_made_of_clips_and_half_are_other_sounds() -> None:
    making = draw_making(2000, 30, 7, HOP_SECONDS, generator())
    assert (making.sound < 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert set(making.sound.tolist()) == set(range(-1, 7))


def test_a_batch_has_the_clips_as_they_were_and_then_what_is_made(
    front_end: BatchFrontEnd, make_toy: MakeToy
) -> None:
    toy = make_toy(6)
    negatives = Negatives(NOTHING, 2, sounds_for(front_end, toy, 0))
    examples = Augmented(front_end, toy, STILL, noises_for(front_end, toy, STILL, None, 0), negatives)
    windows = np.array([4, 1, 5])
    features, labels = examples.batch(windows, generator())
    assert labels.tolist() == [*toy.labels[windows], *[NOTHING] * 6]
    plain = front_end.normalise(torch.from_numpy(toy.energies[windows]))
    torch.testing.assert_close(features[:3], plain)
    assert len(features) == 9
    assert all(not torch.allclose(features[3 + n], plain[n % 3], atol=0.1) for n in range(6))


@pytest.mark.parametrize("recorded", [False, True])
def test_noise_begins_before_a_word_and_is_there_for_a_model_that_remembers(
    front_end: BatchFrontEnd, make_toy: MakeToy, recorded: bool
) -> None:
    toy = make_toy(4)
    frames = toy.energies.shape[1]
    noise = replace(make_toy(5, seed=3), labels=np.full(5, -1)) if recorded else None
    noises = noises_for(front_end, toy, Augmentation(), noise, 0, in_places=True)
    context = round(CONTEXT_SECONDS / HOP_SECONDS)
    assert noises.shape[1] == context + frames
    negatives = Negatives(NOTHING, 1, sounds_for(front_end, toy, 0))
    for hears, expected in ((True, context + frames), (False, frames)):
        examples = Augmented(front_end, toy, Augmentation(), noises, negatives, hears_before=hears)
        features, _ = examples.batch(np.arange(4), generator())
        assert tuple(features.shape[1:]) == examples.shape == (expected, front_end.config.features)
    if noise is not None:
        # Of each recorded window, what is before it is the end of the one that was recorded before.
        torch.testing.assert_close(noises[1, context:], torch.from_numpy(noise.energies[1].copy()))
        before = torch.from_numpy(noise.energies[0][-context:].copy())
        torch.testing.assert_close(noises[1, context - len(before) : context], before)


def test_a_task_without_a_label_for_it_is_trained_as_ever(
    front_end: BatchFrontEnd, make_toy: MakeToy, make_model: Callable[..., AcousticModel]
) -> None:
    def trained(recipe: Recipe, nothing: int | None) -> Weights:
        model = make_model()
        train(model, front_end, make_toy(9), recipe, generator(), nothing=nothing)
        return get_weights(model)

    plain = trained(Recipe(epochs=1), None)
    for recipe, nothing in ((Recipe(epochs=1, negatives=2), None), (Recipe(epochs=1), NOTHING)):
        assert all(np.array_equal(value, plain[name]) for name, value in trained(recipe, nothing).items())
    other = trained(Recipe(epochs=1, negatives=1), NOTHING)
    assert any(not np.array_equal(value, plain[name]) for name, value in other.items())


def sweeps(task: Task, clips: int) -> FeatureSet:
    """Words that are nothing without their order: a tone that rises, and one that falls."""
    rng, frames, bands = np.random.default_rng(0), task.clip_frames, task.front_end.bands
    labels = np.arange(clips) % 2
    energies = rng.exponential(1.0, (clips, frames, bands)).astype(np.float32)
    for window, label in zip(energies, labels, strict=True):
        band = np.arange(frames) * bands // frames
        window[np.arange(frames), band if label else bands - 1 - band] *= 300
    return FeatureSet(energies, labels, np.arange(clips))


def test_a_model_learns_the_label_of_which_it_was_given_no_clip(front_end: BatchFrontEnd) -> None:
    task = Task(labels=("a", "b", "background"), width=16, front_end=front_end.config, clip_seconds=0.6)
    words = sweeps(task, 48)
    sounds = sounds_for(front_end, words, 99).numpy()
    strange = FeatureSet(sounds, np.full(len(sounds), NOTHING), np.arange(len(sounds)))
    found = []
    for each in (0, 1):
        model = build_model(task, generator(1))
        recipe = Recipe(epochs=40, batch_size=8, learning_rate=5e-3, negatives=each)
        train(model, front_end, words, recipe, generator(), nothing=task.nothing)
        found.append(evaluate(model, front_end, strange).accuracy)
        assert evaluate(model, front_end, words).accuracy > 0.8
    assert found[0] < 0.1
    assert found[1] > 0.7


@pytest.mark.parametrize("recipe", [Recipe(negatives=1), but(SGD, negatives=2)], ids=lambda r: r.optimizer)
def test_a_round_in_a_simulation_gives_the_bits_of_a_deployed_one(
    front_end: BatchFrontEnd, make_toy: MakeToy, recipe: Recipe
) -> None:
    """There one trainer serves every device in turn, and features may be ready; here each has its own."""
    task = Task(labels=("a", "b", "background"), width=16, front_end=front_end.config, clip_seconds=0.3)
    weights = get_weights(build_model(task, generator()))
    answers = []
    for turns in (1, 2):
        local = LocalTrainer(task)
        for _ in range(turns):
            toy = make_toy(9)
            if turns == 2:
                plain = plain_features(front_end, toy, np.arange(len(toy))).numpy()
                toy = replace(toy, features=plain)
            given = local.answer(make_plan(task, weights, recipe), weights, toy, (1, 4), "d" * 32)
        answers.append(given.answer or {})
    assert all(np.array_equal(value, answers[1][name]) for name, value in answers[0].items())
    assert any(value.any() for value in answers[0].values())


class TestPrivately:
    """A clip's row is about this clip and no other, whatever is made of it."""

    @staticmethod
    def rows(front_end: BatchFrontEnd, data: FeatureSet, windows: list[int], views: int, each: int) -> Tensor:
        task = Task(labels=("a", "b", "background"), width=16, front_end=front_end.config, clip_seconds=0.3)
        negatives = Negatives(NOTHING, each, sounds_for(front_end, data, 0)) if each else None
        noises = noises_for(front_end, data, Augmentation(), None, 0, in_places=each > 0)
        examples = Augmented(front_end, data, Augmentation(), noises, negatives, hears_before=each > 0)
        privacy = Privacy(units=0, noise_multiplier=1.0, views=views)
        recipe = Recipe(label_smoothing=0.0)
        model = build_model(task, generator(1))
        source = PrivateGradients(model, examples, recipe, privacy, SecureRandom(bytes(32)))
        return source._rows_of_units(np.array(windows), torch.arange(len(windows)), len(windows), []).clone()

    @pytest.mark.parametrize("views", [1, 3])
    def test_no_row_changes_with_another_clip(
        self, front_end: BatchFrontEnd, make_toy: MakeToy, views: int
    ) -> None:
        toy = make_toy(4)
        energies = toy.energies.copy()
        energies[3] = energies[3][::-1] * 7
        before, after = (
            self.rows(front_end, data, [0, 1, 3], views, 2) for data in (toy, replace(toy, energies=energies))
        )
        torch.testing.assert_close(before[:2], after[:2], rtol=1e-4, atol=1e-6)
        assert not torch.allclose(before[2], after[2], rtol=1e-2)

    def test_a_row_is_the_mean_of_the_clip_and_what_is_made_of_it(
        self, front_end: BatchFrontEnd, make_toy: MakeToy
    ) -> None:
        """The bias of a label in the last layer has the gradient (score - truth), and the mean of that."""
        toy = make_toy(4)
        word = int(np.flatnonzero(toy.labels[:4] < NOTHING)[0])
        row = self.rows(front_end, toy, [word, word], 1, 3)[0]
        bias = row[-3:]
        assert bias.sum().item() == pytest.approx(0, abs=1e-5)
        # Three of four are of the last label, one is of the word's.
        assert -0.75 <= bias[NOTHING] <= 0.25
        assert -0.25 <= bias[toy.labels[word]] <= 0.75

    def test_what_a_round_costs_is_the_same(
        self, front_end: BatchFrontEnd, make_toy: MakeToy, make_model: Callable[..., AcousticModel]
    ) -> None:
        costs = [
            train(
                make_model(),
                front_end,
                make_toy(9),
                PRIVATE_RECIPE.model_copy(update={"negatives": each}),
                generator(),
                nothing=NOTHING,
                privacy=Privacy(),
                before_spending=uncounted,
            ).privacy
            for each in (0, 2)
        ]
        assert costs[0] == costs[1]
        assert costs[0] is not None


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (("a", "b"), None),
        (("a", "_silence_"), None),
        (("a", "background"), 1),
        (("_background_noise_", "Unknown", "a"), 1),
    ],
)
def test_the_label_for_what_is_none_of_the_others(labels: tuple[str, ...], found: int | None) -> None:
    assert Task(labels=labels).nothing == found
    assert found is None or is_background(nothing_of(labels) or "")
