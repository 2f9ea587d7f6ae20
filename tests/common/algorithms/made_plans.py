"""Plans and answers of single devices, made with the toy task of `tests/common/conftest.py`."""

from __future__ import annotations

from functools import cache
from typing import Any

from common.algorithms.registry import ALGORITHMS
from common.data.features import FeatureSet
from common.files import sha256
from common.protocol.plan import STILL, Plan, Recipe
from common.protocol.tensors import Weights, encode_weights
from common.task import Task
from common.training.local import Done, LocalTrainer
from common.training.trainer import uncounted

SGD = Recipe(
    optimizer="sgd",
    learning_rate=0.05,
    momentum=0.0,
    weight_decay=0.0,
    gradient_clip=0,
    label_smoothing=0.0,
    augmentation=STILL,
)


def but(recipe: Recipe, **changes: object) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **changes})


def make_plan(task: Task, order: Weights, recipe: Recipe, **changes: object) -> Plan:
    facts: dict[str, object] = {
        "coordinator": "c" * 64,
        "run": "0" * 16,
        "round": 3,
        "expires": 2**40,
        "cohort": 2,
        "recipient": "e" * 16,
        "task": task,
        "recipe": recipe,
        "base": sha256(encode_weights(order)),
    }
    return Plan.model_validate(facts | changes)


@cache
def trainer(task: Task) -> LocalTrainer:
    """One for all tests: nothing of one training may reach the next."""
    return LocalTrainer(task)


def work(
    task: Task,
    weights: Weights,
    recipe: Recipe,
    data: FeatureSet,
    *,
    memory: Weights | None = None,
    kept: Weights | None = None,
    held: tuple[int, ...] = (),
    changes: dict[str, Any] | None = None,
    **more: Any,
) -> Done:
    """What a device does with `weights` by the recipe's algorithm; `changes` are to the plan."""
    order = ALGORITHMS[recipe.algorithm].order(weights, memory or {})
    plan = make_plan(task, order, recipe, **(changes or {}))
    return trainer(task).answer(
        plan, order, data, held, "d" * 32, kept=kept, before_spending=uncounted, **more
    )
