from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from common.audio.front_end import SAMPLE_RATE
from common.data.clips import Clips
from common.data.features import FeatureSet
from common.errors import TrainingError
from common.files import sha256
from common.models.acoustic import AcousticModel
from common.models.weights import get_weights
from common.privacy.secure_random import SecureRandom
from common.protocol.answer import Answer, decode_answer, encode_answer
from common.protocol.plan import Plan, Privacy, Recipe
from common.protocol.tensors import Weights, encode_weights, schema_of
from common.task import Task
from common.training.local import Done, LocalTrainer, train_local
from common.training.trainer import uncounted

MakeToy = Callable[..., FeatureSet]


DEVICE = "d" * 32
HELD = (1, 4, 7)
"""Clips kept for evaluation."""


@pytest.fixture
def weights(make_model: Callable[..., AcousticModel]) -> Weights:
    return get_weights(make_model())


@pytest.fixture
def plan(task: Task, weights: Weights) -> Plan:
    return Plan(
        coordinator="c" * 64,
        run="0" * 16,
        round=3,
        expires=2**40,
        cohort=2,
        recipient="e" * 16,
        task=task,
        base=sha256(encode_weights(weights)),
        seed=5,
    )


@cache
def trainer(task: Task) -> LocalTrainer:
    """One for all tests: whatever it did before, an answer hangs on what it is asked alone."""
    return LocalTrainer(task)


def work(
    plan: Plan,
    weights: Weights,
    data: FeatureSet,
    held: Collection[int] = HELD,
    device: str = DEVICE,
    **more: Any,
) -> Done:
    return trainer(plan.task).answer(plan, weights, data, held, device, before_spending=uncounted, **more)


def change(plan: Plan, **changes: object) -> Plan:
    return plan.model_copy(update=changes)


def same(first: Weights | None, second: Weights | None) -> bool:
    assert first is not None
    assert second is not None
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_a_training_answers_with_a_delta_of_the_models_shape(
    plan: Plan, weights: Weights, make_toy: MakeToy
) -> None:
    done = work(plan, weights, make_toy(40))
    report, delta = done.report, done.answer
    assert delta is not None
    assert done.kept == {}
    answer = decode_answer(encode_answer(report, delta), schema_of(weights))
    assert isinstance(answer, Answer)
    assert answer.report == report
    assert (report.run, report.round, report.base, report.device) == (plan.run, 3, plan.base, DEVICE)
    assert report.privacy is None
    assert report.loss > 0
    assert all(value.any() for value in delta.values())


def test_the_answer_hangs_on_plan_weights_clips_and_name_alone(
    plan: Plan, weights: Weights, make_toy: MakeToy
) -> None:
    data, kept = make_toy(20), {name: value.copy() for name, value in weights.items()}
    delta = work(plan, weights, data).answer
    torch.rand(1)
    assert same(work(plan, weights, data).answer, delta)
    assert same(weights, kept)
    assert not same(work(plan, weights, data, device="0" * 32).answer, delta)
    assert not same(work(change(plan, round=4), weights, data).answer, delta)
    assert not same(work(change(plan, seed=6), weights, data).answer, delta)


def test_the_windows_of_a_held_out_clip_are_held_out_together(
    plan: Plan, weights: Weights, make_toy: MakeToy
) -> None:
    data = make_toy(200, windows=2)
    trained = work(change(plan, recipe=Recipe(steps=0)), weights, data).report
    tested = work(change(plan, kind="evaluate"), weights, data).report
    # Of a training windows count, of an evaluation clips.
    assert trained.clips == 2 * (200 - len(HELD))
    assert tested.clips == len(HELD)


def test_held_out_clips_are_never_learned_from(plan: Plan, weights: Weights, make_toy: MakeToy) -> None:
    """Which ones they are is found by spoiling one at a time: the delta stays only if it is held out."""
    data = make_toy(12)
    short = change(plan, recipe=Recipe(steps=1, batch_size=12))
    delta = work(short, weights, data).answer
    untouched = 0
    for clip in range(12):
        energies = data.energies.copy()
        energies[clip] = energies[clip][::-1]
        spoilt = FeatureSet(energies, data.labels, data.clip_index)
        untouched += same(work(short, weights, spoilt).answer, delta)
    held_out = work(change(plan, kind="evaluate"), weights, data).report.clips
    assert untouched == held_out == len(HELD)


def test_an_evaluation_answers_with_counts_alone(plan: Plan, weights: Weights, make_toy: MakeToy) -> None:
    done = work(change(plan, kind="evaluate"), weights, make_toy(40))
    report = done.report
    assert done.answer is None
    assert done.kept == {}
    assert 0 <= report.correct <= report.clips
    assert report.loss > 0
    empty = work(change(plan, kind="evaluate"), weights, make_toy(40), held=()).report
    assert (empty.clips, empty.correct, empty.loss) == (0, 0, 0.0)


def test_a_private_training_tells_what_it_spent_and_no_loss(
    plan: Plan, weights: Weights, make_toy: MakeToy
) -> None:
    private = change(plan, privacy=Privacy(noise_multiplier=1.0))
    done = work(private, weights, make_toy(40))
    report, delta = done.report, done.answer
    assert report.privacy is not None
    assert report.privacy.epsilon > 0
    assert report.loss == 0.0
    other = work(private, weights, make_toy(40)).answer
    assert not same(delta, other)  # the noise comes from no seed


def test_given_noise_can_be_repeated(plan: Plan, weights: Weights, make_toy: MakeToy) -> None:
    private = change(plan, privacy=Privacy(noise_multiplier=1.0))
    first, again, other = (
        work(private, weights, make_toy(40), noise_random=SecureRandom(bytes(31) + key)).answer
        for key in (b"a", b"a", b"b")
    )
    assert same(first, again)
    assert not same(first, other)


def test_skipped_files_are_counted(plan: Plan, weights: Weights, make_toy: MakeToy) -> None:
    toy = make_toy(20)
    data = FeatureSet(toy.energies, toy.labels, toy.clip_index, (("a.wav", "damaged"), ("b.wav", "empty")))
    assert work(plan, weights, data).report.skipped == 2


def test_a_device_without_clips_says_so(plan: Plan, weights: Weights, make_toy: MakeToy) -> None:
    with pytest.raises(TrainingError, match="FA-7003"):
        work(plan, weights, make_toy(0))


def test_weights_of_another_model_are_refused(plan: Plan, weights: Weights, make_toy: MakeToy) -> None:
    with pytest.raises(TrainingError, match="FA-7002"):
        work(change(plan, task=plan.task.model_copy(update={"width": 20})), weights, make_toy(9))


@pytest.fixture
def folder(tmp_path: Path, task: Task) -> Path:
    """Sound files: a short tone of 300, 1200 or 4000 Hz in noise."""
    rng = np.random.default_rng(0)
    time = np.arange(round(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    for label, frequency in zip(task.labels, (300, 1200, 4000), strict=True):
        (tmp_path / label).mkdir()
        for take in range(6):
            burst = (np.abs(time - rng.uniform(0.1, 0.2)) < 0.03) * np.sin(2 * np.pi * frequency * time)
            sound = 0.3 * burst + 0.01 * rng.standard_normal(len(time))
            soundfile.write(tmp_path / label / f"{take}.wav", sound, SAMPLE_RATE)
    return tmp_path


def test_training_without_a_coordinator(
    folder: Path, task: Task, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clips, recipe = Clips.from_folder(folder), Recipe(steps=6)
    cache = tmp_path_factory.mktemp("cache")
    weights, report = train_local(clips, task, recipe, cache=cache, seed=1)
    assert (report.clips, report.steps, report.privacy) == (18, 6, None)
    assert same(train_local(clips, task, recipe, seed=1)[0], weights)
    assert not same(train_local(clips, task, recipe, cache=cache, seed=2)[0], weights)
    untouched, _ = train_local(clips, task, Recipe(steps=0), weights=weights, cache=cache)
    assert same(untouched, weights)
    _, private = train_local(clips, task, recipe, weights=weights, privacy=Privacy(), cache=cache)
    assert private.privacy is not None
    assert private.privacy.epsilon > 0
