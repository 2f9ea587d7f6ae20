"""The database: what is written lasts, numbers only grow, and others may read meanwhile."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from textwrap import dedent

import pytest

from common.errors import CoordinatorError
from common.files import StorageError
from common.protocol.answer import PrivacySpent
from fl_server.registry import (
    Contribution,
    Device,
    Model,
    Registry,
    Round,
    Token,
    after_commit,
    failures_of,
    utc,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_round(number: int, **changes: object) -> Round:
    facts = {"round": number, "order": 1, "base": 0, "state": "done", "started": NOW} | changes
    return Round(**facts)


def save(registry: Registry, *rows: object) -> None:
    with registry.session() as session:
        session.add_all(rows)


def make_device(number: int, name: str, **changes: object) -> Device:
    facts = {
        "id": f"{number:032x}",
        "name": name,
        "state": "active",
        "identity": f"{number:064x}",
        "node_key": f"key {number}",
        "token": "t",
        "enrolled": NOW + timedelta(seconds=number % 1000),
        "certificate": "PEM",
        "expires": NOW + timedelta(days=60),
    }
    return Device(**(facts | changes))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "home" / "coordinator.db")


def reopened(registry: Registry) -> Registry:
    registry.close()
    return Registry(registry.path)


def test_an_empty_registry_knows_nothing(registry: Registry) -> None:
    assert registry.model() is None
    assert list(registry.models()) == []
    assert list(registry.rounds()) == []
    assert registry.open_order() is None
    assert registry.presence() is None
    assert list(registry.devices()) == []
    assert registry.contributors() == {}
    assert not registry.was_used()
    assert registry.spendings() == {}
    assert registry.next_round() == 1


def test_the_run_keeps_its_name(registry: Registry, tmp_path: Path) -> None:
    name = registry.run_name()
    assert registry.run_name() == name
    assert reopened(registry).run_name() == name
    assert Registry(tmp_path / "other.db").run_name() != name


def test_round_numbers_only_grow(registry: Registry) -> None:
    assert registry.next_round() == 1
    save(registry, make_round(1, state="void"))
    assert registry.next_round() == 2
    save(registry, make_round(5, state="running"))
    assert reopened(registry).next_round() == 6


def test_one_order_at_a_time_and_it_lasts(registry: Registry) -> None:
    order = registry.place_order(3)
    with pytest.raises(CoordinatorError, match="FA-5006"):
        registry.place_order(1)
    later = reopened(registry)
    assert later.open_order() is not None
    assert later.order(order.id).rounds == 3
    with later.session() as session:
        session.merge(later.order(order.id)).state = "done"
    assert later.open_order() is None
    assert later.place_order(1).id > order.id


def test_of_orders_placed_at_once_one_is_taken(registry: Registry) -> None:
    outcomes: list[str] = []
    ready = threading.Barrier(6)

    def place() -> None:
        own = Registry(registry.path)
        ready.wait()
        try:
            own.place_order(1)
            outcomes.append("placed")
        except CoordinatorError as error:
            outcomes.append(error.code)
        own.close()

    threads = [threading.Thread(target=place) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["FA-5006"] * 5 + ["placed"]


def test_a_transaction_is_whole_or_nothing(registry: Registry) -> None:

    def fail_halfway() -> None:
        with registry.session() as session:
            session.add(make_round(1))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(registry.rounds()) == []
    with pytest.raises(StorageError, match="FA-8001"):
        save(registry, make_round(1), make_round(1))
    assert list(registry.rounds()) == []


def test_versions_and_rounds_come_back_in_order(registry: Registry) -> None:
    for version in (2, 0, 1):
        save(
            registry,
            Model(
                version=version,
                parent=None,
                created=NOW,
                weights="w" * 64,
                metrics="{}",
                participants=version,
            ),
        )
    save(registry, make_round(2, order=2), make_round(1))
    assert [model.version for model in registry.models()] == [0, 1, 2]
    newest, one = registry.model(), registry.model(1)
    assert newest is not None
    assert newest.version == 2
    assert one is not None
    assert one.participants == 1
    assert registry.model(9) is None
    assert [row.round for row in registry.rounds()] == [1, 2]
    assert [row.round for row in registry.rounds(order=2)] == [2]


def test_what_a_device_spent_is_kept_for_composition(registry: Registry) -> None:
    spent = PrivacySpent(
        epsilon=0.5, delta=1e-5, accountant="prv", noise_multiplier=1.0, sampling_rate=0.1, steps=10
    )
    for number in (1, 2):
        save(
            registry,
            make_round(number),
            Contribution(round=number, device="b", clips=3, skipped=0, loss=0.5, seconds=1.0),
        )
        registry.note_spending(number, "a", spent)
    later = reopened(registry)
    assert later.spendings() == {"a": [spent, spent]}
    assert {device: count for device, (count, _) in later.contributors().items()} == {"b": 2}


def test_failures_are_kept_as_they_were(registry: Registry) -> None:
    text = '[{"who": "a", "code": "FA-3001", "reason": "\\"quoted\\" \\u2028 \\ud83d\\ude00"}]'
    save(registry, make_round(1, failures=text))
    (failure,) = failures_of(registry.rounds()[0])
    assert failure == {"who": "a", "code": "FA-3001", "reason": '"quoted" \u2028 😀'}


def test_another_process_reads_while_one_writes(registry: Registry) -> None:
    # The reader must see each row whole and never be told that the database is locked.
    script = dedent("""
        import sys
        from pathlib import Path
        from fl_server.registry import Registry
        registry = Registry(Path(sys.argv[1]))
        print("ready", flush=True)
        seen = 0
        while seen < 60:
            rounds = registry.rounds()
            assert [row.round for row in rounds] == list(range(1, len(rounds) + 1))
            assert all(row.failures == f"[{row.round}]" for row in rounds)
            assert len(rounds) >= seen
            seen = len(rounds)
            registry.presence()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(registry.path)], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        for number in range(1, 61):
            save(registry, make_round(number, failures=f"[{number}]"))
            registry.note_presence(1, 2, number)
        assert reader.wait(timeout=60) == 0


def test_killed_in_a_transaction_nothing_of_it_remains(registry: Registry) -> None:
    script = dedent("""
        import os, sys
        from datetime import UTC, datetime
        from pathlib import Path
        from fl_server.registry import Registry, Round
        registry = Registry(Path(sys.argv[1]))
        def row(number):
            return Round(round=number, order=1, base=0, state="done", started=datetime.now(UTC))
        with registry.session() as session:
            session.add(row(1))
        with registry.session() as session:
            session.add(row(2))
            session.flush()
            os.kill(os.getpid(), 9)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(registry.path)], check=False)
    assert done.returncode == -9
    assert [row.round for row in registry.rounds()] == [1]
    save(registry, make_round(registry.next_round()))
    assert [row.round for row in registry.rounds()] == [1, 2]


def test_a_place_that_takes_no_database_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="FA-8001"):
        Registry(tmp_path / "file" / "coordinator.db")
    (tmp_path / "folder" / "coordinator.db").mkdir(parents=True)
    with pytest.raises(StorageError, match="FA-8001"):
        Registry(tmp_path / "folder" / "coordinator.db")
    (tmp_path / "damaged.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match="FA-8001"):
        Registry(tmp_path / "damaged.db")


class TestDevices:
    def test_they_are_listed_as_they_came(self, registry: Registry) -> None:
        save(registry, make_device(7, "b"), make_device(3, "a", state="pending"))
        assert [device.name for device in registry.devices()] == ["a", "b"]
        found = registry.device(f"{7:032x}")
        assert found is not None
        assert found.name == "b"
        assert registry.device("b") is None

    def test_an_operator_names_them_by_id_or_name(self, registry: Registry) -> None:
        save(
            registry,
            make_device(0xABCD << 112, "kitchen"),
            make_device(0xABCE << 112, "hall"),
            make_device(1, "attic", state="revoked"),
            make_device(2, "attic"),
            make_device(3, "old", state="revoked"),
        )
        ids = {name: f"{number << 112:032x}" for name, number in (("kitchen", 0xABCD), ("hall", 0xABCE))}
        assert registry.device_named(ids["hall"]).name == "hall"
        assert registry.device_named("abce").name == "hall"
        assert registry.device_named("kitchen").id == ids["kitchen"]
        assert registry.device_named("attic").id == f"{2:032x}"
        assert registry.device_named("old").state == "revoked"
        # Devices choose their names, so no name may stand before what `devices list` prints of an id.
        for text in ("abcd", f"{0xABCD << 112:032x}"[:12]):
            save(registry, make_device(len(text), text, state="pending"))
            with pytest.raises(CoordinatorError, match="FA-5057") as raised:
                registry.device_named(text)
            assert ids["kitchen"] in raised.value.happened
        assert registry.device_named(ids["kitchen"]).name == "kitchen"
        with pytest.raises(CoordinatorError, match="FA-5057"):
            registry.device_named("0000")
        for text in ("", "abc", "nobody", "%", "____", "kitchen ", "\ud800", "a" * 10_000):
            with pytest.raises(CoordinatorError, match="FA-5050") as raised:
                registry.device_named(text)
            assert len(raised.value.happened) < 200

    @pytest.mark.parametrize(
        ("changes", "now", "code"),
        [
            ({}, NOW, None),
            ({}, NOW + timedelta(days=60), None),
            ({}, NOW + timedelta(days=60, seconds=1), "FA-5052"),
            ({"state": "pending", "expires": None, "certificate": ""}, NOW, "FA-5053"),
            ({"state": "pending"}, NOW, "FA-5053"),
            ({"expires": None}, NOW, "FA-5053"),
            ({"state": "revoked"}, NOW, "FA-5048"),
            ({"state": "something else"}, NOW, "FA-5053"),
        ],
    )
    def test_only_active_ones_take_part(
        self, registry: Registry, changes: dict[str, object], now: datetime, code: str | None
    ) -> None:
        device = make_device(1, "a", **changes)
        save(registry, device)
        if code is None:
            assert registry.active_device(device.id, now).id == device.id
        else:
            with pytest.raises(CoordinatorError, match=code):
                registry.active_device(device.id, now)
        with pytest.raises(CoordinatorError, match="FA-5050"):
            registry.active_device("0" * 32)

    def test_a_registry_that_invited_somebody_was_used(self, registry: Registry) -> None:
        save(registry, Token(digest="d", created=NOW, expires=NOW, uses=1))
        assert registry.was_used()


def test_times_are_in_utc(registry: Registry) -> None:
    east = timezone(timedelta(hours=5))
    assert utc(NOW.astimezone(east)) == NOW
    save(registry, make_device(1, "a"))
    assert utc(registry.devices()[0].enrolled) == NOW + timedelta(seconds=1)


def test_who_reads_does_not_wait_for_who_writes(registry: Registry) -> None:
    with registry.session() as session:
        session.add(make_round(1))
        session.flush()
        assert list(registry.rounds()) == []  # of another connection: it sees what was committed
    assert len(registry.rounds()) == 1


def test_no_update_is_lost_between_two_who_write(registry: Registry) -> None:
    save(registry, Token(digest="d", created=NOW, expires=NOW, uses=0))

    def count() -> None:
        own = Registry(registry.path)
        for _ in range(25):
            with own.session() as session:
                session.get_one(Token, "d").uses += 1
        own.close()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with registry.reading() as session:
        assert session.get_one(Token, "d").uses == 100


def test_what_follows_a_commit_follows_no_rollback(registry: Registry) -> None:
    done: list[str] = []
    with registry.session() as session:
        session.add(make_round(1))
        after_commit(session)["act"] = lambda: done.append(str(len(registry.rounds())))
    assert done == ["1"]

    def fail() -> None:
        with registry.session() as session:
            after_commit(session)["act"] = lambda: done.append("never")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert done == ["1"]


def test_a_database_of_an_earlier_version(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE identity (run VARCHAR PRIMARY KEY)")
        connection.execute("INSERT INTO identity VALUES ('earlier')")
    # Missing tables are made; a missing column is more than that.
    assert Registry(path).run_name() == "earlier"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE devices DROP COLUMN reason")
    with pytest.raises(CoordinatorError, match=r"FA-5040: .* no column devices\.reason"):
        Registry(path)
