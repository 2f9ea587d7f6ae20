"""`trained = "head"`: the rest of the model stays as it is, is not sent and gets no noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from common.algorithms.registry import ALGORITHMS
from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.files import sha256
from common.models.acoustic import HEAD, AcousticModel, trained_part, without_head
from common.models.registry import ARCHITECTURES, build_model
from common.models.tc_window import TcWindow
from common.models.weights import get_weights
from common.privacy.secure_random import SecureRandom
from common.protocol.plan import Augmentation, Plan, Privacy, Recipe
from common.protocol.tensors import Weights, encode_weights, schema_of
from common.task import Task
from common.training.examples import plain_features
from common.training.local import Done, LocalTrainer
from common.training.metrics import evaluate
from common.training.trainer import train, uncounted

MakeToy = Callable[..., FeatureSet]

STILL = Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0)
HEAD_ONLY = Recipe(trained="head", augmentation=STILL)
KEY = bytes(range(32))
PRIVACIES = pytest.mark.parametrize("privacy", [None, Privacy()], ids=["plain", "private"])


@cache
def trainer(task: Task) -> LocalTrainer:
    return LocalTrainer(task)


def answer(task: Task, weights: Weights, data: FeatureSet, recipe: Recipe, privacy: Privacy | None) -> Done:
    plan = Plan(
        coordinator="c" * 64,
        run="0" * 16,
        round=3,
        expires=2**40,
        cohort=2,
        recipient="e" * 16,
        task=task,
        recipe=recipe,
        privacy=privacy,
        base=sha256(encode_weights(weights)),
    )
    return trainer(task).answer(
        plan, weights, data, (), "d" * 32, before_spending=uncounted, noise_random=SecureRandom(KEY)
    )


@PRIVACIES
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_the_head_moves(
    architecture: str,
    optimizer: str,
    privacy: Privacy | None,
    task: Task,
    front_end: BatchFrontEnd,
    make_toy: MakeToy,
) -> None:
    chosen = task.model_copy(update={"architecture": architecture})
    model = build_model(chosen, torch.Generator().manual_seed(0))
    before = get_weights(model)
    recipe = HEAD_ONLY.model_copy(update={"optimizer": optimizer, "l1": 0.01, "weight_decay": 0.1})
    train(
        model,
        front_end,
        make_toy(12),
        recipe,
        torch.Generator().manual_seed(0),
        privacy=privacy,
        before_spending=uncounted,
    )
    moved = {name for name, value in get_weights(model).items() if not np.array_equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(HEAD)}


@PRIVACIES
def test_what_is_sent_is_the_head_and_what_comes_of_it_is_a_whole_model(
    privacy: Privacy | None, task: Task, make_model: Callable[..., AcousticModel], make_toy: MakeToy
) -> None:
    weights = get_weights(make_model())
    sent = answer(task, weights, make_toy(12), HEAD_ONLY, privacy).answer
    assert sent is not None
    algorithm = ALGORITHMS["fedavg"]
    assert schema_of(sent) == algorithm.answer_schema(trained_part("head", schema_of(weights)))
    delta, _ = algorithm.conclude(sent, weights, {}, 1.0)
    assert list(delta) == list(weights)
    assert all(np.array_equal(delta[name], sent[name]) for name in sent)
    assert not any(value.any() for value in without_head(delta).values())


def test_a_trainer_that_trained_a_head_trains_all_the_next_time(
    task: Task, make_model: Callable[..., AcousticModel], make_toy: MakeToy
) -> None:
    weights, data = get_weights(make_model()), make_toy(12)
    answer(task, weights, data, HEAD_ONLY, None)
    sent = answer(task, weights, data, Recipe(augmentation=STILL), None).answer
    assert sent is not None
    assert sent.keys() == weights.keys()
    assert all(value.any() for value in sent.values())


def test_the_clipping_norm_is_all_the_heads(
    task: Task, front_end: BatchFrontEnd, make_toy: MakeToy, make_model: Callable[..., AcousticModel]
) -> None:
    """With a body in it, the head would have a share of the norm only: here it has the whole of it."""
    data, model = make_toy(1), make_model()
    recipe = Recipe.model_validate(
        HEAD_ONLY.model_dump()
        | {"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0, "weight_decay": 0, "steps": 1}
    )
    before = get_weights(model)
    privacy = Privacy(noise_multiplier=0.01, clipping_norm=0.05, units=0)
    train(
        model,
        front_end,
        data,
        recipe,
        torch.Generator(),
        privacy=privacy,
        before_spending=uncounted,
        test_random=SecureRandom(KEY),
    )
    change = [value - before[name] for name, value in get_weights(model).items()]
    length = np.sqrt(sum(float(np.square(value).sum()) for value in change))
    assert length == pytest.approx(0.05, rel=0.1)


def test_a_private_head_learns_on_a_body_that_knows_the_sounds(
    task: Task, front_end: BatchFrontEnd, make_toy: MakeToy
) -> None:
    model = build_model(
        task.model_copy(update={"architecture": "tc-window"}), torch.Generator().manual_seed(0)
    )
    assert isinstance(model, TcWindow)
    others = make_toy(90, seed=5)
    recipe = Recipe(epochs=16, learning_rate=5e-3, augmentation=STILL)
    train(model, front_end, others, recipe, torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = model.pooled(plain_features(front_end, others, np.arange(90)))
        model.whiten_by(pooled, torch.from_numpy(others.labels))
        for name, value in model.named_parameters():
            if name.startswith(HEAD):
                value.zero_()
    unheard = make_toy(60, seed=99)
    assert evaluate(model, front_end, unheard).accuracy < 0.5
    recipe = HEAD_ONLY.model_copy(update={"optimizer": "sgd", "learning_rate": 1.0, "steps": 5})
    train(
        model,
        front_end,
        make_toy(90),
        recipe.model_copy(update={"batch_size": 90, "weight_decay": 0.0, "momentum": 0.0}),
        torch.Generator(),
        privacy=Privacy(noise_multiplier=2.0),
        before_spending=uncounted,
        test_random=SecureRandom(KEY),
    )
    assert evaluate(model, front_end, unheard).accuracy > 0.8


@pytest.mark.parametrize("algorithm", ["fedper", "fedrep", "scaffold"])
def test_what_needs_the_whole_model_is_refused(algorithm: str) -> None:
    settings = {"optimizer": "sgd", "momentum": 0, "gradient_clip": 0, "algorithm": algorithm}
    with pytest.raises(ValidationError, match=f"{algorithm} needs trained = 'all'"):
        Recipe.model_validate(settings | {"trained": "head"})
