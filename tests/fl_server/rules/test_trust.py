"""FLTrust: who goes the coordinator's way counts, and nobody by his length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.algorithms.registry import ALGORITHMS
from common.errors import CoordinatorError
from common.protocol.algorithms import AlgorithmName
from common.protocol.tensors import schema_of
from common.training.local import LocalTrainer
from fl_server.memory import Memory
from fl_server.rounds import make_plan
from fl_server.rules.trust import train_reference, trust
from fl_server.settings import ServerSettings
from tests.fl_server.made_clips import PLAIN, TASK, made_clips, new_weights
from tests.fl_server.rules.made_rules import honest_rows

CLIPS = made_clips(24)
SGD = PLAIN.model_copy(update={"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.0, "epochs": 2})


@given(st.integers(0, 2**32 - 1))
def test_it_is_the_papers_formula(seed: int) -> None:
    rows = honest_rows(6, 9, seed)
    rows[:2] *= -1
    reference = honest_rows(1, 9, seed + 1)[0] + rows.mean(axis=0)
    scores = [max(0.0, row @ reference / np.linalg.norm(row) / np.linalg.norm(reference)) for row in rows]
    if sum(scores) < 1e-3:
        return
    scaled = [row * np.linalg.norm(reference) / np.linalg.norm(row) for row in rows]
    expected = sum(score * row for score, row in zip(scores, scaled, strict=True)) / sum(scores)
    np.testing.assert_allclose(trust(rows, reference), expected, rtol=1e-3, atol=1e-4)


def test_length_is_of_no_use_and_the_opposite_way_counts_nothing() -> None:
    rows = np.array([[1, 0], [1e4, 0], [-1e4, 0], [0, 0]], np.float32)
    np.testing.assert_allclose(trust(rows, np.array([2, 0], np.float32)), [2, 0], rtol=1e-6)


@pytest.mark.parametrize("reference", [[1, 0], [0, 0]], ids=["all go the other way", "learned nothing"])
def test_where_nobody_is_trusted_there_is_no_result(reference: list[float]) -> None:
    rows = np.array([[-1, 0], [-1, 1], [0, 0]], np.float32)
    with pytest.raises(CoordinatorError, match="FA-5115"):
        trust(rows, np.array(reference, np.float32))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_reference_has_the_values_of_an_answer(algorithm: AlgorithmName) -> None:
    recipe = SGD.model_copy(update={"algorithm": algorithm, "gradient_clip": 0.0})
    # Scaffold asks for a rule that has no use for a reference; its answers have one all the same.
    settings = ServerSettings(task=TASK).model_copy(update={"recipe": recipe})
    base = new_weights()
    row = train_reference(CLIPS, settings, base, Memory(), 3)
    schema = ALGORITHMS[algorithm].answer_schema(schema_of(base))
    assert row.shape == (sum(int(np.prod(shape)) for shape in schema.values()),)
    assert row.dtype == np.float32
    assert np.linalg.norm(row) > 0
    again = train_reference(CLIPS, settings, base, Memory(), 3)
    assert row.tobytes() == again.tobytes()


def test_a_device_with_such_clips_goes_the_same_way() -> None:
    settings, base = ServerSettings(task=TASK, recipe=SGD), new_weights()
    plan = make_plan(
        settings, "train", 3, b"", coordinator="c" * 64, run="f" * 16, cohort=9, recipient="f" * 16
    )
    answer = LocalTrainer(TASK).answer(plan, base, made_clips(24, seed=1), (), "d" * 32).answer
    assert answer is not None
    row = np.concatenate([answer[name].ravel() for name in sorted(answer)])
    reference = train_reference(CLIPS, settings, base, Memory(), 3)
    assert row @ reference > 0.3 * np.linalg.norm(row) * np.linalg.norm(reference)


@pytest.mark.parametrize("how", ["no clips", "diverges"])
def test_a_training_that_comes_to_nothing_makes_the_round_void(how: str) -> None:
    # Each step multiplies the weights by -9.
    runaway = SGD.model_copy(update={"learning_rate": 10.0, "weight_decay": 1.0, "epochs": 60})
    clips, recipe = (CLIPS, runaway) if how == "diverges" else (CLIPS.subset(np.arange(0)), SGD)
    base = new_weights()
    with pytest.raises(CoordinatorError, match="FA-5115"):
        train_reference(clips, ServerSettings(task=TASK, recipe=recipe), base, Memory(), 3)
