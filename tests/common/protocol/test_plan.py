"""Plans: what a coordinator orders is what a device reads, within the bounds a device accepts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.protocol.plan import Augmentation, Plan, Privacy, Recipe, parse_plan
from common.task import Task, Trigger

labels = st.lists(st.from_regex(r"[a-z ]{1,12}", fullmatch=True), min_size=2, max_size=6, unique=True).map(
    tuple
)
recipes = st.builds(
    Recipe,
    optimizer=st.sampled_from(["sgd", "adamw"]),
    learning_rate=st.floats(1e-6, 10),
    batch_size=st.integers(1, 4096),
    epochs=st.integers(1, 1000),
    steps=st.none() | st.integers(0, 100_000),
    proximal=st.floats(0, 100),
    gradient_clip=st.none() | st.floats(1e-3, 1e3),
    augmentation=st.builds(Augmentation, shift_seconds=st.floats(0, 1), time_masks=st.integers(0, 10)),
)
plans = st.builds(
    Plan,
    run=st.text(min_size=1, max_size=64),
    round=st.integers(0, 2**40),
    kind=st.sampled_from(["train", "evaluate"]),
    task=st.builds(
        Task,
        labels=labels,
        clip_seconds=st.floats(0.06, 30),
        width=st.none() | st.integers(4, 1024),
        trigger=st.builds(Trigger, threshold=st.floats(0.4, 0.99)),
    ),
    recipe=recipes,
    privacy=st.none() | st.builds(Privacy, noise_multiplier=st.floats(0.01, 1000)),
    base=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    holdout=st.floats(0, 0.5),
    seed=st.integers(0, 2**32),
    seconds=st.floats(0.01, 86_400),
)
PLAN = Plan(run="r", round=1, task=Task(labels=("yes", "no")), base="0" * 64)


@given(plans)
def test_a_plan_comes_back_as_it_was(plan: Plan) -> None:
    assert parse_plan(plan.model_dump_json().encode()) == plan


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("round",), -1),
        (("kind",), "execute"),
        (("base",), "short"),
        (("seconds",), 0),
        (("seconds",), 1e9),
        (("holdout",), 0.9),
        (("seed",), -1),
        (("code",), "import os"),
        (("run",), ""),
        (("task", "labels"), ["one"]),
        (("task", "labels"), ["same", "same"]),
        (("task", "labels"), ["../up", "no"]),
        (("task", "clip_seconds"), 1e6),
        (("task", "width"), 10**9),
        (("recipe", "steps"), 10**9),
        (("recipe", "batch_size"), 0),
        (("recipe", "learning_rate"), 1e9),
        (("recipe", "augmentation"), {"unknown": 1}),
        (("privacy",), {"noise_multiplier": 0}),
    ],
)
def test_a_plan_out_of_bounds_is_refused(path: tuple[str, ...], value: object) -> None:
    document = json.loads(PLAN.model_dump_json())
    inner = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    with pytest.raises(ProtocolError, match="FA-3005"):
        parse_plan(json.dumps(document).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="FA-3005"):
        parse_plan(data)


def test_every_truncation_is_refused() -> None:
    data = PLAN.model_dump_json().encode()
    for length in range(len(data)):
        with pytest.raises(ProtocolError, match="FA-3005"):
            parse_plan(data[:length])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", "1e999"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    text = PLAN.model_dump_json().replace('"seconds":600.0', f'"seconds":{number}')
    with pytest.raises(ProtocolError, match="FA-3005"):
        parse_plan(text.encode())
