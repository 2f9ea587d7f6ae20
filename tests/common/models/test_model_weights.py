from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import TrainingError
from common.models.registry import build_model
from common.models.weights import get_weights, set_weights
from common.protocol.tensors import decode_weights, encode_weights, schema_of
from common.task import Task

TASK = Task(labels=("left", "right"), width=8)


def test_weights_survive_the_wire_into_another_model() -> None:
    model, other = (build_model(TASK, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    weights = get_weights(model)
    set_weights(other, decode_weights(encode_weights(weights), schema_of(weights)))
    sound = torch.randn(2, 50, TASK.front_end.features)
    assert torch.equal(model(sound), other(sound))


def test_weights_are_a_copy() -> None:
    model = build_model(TASK, torch.Generator().manual_seed(1))
    weights = get_weights(model)
    kept = {name: value.copy() for name, value in weights.items()}
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1.0)
    assert all(np.array_equal(weights[name], kept[name]) for name in weights)
    set_weights(model, weights)
    weights["classify.bias"] += 5.0
    assert np.array_equal(get_weights(model)["classify.bias"], kept["classify.bias"])


def test_weights_of_another_width_are_refused_and_change_nothing() -> None:
    model = build_model(TASK, torch.Generator().manual_seed(1))
    before = get_weights(model)
    wider = build_model(TASK.model_copy(update={"width": 12}), torch.Generator().manual_seed(1))
    with pytest.raises(TrainingError, match=r"FA-7002.*another model"):
        set_weights(model, get_weights(wider))
    missing = dict(before)
    del missing["classify.bias"]
    with pytest.raises(TrainingError, match=r"'classify.bias' is missing"):
        set_weights(model, missing)
    with pytest.raises(TrainingError, match="'extra'"):
        set_weights(model, {**before, "extra": np.zeros(1, np.float32)})
    assert all(np.array_equal(before[name], value) for name, value in get_weights(model).items())
