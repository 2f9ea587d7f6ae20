"""What makes training fast changes nothing that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.models.acoustic import AcousticModel
from common.models.weights import get_weights
from common.protocol.plan import Augmentation, Plan, Recipe
from common.protocol.tensors import Weights
from common.task import Task
from common.training.examples import Augmented, plain_features
from common.training.local import LocalTrainer
from common.training.noise import noises_for
from common.training.trainer import train

MakeToy = Callable[..., FeatureSet]

STILL = Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0)
RECIPES = [
    Recipe(optimizer="sgd", learning_rate=0.05, momentum=0.9, batch_size=4, augmentation=STILL),
    Recipe(optimizer="adamw", batch_size=4, l1=1e-4, augmentation=STILL),
]


def ready(data: FeatureSet, front_end: BatchFrontEnd) -> FeatureSet:
    features = plain_features(front_end, data, np.arange(len(data))).numpy()
    features.flags.writeable = False
    return replace(data, features=features)


def answer(task: Task, trainer: LocalTrainer, recipe: Recipe, data: FeatureSet, weights: Weights) -> Weights:
    plan = Plan(
        coordinator="c" * 64,
        run="0" * 16,
        round=1,
        expires=2**40,
        cohort=1,
        recipient="e" * 16,
        task=task,
        recipe=recipe,
        base="0" * 64,
    )
    delta = trainer.answer(plan, weights, data, (1, 4), "d" * 32).answer
    assert delta is not None
    return delta


def equal(first: Weights, second: Weights) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.optimizer)
def test_ready_features_give_the_same_answer_to_the_last_bit(
    task: Task,
    front_end: BatchFrontEnd,
    make_toy: MakeToy,
    make_model: Callable[..., AcousticModel],
    recipe: Recipe,
) -> None:
    toy, weights, trainer = make_toy(9, windows=2), get_weights(make_model()), LocalTrainer(task)
    computed = answer(task, trainer, recipe, toy, weights)
    assert equal(answer(task, trainer, recipe, ready(toy, front_end), weights), computed)
    assert any(value.any() for value in computed.values())


def test_ready_features_are_not_looked_at_where_clips_are_changed(
    front_end: BatchFrontEnd, make_toy: MakeToy
) -> None:
    toy = make_toy(4)
    wrong = replace(toy, features=np.full_like(ready(toy, front_end).features, np.nan))
    noises = noises_for(front_end, toy, Augmentation(), None, 0)
    changed = [
        Augmented(front_end, data, Augmentation(), noises).batch(
            np.arange(4), torch.Generator().manual_seed(1)
        )[0]
        for data in (toy, wrong)
    ]
    assert torch.equal(*changed)


def test_without_augmentation_clips_are_as_they_are(front_end: BatchFrontEnd, make_toy: MakeToy) -> None:
    toy, windows = make_toy(5), np.array([3, 0, 3])
    noises = noises_for(front_end, toy, STILL, None, 0)
    still, _ = Augmented(front_end, toy, STILL, noises).batch(windows, torch.Generator())
    assert torch.equal(still, front_end.normalise(torch.from_numpy(toy.energies[windows])))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.optimizer)
def test_a_trainer_remembers_nothing_of_who_trained_before(
    task: Task, make_toy: MakeToy, make_model: Callable[..., AcousticModel], recipe: Recipe
) -> None:
    """Moments and momentum are the optimiser's, and it is used again."""
    weights, trainer = get_weights(make_model()), LocalTrainer(task)
    alone = [answer(task, LocalTrainer(task), recipe, make_toy(9, seed=n), weights) for n in range(3)]
    in_turn = [answer(task, trainer, recipe, make_toy(9, seed=n), weights) for n in range(3)]
    assert all(map(equal, alone, in_turn))
    assert not equal(alone[0], alone[1])


def test_another_recipe_has_another_optimiser(
    task: Task, make_toy: MakeToy, make_model: Callable[..., AcousticModel]
) -> None:
    toy, weights, trainer = make_toy(9), get_weights(make_model()), LocalTrainer(task)
    slow = RECIPES[0].model_copy(update={"learning_rate": 0.01})
    for recipe in (*RECIPES, slow, RECIPES[0]):
        fresh = answer(task, LocalTrainer(task), recipe, toy, weights)
        assert equal(answer(task, trainer, recipe, toy, weights), fresh)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.optimizer)
def test_steps_are_those_of_torchs_plain_optimiser(
    front_end: BatchFrontEnd,
    make_toy: MakeToy,
    make_model: Callable[..., AcousticModel],
    recipe: Recipe,
) -> None:
    """Which is slower, for it goes from parameter to parameter."""
    recipe = recipe.model_copy(update={"l1": 0.0, "gradient_clip": 0.0, "label_smoothing": 0.0, "epochs": 1})
    toy, ours, plain = make_toy(12), make_model(), make_model()
    train(ours, front_end, toy, recipe, torch.Generator().manual_seed(2))
    optimizer = (
        torch.optim.SGD(plain.parameters(), 0.05, momentum=0.9, weight_decay=0.01, foreach=False)
        if recipe.optimizer == "sgd"
        else torch.optim.AdamW(plain.parameters(), recipe.learning_rate, weight_decay=0.01, foreach=False)
    )
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    for batch in torch.split(order, 4):
        optimizer.zero_grad()
        scores = plain(plain_features(front_end, toy, batch.numpy()))
        loss = F.cross_entropy(scores, torch.from_numpy(toy.labels)[batch], reduction="none")
        (loss.sum() / 4).backward()
        optimizer.step()
    assert equal(get_weights(ours), get_weights(plain))
