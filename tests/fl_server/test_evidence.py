"""The log: a fact and its line together, and whatever is done to it afterwards is found and named."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import CoordinatorError
from common.files import StorageError
from fl_server import evidence
from fl_server.registry import Registry, Token, after_commit

Rows = list[tuple[int, str, str]]
TRIGGERS = ("evidence_no_update", "evidence_no_delete", "evidence_no_insert")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "coordinator.db")


@pytest.fixture
def head(tmp_path: Path) -> Path:
    return tmp_path / "evidence.head"


def write(registry: Registry, count: int) -> None:
    for number in range(count):
        with registry.session() as session:
            evidence.append(session, "revoked", device=f"{number:032x}", reason="it was “lost”\n")


def tamper(path: Path, change: Callable[[Rows], Rows]) -> None:
    """What somebody does who may write to the database: the triggers do not hold them back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        rows = connection.execute("SELECT seq, line, digest FROM evidence ORDER BY seq").fetchall()
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        connection.execute("DELETE FROM evidence")
        connection.executemany("INSERT INTO evidence VALUES (?, ?, ?)", change(rows))


def digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def rewritten(rows: Rows, first: int) -> Rows:
    """The lines from the one at `first` on, with a chain of their own."""
    previous, new = rows[first - 1][2] if first else evidence.BEGINNING, rows[:first]
    for seq, line, _ in rows[first:]:
        fields = json.loads(line) | {"previous": previous}
        fields["reason"] = "because I say so" if seq == first + 1 else fields["reason"]
        text = json.dumps(fields, separators=(",", ":"))
        previous = digest(text)
        new.append((seq, text, previous))
    return new


def finding(registry: Registry, head: Path) -> str:
    with pytest.raises(CoordinatorError, match="FA-5055") as raised:
        evidence.verify(registry, head)
    return raised.value.happened


def test_lines_are_chained_and_hold_what_was_said(registry: Registry, head: Path) -> None:
    assert evidence.verify(registry, head) == evidence.Verified(0, evidence.BEGINNING)
    assert evidence.head(registry) == (0, evidence.BEGINNING)
    write(registry, 2)
    with registry.session() as session:
        evidence.append(
            session, "round", round=1, contributions=[{"device": "d", "update": "u"}], refusals=[]
        )
    lines = list(evidence.lines(registry))
    fields = [json.loads(line) for line in lines]
    assert [line["seq"] for line in fields] == [1, 2, 3]
    assert [line["previous"] for line in fields] == [evidence.BEGINNING, *map(digest, lines[:2])]
    assert list(fields[0]) == ["seq", "time", "kind", "device", "reason", "previous"]
    assert fields[2]["contributions"] == [{"device": "d", "update": "u"}]
    assert fields[1]["reason"] == "it was “lost”\n"
    assert evidence.verify(registry, head) == evidence.Verified(3, digest(lines[2]))
    assert evidence.head(registry) == (3, digest(lines[2]))


@pytest.mark.parametrize("reason", ["\ud800", "\x00", "'; DROP TABLE evidence; --", "🎙", "a" * 100_000])
def test_any_text_can_be_a_fact(registry: Registry, head: Path, reason: str) -> None:
    with registry.session() as session:
        evidence.append(session, "revoked", reason=reason)
    assert json.loads(next(evidence.lines(registry)))["reason"] == reason
    assert evidence.verify(registry, head).entries == 1


def test_a_fact_and_its_line_are_there_together_or_not_at_all(registry: Registry, head: Path) -> None:
    def fail() -> None:
        with registry.session() as session:
            evidence.append(session, "revoked", device="d")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert evidence.verify(registry, head).entries == 0
    assert not head.exists()


def test_the_database_itself_takes_only_new_lines(registry: Registry) -> None:
    write(registry, 2)
    with closing(sqlite3.connect(registry.path)) as connection:
        for statement in (
            "UPDATE evidence SET line = '{}' WHERE seq = 1",
            "DELETE FROM evidence WHERE seq = 2",
            "INSERT INTO evidence VALUES (9, '{}', 'd')",
            "REPLACE INTO evidence VALUES (2, '{}', 'd')",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added to"):
                connection.execute(statement)


TAMPERING: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "a changed line": (
        lambda rows: [*rows[:2], (3, rows[2][1].replace("lost", "sold"), rows[2][2]), *rows[3:]],
        "Line 3 of the evidence was changed"),
    "a changed line with its digest": (
        lambda rows: [*rows[:2], rewritten(rows, 2)[2], *rows[3:]], "Line 3 of the evidence was changed"),
    "a changed digest": (
        lambda rows: [*rows[:2], (3, rows[2][1], "0" * 64), *rows[3:]], "Line 3 of the evidence was changed"),
    "a line that is no JSON": (
        lambda rows: [*rows[:2], (3, "{", digest("{")), *rows[3:]], "Line 3 of the evidence was changed"),
    "a key twice": (
        lambda rows: [*rows[:2], (3, (line := rows[2][1][:-1] + ',"seq":3}'), digest(line)), *rows[3:]],
        "Line 3 of the evidence was changed"),
    "the first line": (
        lambda rows: [(1, *rewritten(rows, 0)[0][1:]), *rows[1:]], "Line 1 of the evidence was changed"),
    "a line that is gone": (lambda rows: rows[:2] + rows[3:], "Line 3 of the evidence is missing"),
    "a gap that was closed": (
        lambda rows: rows[:2] + [(seq - 1, line, mark) for seq, line, mark in rows[3:]],
        "Line 3 of the evidence was moved: it was written as line 4"),
    "the first is gone": (lambda rows: rows[1:], "Line 1 of the evidence is missing"),
    "two that changed places": (
        lambda rows: [rows[0], (2, *rows[2][1:]), (3, *rows[1][1:]), *rows[3:]],
        "Line 2 of the evidence was moved: it was written as line 3"),
    "one that was put between": (
        lambda rows: [*rows[:2], (3, *rows[1][1:]), *((seq + 1, line, mark) for seq, line, mark in rows[2:])],
        "Line 3 of the evidence was moved: it was written as line 2"),
    "the last line": (lambda rows: rows[:-1], "Line 5 of the evidence is missing: evidence.head names it"),
    "the end": (lambda rows: rows[:2], "Line 3 of the evidence is missing, as are all up to 5"),
    "all": (lambda rows: [], "Line 1 of the evidence is missing, as are all up to 5"),
    "the last, with its digest": (
        lambda rows: rewritten(rows, 4), "Line 5 of the evidence was changed, or one before it"),
    "all anew": (lambda rows: rewritten(rows, 0), "Line 5 of the evidence was changed, or one before it"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERING)
def test_what_was_tampered_with_is_named(registry: Registry, head: Path, what: str) -> None:
    change, expected = TAMPERING[what]
    write(registry, 5)
    evidence.verify(registry, head)
    tamper(registry.path, change)
    assert finding(registry, head).startswith(expected)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("log")
    registry = Registry(folder / "coordinator.db")
    write(registry, data.draw(st.integers(1, 6), label="lines"))

    def change(rows: Rows) -> Rows:
        index = data.draw(st.integers(0, len(rows) - 1), label="line")
        seq, line, mark = rows[index]
        at = data.draw(st.integers(0, len(line) - 1), label="at")
        letter = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda c: c != line[at]))
        changed.append(seq)
        new = line[:at] + letter + line[at + 1 :]
        rows[index] = (seq, new, data.draw(st.sampled_from((mark, digest(new))), label="digest"))
        return rows

    changed: list[int] = []
    tamper(registry.path, change)
    happened = finding(registry, folder / "evidence.head")
    registry.close()
    # Somebody who changes what a line says of the one before it puts that one in doubt, not itself.
    assert happened.startswith(tuple(f"Line {seq} " for seq in (changed[0], max(1, changed[0] - 1))))


def test_a_log_without_its_high_water_mark_is_not_believed(registry: Registry, head: Path) -> None:
    write(registry, 2)
    mark = head.read_bytes()
    head.unlink()
    assert "evidence.head is missing" in finding(registry, head)
    for damaged in (b"", b"{}", mark + b" ", mark[:-1], b"\xff"):
        head.write_bytes(damaged)
        assert "evidence.head is damaged" in finding(registry, head)
        write(registry, 1)  # the coordinator goes on, and leaves the traces
        assert head.read_bytes() == damaged


def test_the_high_water_mark_is_never_lowered(registry: Registry, head: Path) -> None:
    write(registry, 1)
    with registry.session() as session:
        evidence.append(session, "revoked", device="early")
        act = after_commit(session)["evidence"]
    write(registry, 1)
    high = head.read_bytes()
    act()  # a process that was slow after its commit
    assert head.read_bytes() == high
    assert json.loads(high)["seq"] == 3
    assert head.stat().st_mode & 0o077 == 0


def test_a_crash_before_the_mark_was_raised_is_no_tampering(registry: Registry, head: Path) -> None:
    write(registry, 2)
    script = dedent("""
        import os, sys
        from pathlib import Path
        from fl_server import evidence
        from fl_server.registry import Registry
        evidence._raise_head = lambda path, new: os.kill(os.getpid(), 9)
        with Registry(Path(sys.argv[1])).session() as session:
            evidence.append(session, "revoked", device="d")
    """)
    done = subprocess.run([sys.executable, "-c", script, str(registry.path)], check=False)
    assert done.returncode == -9
    assert json.loads(head.read_bytes())["seq"] == 2
    assert evidence.verify(registry, head).entries == 3
    write(registry, 1)
    assert json.loads(head.read_bytes())["seq"] == 4


def test_a_head_that_was_kept_elsewhere_is_held_against_the_log(registry: Registry, head: Path) -> None:
    write(registry, 3)
    entries, last = evidence.head(registry)
    write(registry, 2)
    evidence.check_anchor(registry, entries, last, "the note")
    evidence.check_anchor(registry, 0, evidence.BEGINNING, "the note")

    # Written anew from line 2 on, and the mark with it: nothing on this machine tells.
    tamper(registry.path, lambda rows: rewritten(rows, 1))
    entries_now, last_now = evidence.head(registry)
    head.write_text(json.dumps({"seq": entries_now, "digest": last_now}, separators=(",", ":")))
    assert evidence.verify(registry, head).entries == 5
    with pytest.raises(CoordinatorError, match=r"FA-5055: Line 3 .* was changed.*the note"):
        evidence.check_anchor(registry, entries, last, "the note")
    with pytest.raises(CoordinatorError, match=r"FA-5055: Line 6 .* is missing, as are all up to 9"):
        evidence.check_anchor(registry, 9, last, "the note")


def test_a_full_disk_after_the_commit_is_no_failure_of_what_was_done(
    registry: Registry, head: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(registry, 2)
    before = head.read_bytes()
    # In the way of the head's lock, as a full disk would be: it cannot be opened.
    head.with_suffix(".lock").unlink()
    head.with_suffix(".lock").mkdir()
    write(registry, 1)
    assert head.read_bytes() == before
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "FA-8001" in caplog.text
    assert evidence.verify(registry, head).entries == 3
    head.with_suffix(".lock").rmdir()
    write(registry, 1)
    assert json.loads(head.read_bytes())["seq"] == 4


def test_two_processes_that_write_at_once_make_one_chain(registry: Registry, head: Path) -> None:
    script = dedent("""
        import sys
        from datetime import UTC, datetime
        from pathlib import Path
        from fl_server import evidence
        from fl_server.registry import Registry, Token
        registry = Registry(Path(sys.argv[1]))
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(60):
            with registry.session() as session:
                token = session.get(Token, "t")
                token.uses += 1
                evidence.append(session, "revoked", device=sys.argv[2], uses=token.uses)
    """)
    with registry.session() as session:
        now = evidence.datetime.now(evidence.UTC)
        session.add(Token(digest="t", created=now, expires=now, uses=0))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(registry.path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=120)
    assert [writer.returncode for writer in writers] == [0, 0]
    fields = [json.loads(line) for line in evidence.lines(registry)]
    # No update was lost, and each line was written by who had counted last.
    assert [line["uses"] for line in fields] == list(range(1, 121))
    assert {line["device"] for line in fields} == {"a", "b"}
    assert evidence.verify(registry, head).entries == 120
    assert json.loads(head.read_bytes())["seq"] == 120


def test_what_cannot_be_written_is_not_done(registry: Registry) -> None:
    with pytest.raises(ValueError, match="JSON"), registry.session() as session:
        evidence.append(session, "round", loss=float("nan"))
    with pytest.raises(StorageError, match="FA-8001"), registry.session() as session:
        session.add(evidence.EvidenceLine(seq=7, line="{}", digest="d"))
    assert evidence.head(registry) == (0, evidence.BEGINNING)
