"""Following a log: nothing lost, nothing doubled, whatever happens to its file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fl_client.listen import events
from fl_client.listen.events import Event, EventLog
from fl_client.outlet.lines import parse_line
from fl_client.outlet.tail import KEPT, LONGEST_LINE, Tail


def line(number: int) -> bytes:
    return (
        json.dumps({"type": "event", "id": f"{number:016x}", "label": "yes" * (number % 50)}).encode() + b"\n"
    )


def numbers(lines: list[dict[str, object]]) -> list[int]:
    return [int(str(one["id"]), 16) for one in lines]


class Log(RuleBasedStateMachine):
    """A log that is written, torn, begun anew, cut off and removed, and one that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "events.jsonl"
        self.count = 0
        self.unended = b""
        self.log_is_new = self.older_is_new = True  # not there yet when the tail looked last
        self.heard: list[int] = []
        self.tail: Tail | None = None
        self.first = 0

    def teardown(self) -> None:
        if self.tail:
            self.poll()
            self.tail.close()
            assert self.heard == list(range(self.first, self.count))
        self.folder.cleanup()

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    @precondition(lambda self: self.tail is None)
    @rule()
    def begin(self) -> None:
        self.tail = Tail(self.path)
        self.first = self.count
        there = [self.path.with_name("events.jsonl.1"), self.path]
        data = b"".join(path.read_bytes() for path in there if path.exists())
        whole = [found for one in data.split(b"\n")[:-1] if (found := parse_line(one))]
        assert self.tail.before == whole
        self.looked()

    def looked(self) -> None:
        self.log_is_new, self.older_is_new = not self.path.exists(), False

    @precondition(lambda self: self.tail is not None)
    @rule()
    def poll(self) -> None:
        assert self.tail is not None
        self.heard += numbers(self.tail.poll())
        self.looked()

    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.write(self.unended or line(self.count))
            self.unended = b""
            self.count += 1

    @rule(part=st.floats(0.0, 0.99))
    def tear(self, part: float) -> None:
        if not self.unended:
            whole = line(self.count)
            place = int(part * len(whole))
            self.write(whole[:place])
            self.unended = whole[place:]

    @precondition(lambda self: not self.unended and not (self.tail and self.older_is_new))
    @rule()
    def rename(self) -> None:
        if self.path.exists():
            self.path.replace(self.path.with_name("events.jsonl.1"))
            self.log_is_new, self.older_is_new = True, self.log_is_new

    @precondition(lambda self: not self.unended)
    @rule(refill=st.integers(0, 30))
    def cut_off(self, refill: int) -> None:
        """What was not read is lost with it, so it is read before."""
        if self.path.exists():
            if self.tail:
                self.poll()
            self.path.write_bytes(b"")
            if refill:
                self.append(refill)

    @precondition(lambda self: not self.unended)
    @rule()
    def remove(self) -> None:
        if self.tail:
            self.poll()
        self.path.unlink(missing_ok=True)
        self.log_is_new = True

    @invariant()
    def each_once_and_in_order(self) -> None:
        assert self.heard == list(range(self.first, self.first + len(self.heard)))


TestLog = Log.TestCase
TestLog.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_the_log_of_a_listener_is_followed_over_its_beginnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LARGEST_LOG", 700)
    log, tail = EventLog(tmp_path / "events.jsonl"), Tail(tmp_path / "events.jsonl")
    heard = []
    for number in range(60):
        log(Event(str(number), 0.5, 0.0, 1.0, 1))
        if number % 3:
            heard += [one["label"] for one in tail.poll()]
    heard += [one["label"] for one in tail.poll()]
    assert (tmp_path / "events.jsonl.1").exists()
    assert heard == [str(number) for number in range(60)]
    assert tail.damaged == 0


def test_the_latest_of_both_files_are_kept_and_not_told_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.with_name("events.jsonl.1").write_bytes(b"".join(map(line, range(700))))
    path.write_bytes(b"".join(map(line, range(700, 1400))))
    tail = Tail(path)
    assert numbers(tail.before) == list(range(1400 - KEPT, 1400))
    assert tail.poll() == []


def test_a_large_log_is_not_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    padded = [json.dumps({"type": "event", "id": f"{n:x}", "pad": "x" * 5000}).encode() for n in range(2000)]
    path.write_bytes(b"\n".join(padded) + b"\n")
    tail = Tail(path)
    assert 100 < len(tail.before) < 400
    assert numbers(tail.before)[-1] == 1999
    assert tail.damaged == 0


def test_what_is_written_to_the_old_file_late_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(0))
    tail = Tail(path)
    with path.open("ab") as late:
        path.replace(path.with_name("events.jsonl.1"))
        path.write_bytes(line(1))
        assert numbers(tail.poll()) == [1]
        late.write(line(2))
    assert numbers(tail.poll()) == [2]


def test_the_message_behind_a_torn_one_is_found_and_the_torn_one_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    path.write_bytes(line(1)[:25] + line(2) + b"no message\n" + b'{"type": 3}\n' + b"\n" + line(3))
    assert numbers(tail.poll()) == [2, 3]
    assert tail.damaged == 2


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    path.write_bytes(b"x" * (20 * LONGEST_LINE) + b"\n" + line(1))
    assert numbers(tail.poll()) == [1]
    assert len(tail._files[0]._torn) == 0
    assert tail.damaged >= 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"7",
        b"[]",
        b"null",
        b'{"type": "event"}',
        b'{"type": "Bad Type", "id": "1"}',
        b'{"type": "event", "id": "\\ud800"}',
        b'{"type": "event", "id": "1", "labels": {"\\udfff": 1}}',
        b'{"type": "level", "id": "1", "laeq": 1e999}',
        b'{"type": "level", "id": "1", "laeq": [-1e999]}',
        b'{"type": "event", "id": "1", "x": [[]]}',
        b'{"type": "event", "id": "1", "x": {"y": {}}}',
        b'{"type": "event", "id": "1", "x": ' + b"[" * 500 + b"]" * 500 + b"}",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    assert parse_line(data) is None


def test_numbers_that_json_has_not_are_nothing() -> None:
    found = parse_line(b'{"type": "level", "id": "1", "laeq": NaN, "lmax": -Infinity}')
    assert found == {"type": "level", "id": "1", "laeq": None, "lmax": None}


def test_lists_and_objects_of_scalars_are_values() -> None:
    line = {"type": "level", "id": "1", "labels": {"\U0001f600": 0.5}, "bands": [1, None, "x", True]}
    assert parse_line(json.dumps(line).encode()) == line
