"""What a coordinator remembers: it comes back whole, or not at all, and is never in the way."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from common.protocol.plan import Recipe
from common.protocol.tensors import encode_weights
from fl_server.memory import KEPT_NORMS, Memory, decode_memory, made_by
from fl_server.settings import OptimizerConfig

OF = made_by(Recipe(), OptimizerConfig(kind="fedadam"), {"w": (2, 3)})
VALUES = {"0.exp_avg": np.arange(6, dtype=np.float32).reshape(2, 3)}
MADE = Memory(VALUES, {"control.w": np.ones((2, 3), np.float32)}, (1.0, 2.0), (0.5,), OF)
WHOLE = MADE.encode()


def facts(memory: Memory) -> tuple[object, ...]:
    return encode_weights(memory.optimizer), encode_weights(memory.algorithm), memory.norms, memory.steps


EMPTY = facts(Memory())


def test_it_comes_back_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    back = decode_memory(WHOLE, OF)
    assert facts(back) == facts(MADE)
    assert back.of == OF
    assert facts(decode_memory(None, OF)) == facts(decode_memory(Memory().encode(), OF)) == EMPTY
    assert caplog.records == []


def tensors(**changes: np.ndarray) -> bytes:
    right = {
        "norms": np.ones(2),
        "steps": np.ones(2),
        "of": np.frombuffer(OF.encode(), np.uint8),
        "optimizer.0.x": np.ones(3, np.float32),
    }
    return save(right | changes)


DAMAGED = {
    "empty": b"",
    "cut": WHOLE[:-1],
    "longer": WHOLE + b"x",
    "a model": encode_weights(VALUES),
    "text": b"memory" * 20,
    "norms in two rows": tensors(norms=np.ones((2, 2))),
    "norms in a number": tensors(norms=np.array(1.0)),
    "a negative norm": tensors(norms=np.array([-1.0])),
    "an infinite step": tensors(steps=np.array([np.inf])),
    "too many steps": tensors(steps=np.ones(KEPT_NORMS + 1)),
    "doubles": tensors(**{"optimizer.0.x": np.ones(3)}),
    "moments that are not numbers": tensors(**{"optimizer.0.x": np.full(3, np.nan, np.float32)}),
    "no text": tensors(of=np.full(4, 0xFF, np.uint8)),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_what_is_damaged_is_passed_over_with_one_warning(how: str, caplog: pytest.LogCaptureFixture) -> None:
    assert facts(decode_memory(tensors(), OF)) != EMPTY
    assert facts(decode_memory(DAMAGED[how], OF)) == EMPTY
    (record,) = caplog.records
    assert (record.levelno, "is damaged" in record.message) == (logging.WARNING, True)


@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), end=st.integers(0, len(WHOLE)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_is_an_exception(at: int, byte: int, end: int) -> None:
    changed = bytearray(WHOLE)
    changed[at] = byte
    decode_memory(bytes(changed), OF)
    if end < len(WHOLE):
        assert facts(decode_memory(WHOLE[:end], OF)) == EMPTY


@pytest.mark.parametrize("other", [
    made_by(Recipe(algorithm="fedprox"), OptimizerConfig(kind="fedadam"), {"w": (2, 3)}),
    made_by(Recipe(), OptimizerConfig(), {"w": (2, 3)}),
    made_by(Recipe(), OptimizerConfig(kind="fedadam"), {"w": (3, 2)}),
])  # fmt: skip
def test_what_other_settings_made_is_begun_anew(other: str, caplog: pytest.LogCaptureFixture) -> None:
    assert facts(decode_memory(WHOLE, other)) == EMPTY
    assert len(caplog.records) == 1


def test_numbers_that_change_nothing_of_its_meaning_leave_it() -> None:
    recipe, optimizer = Recipe(epochs=9), OptimizerConfig(kind="fedadam", learning_rate=0.5)
    assert made_by(recipe, optimizer, {"w": (2, 3)}) == OF
