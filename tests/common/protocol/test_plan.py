"""Plans: what a coordinator signed is what a device reads, within the bounds a device accepts."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.protocol.plan import (
    LARGEST_PLAN,
    Augmentation,
    Plan,
    Privacy,
    Recipe,
    open_plan,
    parse_plan,
    sign_plan,
)
from common.security.canonical import canonical
from common.security.statement import raw_public, sign_statement
from common.task import Task, Trigger
from tests.common.security.made_messages import Coordinator

labels = st.lists(st.from_regex(r"[a-z ]{1,12}", fullmatch=True), min_size=2, max_size=6, unique=True).map(
    tuple
)
scaffold = st.builds(
    Recipe,
    algorithm=st.just("scaffold"),
    optimizer=st.just("sgd"),
    momentum=st.just(0.0),
    gradient_clip=st.just(0.0),
)
fedrep = st.builds(
    Recipe,
    algorithm=st.just("fedrep"),
    head_epochs=st.integers(1, 1000),
    steps=st.none() | st.integers(2, 100_000),
)
recipes = (
    scaffold
    | fedrep
    | st.builds(
        Recipe,
        algorithm=st.sampled_from(["fedavg", "fedprox", "fedper"]),
        head_epochs=st.integers(1, 1000),
        optimizer=st.sampled_from(["sgd", "adamw"]),
        learning_rate=st.floats(1e-6, 10),
        batch_size=st.integers(1, 4096),
        epochs=st.integers(1, 1000),
        steps=st.none() | st.integers(0, 100_000),
        proximal=st.floats(0, 100),
        gradient_clip=st.just(0.0) | st.floats(1e-3, 1e3),
        augmentation=st.builds(Augmentation, shift_seconds=st.floats(0, 1), time_masks=st.integers(0, 10)),
    )
)
hexadecimal = st.binary(min_size=32, max_size=32).map(bytes.hex)
plans = st.builds(
    Plan,
    coordinator=hexadecimal,
    run=st.binary(min_size=8, max_size=8).map(bytes.hex),
    round=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["train", "evaluate"]),
    expires=st.integers(0, 2**53 - 1),
    cohort=st.integers(1, 2**32 - 1),
    recipient=st.binary(min_size=8, max_size=8).map(bytes.hex),
    task=st.builds(
        Task,
        labels=labels,
        clip_seconds=st.floats(0.06, 30),
        width=st.none() | st.integers(4, 1024),
        trigger=st.builds(Trigger, threshold=st.floats(0.4, 0.99)),
    ),
    recipe=recipes,
    privacy=st.none() | st.builds(Privacy, noise_multiplier=st.floats(0.01, 1000)),
    base=hexadecimal,
    holdout=st.floats(0, 0.5),
    seed=st.integers(0, 2**53),
    seconds=st.floats(0.01, 86_400),
)
MINE = Coordinator.make()
PLAN = MINE.plan(privacy=Privacy())
SIGNED = sign_plan(PLAN, MINE.plan_key)
SIGNERS = [raw_public(MINE.plan_key)]
TEXT = canonical(PLAN).decode()


def refused(text: str | bytes) -> None:
    """Not even when it is signed."""
    body = text.encode() if isinstance(text, str) else text
    with pytest.raises(ProtocolError, match="FA-3005"):
        parse_plan(body)
    with pytest.raises(ProtocolError, match="FA-3005"):
        open_plan(sign_statement("plan", body, MINE.plan_key), SIGNERS)


@given(plans)
def test_a_plan_comes_back_as_it_was(plan: Plan) -> None:
    assert open_plan(sign_plan(plan, MINE.plan_key), SIGNERS) == plan
    assert parse_plan(canonical(plan)) == plan


def test_no_two_plans_are_the_same_bytes() -> None:
    assert len({MINE.signed_plan() for _ in range(20)}) == 20


@pytest.mark.parametrize("bit", range(8))
def test_a_flip_of_any_bit_is_refused(bit: int) -> None:
    for place in range(len(SIGNED)):
        data = bytearray(SIGNED)
        data[place] ^= 1 << bit
        with pytest.raises(ProtocolError, match=r"FA-301[678]"):
            open_plan(bytes(data), SIGNERS)


def test_every_truncation_is_refused() -> None:
    for length in range(len(SIGNED)):
        with pytest.raises(ProtocolError, match=r"FA-301[68]"):
            open_plan(SIGNED[:length], SIGNERS)
    for length in range(len(TEXT)):
        with pytest.raises(ProtocolError, match="FA-3005"):
            parse_plan(TEXT.encode()[:length])


def test_two_plans_in_one_and_parts_of_two_are_refused() -> None:
    other = MINE.signed_plan(round=8)
    for data in (SIGNED + other, SIGNED[:76] + other[76:], other[:12] + SIGNED[12:76] + other[76:]):
        with pytest.raises(ProtocolError, match="FA-3018"):
            open_plan(data, SIGNERS)


def test_a_plan_by_a_key_that_may_not_sign_plans_is_refused() -> None:
    for key in (MINE.root_key, MINE.release_key, MINE.ca_key, Ed25519PrivateKey.generate()):
        with pytest.raises(ProtocolError, match="FA-3017"):
            open_plan(sign_plan(PLAN, key), SIGNERS)


def test_a_release_with_the_words_of_a_plan_is_none() -> None:
    both = sign_statement("release", canonical(PLAN), MINE.plan_key)
    with pytest.raises(ProtocolError, match="FA-3018"):
        open_plan(both, SIGNERS)


def test_a_plan_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(ProtocolError, match=r"FA-3005.*too long"):
        open_plan(SIGNED + bytes(LARGEST_PLAN), SIGNERS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("coordinator",), "0" * 63),
        (("coordinator",), "G" * 64),
        (("run",), ""),
        (("run",), "0" * 15),
        (("run",), "A" * 16),
        (("round",), -1),
        (("round",), 2**32),
        (("kind",), "execute"),
        (("nonce",), ""),
        (("nonce",), "0" * 62),
        (("expires",), -1),
        (("expires",), 2**53),
        (("expires",), 1.5),
        (("cohort",), 0),
        (("recipient",), "0" * 17),
        (("base",), "short"),
        (("seconds",), 0),
        (("seconds",), 1e9),
        (("holdout",), 0.9),
        (("seed",), -1),
        (("seed",), 2**53 + 1),
        (("seed",), 10**4000),
        (("code",), "import os"),
        (("task", "labels"), ["one"]),
        (("task", "labels"), ["same", "same"]),
        (("task", "labels"), ["../up", "no"]),
        (("task", "clip_seconds"), 1e6),
        (("task", "width"), 10**9),
        (("recipe", "steps"), 10**9),
        (("recipe", "batch_size"), 0),
        (("recipe", "learning_rate"), 1e9),
        (("recipe", "gradient_clip"), 1e300),
        (("recipe", "algorithm"), "fedsgd"),
        (("recipe", "algorithm"), "scaffold"),  # with AdamW, as the plan has it
        (("recipe", "head_epochs"), 0),
        (("recipe", "augmentation"), {"unknown": 1}),
        (("recipe", "augmentation", "noise_snr_db"), [5.0, 1e9]),
        (("privacy", "noise_multiplier"), 0),
        (("privacy", "delta"), 0.5),
    ],
)
def test_a_plan_out_of_bounds_is_refused(path: tuple[str, ...], value: object) -> None:
    document = json.loads(TEXT)
    inner = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    refused(json.dumps(document, separators=(",", ":"), ensure_ascii=False))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"round":7', '"round":7,"round":7'),
        ('"round":7', '"round":8,"round":7'),
        ('"round":7', '"round": 7'),
        ('"round":7', '"round":7.0'),
        ('"round":7', '"round":"7"'),
        ('"round":7,"kind":"train"', '"kind":"train","round":7'),
        ('"seconds":600.0', '"seconds":600'),
        ('"seconds":600.0', '"seconds":6e2'),
        ('"delta":1e-05', '"delta":0.00001'),
        ('"delta":1e-05', '"delta":1e-5'),
        ('"holdout":0.1,', ""),
        ('"yes"', '"\\u0079es"'),
    ],
)
def test_another_spelling_of_a_plan_is_refused(old: str, new: str) -> None:
    assert old in TEXT
    refused(TEXT.replace(old, new, 1))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "-1", "1e999", "null"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    for old in ('"seconds":600.0', '"gain_db":6.0', '"low_hz":60.0', '"learning_rate":0.002'):
        assert old in TEXT
        refused(TEXT.replace(old, f"{old.split(':')[0]}:{number}", 1))
    refused(TEXT.replace('"noise_snr_db":[5.0', f'"noise_snr_db":[{number}', 1).replace("[-1", "[-1e3"))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    refused(data)
    with pytest.raises(ProtocolError):
        open_plan(data, SIGNERS)


def test_a_recipe_that_could_not_be_sent_cannot_be_made() -> None:
    for wrong in ({"gradient_clip": float("inf")}, {"augmentation": {"noise_snr_db": (float("nan"), 1.0)}}):
        with pytest.raises(ValueError, match="less than or equal"):
            Recipe.model_validate(wrong)


@pytest.mark.parametrize("wrong", [{"optimizer": "adamw"}, {"momentum": 0.9}, {"gradient_clip": 5.0}])
def test_scaffold_is_refused_without_plain_sgd(wrong: dict[str, object]) -> None:
    right = {"algorithm": "scaffold", "optimizer": "sgd", "momentum": 0.0, "gradient_clip": 0.0}
    assert Recipe.model_validate(right).algorithm == "scaffold"
    with pytest.raises(ValueError, match="scaffold needs optimizer = 'sgd', momentum = 0 and gradient_clip"):
        Recipe.model_validate(right | wrong)


def test_fedrep_needs_a_step_for_the_head_and_one_for_the_body() -> None:
    assert Recipe(algorithm="fedrep", steps=2).steps == 2
    assert Recipe(algorithm="fedper", steps=1).steps == 1
    for steps in (0, 1):
        with pytest.raises(ValueError, match="fedrep needs 2 steps or more"):
            Recipe(algorithm="fedrep", steps=steps)


@given(st.sampled_from(["fedavg", "fedper", "fedrep"]), st.integers(1, 9), st.integers(1, 9))
def test_fedrep_passes_over_the_clips_for_its_head_too(name: str, epochs: int, head: int) -> None:
    recipe = Recipe.model_validate({"algorithm": name, "epochs": epochs, "head_epochs": head})
    assert recipe.passes == (epochs + head if name == "fedrep" else epochs)
