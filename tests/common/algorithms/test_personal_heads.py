"""FedPer and FedRep: the head stays on the device, and what is frozen does not move."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from common.algorithms.fedrep import FedRep, HeadThenBodyPart
from common.algorithms.registry import ALGORITHMS
from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.errors import TrainingError
from common.models.acoustic import HEAD, AcousticModel
from common.models.registry import ARCHITECTURES, build_model
from common.models.weights import get_weights
from common.privacy.clipping import FlatClipping
from common.privacy.engines.fused import FusedEngine
from common.privacy.secure_random import SecureRandom
from common.protocol.algorithms import PERSONAL, AlgorithmName
from common.protocol.plan import Privacy, Recipe
from common.protocol.tensors import Weights, schema_of
from common.task import Task
from common.training.gradients import smoothed_loss
from common.training.trainer import train, uncounted
from tests.common.algorithms.made_plans import SGD, STILL, but, trainer, work

MakeToy = Callable[..., FeatureSet]
MakeModel = Callable[..., AcousticModel]

personal = pytest.mark.parametrize("algorithm", sorted(PERSONAL))


def head(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if name.startswith(HEAD)}


def body(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if not name.startswith(HEAD)}


def same(first: Weights, second: Weights) -> bool:
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_the_personal_algorithms_are_those_that_are_known_by_name(make_model: MakeModel) -> None:
    schema = schema_of(get_weights(make_model()))
    assert {name for name, algorithm in ALGORITHMS.items() if algorithm.personal} == PERSONAL
    for name, algorithm in ALGORITHMS.items():
        keeps_parameters = not schema.keys().isdisjoint(algorithm.kept_schema(schema))
        assert algorithm.personal == keeps_parameters, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_a_head_that_gives_the_logits(architecture: str, task: Task) -> None:
    labels = tuple(f"label {number}" for number in range(7))  # no layer has seven of anything else
    changed = task.model_copy(update={"architecture": architecture, "labels": labels})
    model = build_model(changed, torch.Generator())
    shapes = schema_of(head(get_weights(model)))
    assert {shape[0] for shape in shapes.values()} == {len(labels)}
    assert body(get_weights(model))
    # No other parameter has a value for each label: without the head, nothing tells labels apart.
    assert all(shape[0] != len(labels) for shape in schema_of(body(get_weights(model))).values())


@personal
def test_the_head_is_never_sent(
    algorithm: AlgorithmName, task: Task, make_model: MakeModel, make_toy: MakeToy
) -> None:
    weights, recipe = get_weights(make_model()), but(SGD, algorithm=algorithm, epochs=1)
    done = work(task, weights, recipe, make_toy(12))
    assert done.answer is not None
    assert schema_of(done.answer) == ALGORITHMS[algorithm].answer_schema(schema_of(weights))
    assert done.answer.keys() == body(weights).keys()
    assert all(value.any() for value in done.answer.values())
    assert schema_of(done.kept) == ALGORITHMS[algorithm].kept_schema(schema_of(weights))
    assert done.kept.keys() == head(weights).keys()
    assert not same(done.kept, head(weights))


@personal
def test_devices_with_other_clips_keep_other_heads_and_go_on_from_them(
    algorithm: AlgorithmName, task: Task, make_model: MakeModel, make_toy: MakeToy
) -> None:
    weights, recipe = get_weights(make_model()), but(SGD, algorithm=algorithm, epochs=1)
    first, second = (work(task, weights, recipe, make_toy(12, seed=seed)) for seed in (1, 2))
    assert not same(first.kept, second.kept)
    # What no step may move: at a rate of nearly nothing the head is the one it came with.
    idle = but(recipe, learning_rate=1e-30)
    assert same(work(task, weights, idle, make_toy(12), kept=first.kept).kept, first.kept)
    assert not same(work(task, weights, recipe, make_toy(12, seed=1), kept=first.kept).kept, first.kept)


@personal
def test_an_evaluation_is_of_the_devices_own_head(
    algorithm: AlgorithmName, task: Task, make_model: MakeModel, make_toy: MakeToy
) -> None:
    """A head that says the first label whatever it hears is right of every third clip."""
    weights, data = get_weights(make_model()), make_toy(30)
    always = {name: np.zeros_like(value) for name, value in head(weights).items()}
    always[HEAD + "bias"][0] = 1.0
    evaluation = {"changes": {"kind": "evaluate"}, "held": tuple(range(30))}
    recipe = but(SGD, algorithm=algorithm)
    report = work(task, weights, recipe, data, kept=always, **evaluation).report  # type: ignore[arg-type]
    assert (report.clips, report.correct) == (30, 10)
    assert work(task, weights, recipe, data, **evaluation).report.loss != report.loss  # type: ignore[arg-type]


@personal
def test_the_shared_model_keeps_the_head_it_was_made_with(
    algorithm: AlgorithmName, make_model: MakeModel
) -> None:
    weights = get_weights(make_model())
    mean = {name: np.ones_like(value) for name, value in body(weights).items()}
    delta, memory = ALGORITHMS[algorithm].conclude(mean, weights, {}, 1.0)
    assert list(delta) == list(weights)
    assert memory == {}
    assert not any(value.any() for value in head(delta).values())
    assert same(body(delta), mean)


class Watched(HeadThenBodyPart):
    """Notes the weights before every step."""

    def before_step(self, step: int, steps: int) -> None:
        super().before_step(step, steps)
        self.path = [*getattr(self, "path", []), get_weights(self.model)]


OPTIMIZERS = {
    "momentum and decay": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
}


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_head_learns_first_then_the_body_and_nothing_else_moves(
    optimizer: str,
    private: bool,
    front_end: BatchFrontEnd,
    make_toy: MakeToy,
    make_model: MakeModel,
) -> None:
    facts = {"algorithm": "fedrep", "head_epochs": 2, "epochs": 1, "batch_size": 4, "l1": 0.01}
    recipe = Recipe.model_validate(facts | OPTIMIZERS[optimizer] | {"augmentation": STILL})
    model = make_model()
    part = Watched(model, recipe, get_weights(model), {})
    report = train(
        model,
        front_end,
        make_toy(12),
        recipe,
        torch.Generator().manual_seed(0),
        privacy=Privacy(noise_multiplier=1.0, units=0) if private else None,
        before_spending=uncounted,
        part=part,
        test_random=SecureRandom(bytes(32)),
    )
    assert report.steps == 9
    assert report.privacy is None or report.privacy.steps == 9
    path = [*part.path, get_weights(model)]
    for step, (before, after) in enumerate(pairwise(path)):
        assert same(body(before), body(after)) == (step < 6), step
        assert same(head(before), head(after)) == (step >= 6), step


@pytest.mark.parametrize(("steps", "of_the_head"), [(2, 1), (3, 1), (4, 2), (9, 3), (10, 4)])
def test_steps_are_shared_out_as_epochs_are(
    steps: int, of_the_head: int, front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel
) -> None:
    recipe = but(SGD, algorithm="fedrep", head_epochs=1, epochs=2, steps=steps)
    model = make_model()
    part = Watched(model, recipe, get_weights(model), {})
    train(model, front_end, make_toy(12), recipe, torch.Generator().manual_seed(0), part=part)
    path = [*getattr(part, "path", []), get_weights(model)]
    moves = [not same(head(before), head(after)) for before, after in pairwise(path)]
    assert moves == [True] * of_the_head + [False] * (steps - of_the_head)


@pytest.mark.parametrize("steps", [2, 5])
def test_however_long_the_head_should_learn_the_body_has_a_step(
    steps: int, front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel
) -> None:
    recipe = but(SGD, algorithm="fedrep", head_epochs=1000, epochs=1, steps=steps)
    model = make_model()
    part = Watched(model, recipe, get_weights(model), {})
    train(model, front_end, make_toy(12), recipe, torch.Generator().manual_seed(0), part=part)
    path = [*part.path, get_weights(model)]
    moves = [not same(body(before), body(after)) for before, after in pairwise(path)]
    assert moves == [False] * (steps - 1) + [True]


def test_what_fedrep_froze_is_free_again_even_after_a_failure(
    task: Task, make_model: MakeModel, make_toy: MakeToy
) -> None:
    weights, data = get_weights(make_model()), make_toy(12)
    expected = work(task, weights, SGD, data).answer
    runaway = but(SGD, algorithm="fedrep", learning_rate=10.0, momentum=0.9, weight_decay=1.0, epochs=300)
    with pytest.raises(TrainingError, match="FA-7004"):
        work(task, weights, runaway, data)
    assert not all(value.requires_grad for value in trainer(task)._model.parameters())
    after = work(task, weights, SGD, data).answer
    assert expected is not None
    assert after is not None
    assert same(after, expected)


def test_a_clips_gradient_is_clipped_over_what_trains(
    front_end: BatchFrontEnd, make_model: MakeModel, make_toy: MakeToy
) -> None:
    """The frozen body takes no part of the clipping norm, and one clip still moves the sum by no more."""
    model, data = make_model(), make_toy(1)
    recipe = Recipe(algorithm="fedrep")
    FedRep.part(model, recipe, get_weights(model), {}).before_step(0, recipe.passes)
    with torch.no_grad():
        features = front_end.normalise(torch.from_numpy(np.array(data.energies)))
    labels = torch.from_numpy(data.labels)
    engine = FusedEngine(model, lambda logits, truth: smoothed_loss(logits, truth, recipe))
    rows, _ = engine.rows(features, labels)
    FlatClipping(Privacy(clipping_norm=0.01)).shorten(rows)
    assert rows.shape == (1, sum(value.size for value in head(get_weights(model)).values()))
    assert float(rows.norm()) == pytest.approx(0.01, 1e-3)
