"""A small campaign, and whether a campaign would notice."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from common.errors import FedAudioError, ProtocolError
from tests.fuzz import campaign
from tests.fuzz.mutators import MUTATORS, Mutator
from tests.fuzz.targets import OtherValueError, Target, every_target

TARGETS = every_target()
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
each = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@each
def test_what_is_spoiled_is_good_before(target: Target) -> None:
    with suppress(OtherValueError):
        target.check(target.corpus[0])


@each
def test_no_mutant_is_believed_crashes_its_reader_or_keeps_it_busy(target: Target) -> None:
    tally = campaign.run(target, 5_000 // len(TARGETS), seed=1)
    assert not tally.failures
    assert tally.refused + tally.other == tally.mutants
    assert tally.refused > tally.mutants / 4


@pytest.mark.parametrize("mutator", dict.fromkeys(MUTATORS), ids=lambda mutator: mutator.__name__)
def test_every_mutator_changes_something_and_minds_nothing(mutator: Mutator) -> None:
    rng, changed = random.Random(0), 0
    corpora = [target.corpus for target in TARGETS] + [(b"", b""), (b"x", b"yz")]
    for corpus, fields in [(corpus, fields) for corpus in corpora for fields in ((), ((0, 4), (129, 133)))]:
        for _ in range(5):
            data = bytearray(corpus[0])
            mutator(rng, data, corpus, fields)
            changed += data != corpus[0]
    assert changed > 10


def spoiled(check: object, mutants: int = 50) -> campaign.Tally:
    return campaign.run(Target("made", (b"good message", b"another one"), check), mutants, seed=0)  # type: ignore[arg-type]


def test_one_that_is_believed_is_noticed() -> None:
    tally = spoiled(lambda data: data)
    assert (tally.failed, tally.accepted) == (True, 50)
    assert all(bytes.fromhex(data) != b"good message" for _, data in tally.failures)


@pytest.mark.parametrize(
    "error", [ValueError("x"), RecursionError(), MemoryError(), BaseException("a panic")]
)
def test_a_crash_is_noticed(error: BaseException) -> None:
    def check(_: bytes) -> None:
        raise error

    assert (spoiled(check).failed, spoiled(check).crashed) == (True, 50)


def test_a_slow_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "SLOW_SECONDS", 0.001)

    def check(_: bytes) -> None:
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass
        raise ProtocolError("FA-3021", "", "")

    assert (spoiled(check, 3).failed, spoiled(check, 3).slow) == (True, 3)


def test_refusals_alone_are_no_failure() -> None:
    def check(_: bytes) -> None:
        raise FedAudioError("FA-3021", "", "")

    assert not spoiled(check).failed


def test_the_command_says_so_with_its_status() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--mutants", "200", "--target", "invitation", "--json"]
    done = subprocess.run(
        command, check=False, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"mutants": 200' in done.stdout.splitlines()[-1]
