"""The ledger: nothing is lost, nothing is forged, nothing goes back, whoever else writes, whatever dies."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import DeviceError, FedAudioError
from common.files import StorageError
from fl_client.account import Account, Cost, Entry, State
from fl_client.ledger import Ledger
from fl_client.marks import MARKS
from tests.processes import ROOT

KEY = bytes(range(32))
COST = Cost(unit="clip", noise_multiplier=1.0, sampling_rate=0.1, steps=100, delta=1e-5)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def reserved(steps: int = 100, number: int = 0) -> Entry:
    cost = COST.model_copy(update={"steps": steps})
    return Entry(state="reserved", time=NOW, run="00" * 8, round=number, plan="ab" * 32, cost=cost)


class Place:
    """Where a test's ledger is."""

    def __init__(self, root: Path) -> None:
        self.folder, self.elsewhere = root / "identity", root / "elsewhere"
        self.folder.mkdir(parents=True)
        self.file, self.witness = self.folder / "ledger.db", self.elsewhere / "ledger.json"

    def ledger(self, key: bytes | None = KEY) -> Ledger:
        return Ledger(self.file, self.witness, key)

    def book(self, *entries: Entry) -> None:
        with self.ledger() as ledger:
            for entry in entries:
                ledger.write(lambda account, entry=entry: entry)  # type: ignore[misc]

    def entries(self, key: bytes | None = KEY) -> list[tuple[int, Entry]]:
        with self.ledger(key) as ledger:
            return ledger.entries()

    def refused(self, key: bytes | None = KEY) -> str:
        with self.ledger(key) as ledger, pytest.raises(FedAudioError) as caught:
            ledger.account()
        return caught.value.code


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def three(place: Place) -> Place:
    """With three lines in it."""
    place.book(Entry(state="exact", time=NOW), reserved(5), reserved(7, 1))
    return place


class TestBooks:
    def test_what_was_written_is_there_after_it_was_closed(self, three: Place) -> None:
        assert [(seq, entry.state) for seq, entry in three.entries()] == [
            (1, "exact"),
            (2, "reserved"),
            (3, "reserved"),
        ]
        with three.ledger() as ledger:
            account = ledger.account()
        assert (account.exact, account.steps) == (1, {"clip": Counter({(0.1, 1.0): 12})})

    def test_steps_add_up_without_end(self, place: Place) -> None:
        place.book(*[reserved(10**12)] * 3)
        with place.ledger() as ledger:
            assert ledger.account().steps["clip"].total() == 3 * 10**12

    def test_what_is_reserved_and_costs_nothing_is_damaged(self, three: Place) -> None:
        """A line as this device writes them, but for its cost, would be free."""
        free = reserved().model_copy(update={"cost": None})
        three.book(free)
        assert three.refused() == three.refused(key=None) == "FA-4043"
        with three.ledger() as ledger, pytest.raises(DeviceError, match="line 4 makes no sense"):
            ledger.entries()

    @pytest.mark.parametrize("state", ["round", "exact", "spent"])
    def test_nothing_but_what_is_reserved_has_a_cost(self, state: State) -> None:
        with pytest.raises(ValidationError, match="has a cost"):
            Entry(state=state, time=NOW, cost=COST)

    def test_a_refused_change_changes_nothing(self, three: Place) -> None:
        def refuse(account: Account) -> Entry:
            raise DeviceError("FA-4034", "no", "no")

        with three.ledger() as ledger:
            with pytest.raises(DeviceError, match="FA-4034"):
                ledger.write(refuse)
            ledger.write(lambda account: None)
            assert len(ledger.entries()) == 3
            ledger.write(lambda account: reserved())
        assert len(three.entries()) == 4

    def test_without_the_key_it_is_for_reading_and_makes_no_file(self, place: Place) -> None:
        with place.ledger(key=None) as ledger:
            assert ledger.entries() == []
            with pytest.raises(ValueError, match="reading"):
                ledger.write(lambda account: reserved())
        assert not place.file.exists()
        place.book(reserved())
        assert place.entries(key=None) == place.entries()

    def test_nothing_of_it_is_for_others(self, three: Place) -> None:
        with three.ledger() as ledger:
            ledger.account()
            files = [path for path in three.folder.parent.rglob("*") if path.is_file()]
            assert len(files) > 5
            assert {path.stat().st_mode & 0o077 for path in files} == {0}

    def test_what_cannot_be_read_is_not_called_damaged(self, place: Place) -> None:
        place.file.mkdir()
        assert place.refused() == "FA-8001"
        place.file.rmdir()
        shutil.rmtree(place.folder)
        assert place.refused() == "FA-8001"

    def test_it_is_open_to_all_at_once(self, three: Place) -> None:
        with three.ledger() as first, three.ledger() as second:
            first.write(lambda account: reserved(1))
            second.write(lambda account: reserved(account.steps["clip"].total()))
            first.write(lambda account: reserved(account.steps["clip"].total()))
        assert [entry.cost.steps for _, entry in three.entries() if entry.cost] == [5, 7, 1, 13, 26]


class TestLimit:
    """However many write at once, what they decide by is what is there."""

    def test_processes_that_spend_at_once_do_not_overspend(self, place: Place) -> None:
        spending = [
            subprocess.Popen(
                [sys.executable, "-c", SPENDER, str(place.file), str(place.witness), "60"],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        taken = sum(int(process.communicate()[0]) for process in spending)
        assert taken == 60
        with place.ledger() as ledger:
            assert ledger.account().steps["clip"].total() == 60


SPENDER = """
import sys
from pathlib import Path
from fl_client.ledger import Ledger
from tests.fl_client.test_ledger import KEY, reserved

limit, taken = int(sys.argv[3]), 0

def spend(account):
    global taken
    spent = account.steps["clip"].total() if "clip" in account.steps else 0
    if spent == limit:
        return None
    taken += 1
    return reserved(1)

with Ledger(Path(sys.argv[1]), Path(sys.argv[2]), KEY) as ledger:
    before = -1
    while before < taken:
        before = taken
        ledger.write(spend)
print(taken)
"""


class TestForgery:
    def test_sql_cannot_change_or_remove_a_line(self, three: Place) -> None:
        database = sqlite3.connect(three.file)
        for statement in ("UPDATE lines SET text = '{}'", "DELETE FROM lines WHERE seq = 3"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                database.execute(statement)

    @pytest.mark.parametrize("column", ["seq", "text", "digest", "mac"])
    @pytest.mark.parametrize("line", [1, 2, 3])
    def test_a_changed_byte_of_any_column_of_any_line(self, three: Place, column: str, line: int) -> None:
        database = unguarded(three)
        if column == "seq":
            database.execute("UPDATE lines SET seq = seq + 10 WHERE seq = ?", (line,))
        else:
            (value,) = database.execute(f"SELECT {column} FROM lines WHERE seq = ?", (line,)).fetchone()  # noqa: S608
            raw = value.encode() if isinstance(value, str) else value
            for at in range(len(raw)):
                changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
                put = f"UPDATE lines SET {column} = CAST(? AS {'TEXT' if column == 'text' else 'BLOB'})"  # noqa: S608
                database.execute(f"{put} WHERE seq = ?", (changed, line))
                database.commit()
                assert three.refused() == "FA-4043"
                if column != "mac":
                    assert three.refused(key=None) == "FA-4043"
        database.commit()
        assert three.refused() == "FA-4043"

    def test_lines_that_were_swapped_taken_out_or_added(self, three: Place) -> None:
        before = three.file.read_bytes()
        for statements in (
            "UPDATE lines SET seq = 9 WHERE seq = 1; UPDATE lines SET seq = 1 WHERE seq = 2; "
            "UPDATE lines SET seq = 2 WHERE seq = 9",
            "DELETE FROM lines WHERE seq = 1",
            "DELETE FROM lines WHERE seq = 2",
            "INSERT INTO lines SELECT 4, text, digest, mac FROM lines WHERE seq = 3",
            "DROP TABLE lines",
        ):
            database = unguarded(three)
            database.executescript(statements)
            database.close()
            assert three.refused() == ("FA-4062" if "DROP" in statements else "FA-4043"), statements
            three.file.write_bytes(before)

    def test_a_chain_made_anew_without_the_key(self, three: Place) -> None:
        """Whole for who looks at the digests alone; nobody but the device can make the MACs."""
        for path in (three.file, three.witness, three.folder / MARKS):
            path.unlink()
        with Ledger(three.file, three.witness, bytes(32)) as other:
            other.write(lambda account: reserved(1))
        three.witness.unlink()
        assert three.refused() == "FA-4043"

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_whatever_byte_of_the_file_changes_no_other_line_is_read(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        place, before, content = whole(tmp_path_factory)
        spoil(place.file, content, data)
        try:
            now = place.entries()
        except FedAudioError:
            return
        assert now == before

    @pytest.mark.parametrize("data", [b"", b"{}" * 3000])
    def test_another_file_in_its_place(self, three: Place, data: bytes) -> None:
        three.file.write_bytes(data)
        assert three.refused() in {"FA-4043", "FA-4062"}


_whole: list[tuple[Place, list[tuple[int, Entry]], bytes]] = []


def whole(folders: pytest.TempPathFactory) -> tuple[Place, list[tuple[int, Entry]], bytes]:
    """A ledger for many examples, what is in it, and its file as it should be."""
    if not _whole:
        place = Place(folders.mktemp("ledger"))
        place.book(Entry(state="exact", time=NOW), reserved(5), reserved(7, 1))
        _whole.append((place, place.entries(), place.file.read_bytes()))
    place, entries, content = _whole[0]
    for log in place.folder.glob("ledger.db-*"):
        log.unlink(missing_ok=True)
    place.file.write_bytes(content)
    return place, entries, content


def spoil(path: Path, content: bytes, data: st.DataObject) -> None:
    """Change one byte of a file that should have `content`."""
    at, change = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])


def unguarded(place: Place) -> sqlite3.Connection:
    """As somebody writes to the file who does not care for triggers."""
    database = sqlite3.connect(place.file)
    database.executescript("DROP TRIGGER never_changed; DROP TRIGGER never_removed")
    return database


class TestWitness:
    """What was once there and is there no more."""

    def test_an_older_copy_put_back(self, three: Place) -> None:
        older = three.file.read_bytes()
        three.book(reserved(100))
        three.file.write_bytes(older)
        assert three.refused() == "FA-4062"
        assert three.refused(key=None) == "FA-4062"

    def test_an_older_copy_that_went_on(self, three: Place, tmp_path: Path) -> None:
        """As long as the lost one, and whole, but another."""
        shutil.copytree(three.folder, tmp_path / "older")
        three.book(reserved(100))
        shutil.rmtree(three.folder)
        (tmp_path / "older").rename(three.folder)
        witness = three.witness.read_bytes()
        # The one who restores it has put the witness aside for a while.
        three.witness.unlink()
        (three.folder / MARKS).unlink()
        assert three.refused() == "FA-4061"
        three.witness.write_bytes(witness)
        assert three.refused() == "FA-4062"

    def test_a_lost_one_is_not_taken_for_an_empty_one(self, three: Place) -> None:
        three.file.unlink()
        assert three.refused() == "FA-4062"
        three.witness.unlink()
        assert three.refused() == "FA-4043"
        assert three.refused(key=None) == "FA-4043"

    def test_a_lost_witness(self, three: Place) -> None:
        three.witness.unlink()
        assert three.refused() == "FA-4061"

    @settings(max_examples=100, deadline=None)
    @given(data=st.data())
    def test_a_witness_that_is_not_ours(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        place, _, _ = whole(tmp_path_factory)
        content = place.witness.read_bytes()
        spoil(place.witness, content, data)
        assert place.refused() == "FA-4061"
        place.witness.write_bytes(content)

    def test_one_that_is_behind_is_no_fault(self, three: Place) -> None:
        """As after a power cut between a line and its witness."""
        behind = three.witness.read_bytes()
        three.book(reserved(100))
        three.witness.write_bytes(behind)
        assert len(three.entries()) == 4
        three.book(reserved(1))
        assert json.loads(three.witness.read_bytes())["seq"] == 5

    def test_the_disk_with_the_witness_is_full_or_gone(self, three: Place) -> None:
        """What was reserved is spent, and no step is taken; when the disk is back the device goes on."""
        with three.ledger() as ledger:
            ledger.account()
            away = three.elsewhere.rename(three.elsewhere.with_name("away"))
            with pytest.raises(StorageError, match="FA-8001"):
                ledger.write(lambda account: reserved(1))
            assert ledger.account().steps["clip"].total() == 13
            assert three.refused() == "FA-4061"
            away.rename(three.elsewhere)
            ledger.write(lambda account: reserved(1))
        assert len(three.entries()) == 5
