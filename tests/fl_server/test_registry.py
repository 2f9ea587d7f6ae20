"""The database: what is written lasts, numbers only grow, and others may read meanwhile."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import pytest

from common.errors import CoordinatorError
from common.files import StorageError
from common.protocol.answer import PrivacySpent
from fl_server.registry import Contribution, Model, Registry, Round, failures_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_round(number: int, **changes: object) -> Round:
    facts = {"round": number, "order": 1, "base": 0, "state": "done", "started": NOW} | changes
    return Round(**facts)


def save(registry: Registry, *rows: object) -> None:
    with registry.session() as session:
        session.add_all(rows)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "home" / "coordinator.db")


def reopened(registry: Registry) -> Registry:
    registry.close()
    return Registry(registry._path)


def test_an_empty_registry_knows_nothing(registry: Registry) -> None:
    assert registry.model() is None
    assert list(registry.models()) == []
    assert list(registry.rounds()) == []
    assert registry.open_order() is None
    assert registry.presence() is None
    assert registry.devices() == []
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
    assert [(device, count) for device, count, _ in later.devices()] == [("b", 2)]


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
        [sys.executable, "-c", script, str(registry._path)], stdout=subprocess.PIPE, text=True
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
    done = subprocess.run([sys.executable, "-c", script, str(registry._path)], check=False)
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
