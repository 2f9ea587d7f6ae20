"""A ledger of before 0.2 is taken over whole, once, whenever the power goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from fl_client.account import Account
from fl_client.marks import MARKS, read_marks
from fl_client.old_ledger import OLD_LEDGER
from tests.fl_client.test_ledger import Place, reserved
from tests.processes import ROOT

OLD = {
    "day": "2026-06-01",
    "rounds": 3,
    "last": "0123456789abcdef/7",
    "spent": [
        {"noise_multiplier": 1.0, "sampling_rate": 0.25, "steps": 40},
        {"noise_multiplier": 2.0, "sampling_rate": 0.25, "steps": 2},
    ],
    "exact": 9,
}


class TestTakenOver:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Place(tmp_path)

    @pytest.fixture
    def old(self, place: Place) -> Place:
        (place.folder / OLD_LEDGER).write_text(json.dumps(OLD, separators=(",", ":")))
        marks = {"release": 2, "trust": 1, "counter": 4, "rounds": {}, "ledger": True}
        (place.folder / MARKS).write_text(json.dumps(marks, separators=(",", ":")))
        return place

    def check(self, account: Account) -> None:
        assert account.steps == {"clip": Counter({(0.25, 1.0): 40, (0.25, 2.0): 2})}
        assert account.exact == 9
        day = datetime(2026, 6, 1).date()
        assert account.rounds_on(day) == 3
        assert account.counts(day, "0123456789abcdef/7")

    def test_nothing_is_lost(self, old: Place) -> None:
        with old.ledger(key=None) as ledger:
            self.check(ledger.account())
        assert not old.file.exists()
        for _ in range(2):
            with old.ledger() as ledger:
                self.check(ledger.account())
        assert not (old.folder / OLD_LEDGER).exists()
        assert len(old.entries()) == 4
        assert read_marks(old.folder / MARKS).counter == 4

    @pytest.mark.parametrize("step", [1, 2, 3])
    def test_also_if_it_is_killed_in_the_middle(self, old: Place, step: int) -> None:
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_TAKING_OVER, str(old.file), str(old.witness), str(step)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        with old.ledger() as ledger:
            self.check(ledger.account())
        assert len(old.entries()) == 4

    def test_an_old_one_that_comes_back_does_not_count_twice(self, old: Place) -> None:
        data = (old.folder / OLD_LEDGER).read_bytes()
        old.entries()
        (old.folder / OLD_LEDGER).write_bytes(data)
        with old.ledger() as ledger:
            self.check(ledger.account())

    def test_an_old_one_in_the_place_of_a_newer_one(self, old: Place) -> None:
        data = (old.folder / OLD_LEDGER).read_bytes()
        old.book(reserved())
        old.file.unlink()
        (old.folder / OLD_LEDGER).write_bytes(data)
        assert old.refused() == "FA-4062"

    @pytest.mark.parametrize("data", ["", "{}", "x", '{"day":"","rounds":-1,"last":"","spent":[],"exact":0}'])
    def test_a_damaged_one_is_not_guessed(self, old: Place, data: str) -> None:
        (old.folder / OLD_LEDGER).write_text(data)
        assert old.refused() == "FA-4043"
        assert old.refused(key=None) == "FA-4043"

    def test_a_lost_one(self, old: Place) -> None:
        (old.folder / OLD_LEDGER).unlink()
        assert old.refused() == "FA-4043"


KILLED_TAKING_OVER = """
import os, signal, sys
from pathlib import Path
from fl_client import ledger
from tests.fl_client.test_ledger import KEY

left = int(sys.argv[3])

def deadly(real):
    def call(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return call

ledger.raise_witness, ledger.remove = deadly(ledger.raise_witness), deadly(ledger.remove)
ledger.Ledger(Path(sys.argv[1]), Path(sys.argv[2]), KEY).account()
"""
