"""Who may send an answer: what the database says at this moment, and nothing older."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import CoordinatorError
from common.files import StorageError
from common.security.statement import raw_public
from fl_server.enrolment import revoke
from fl_server.registry import Registry
from fl_server.senders import Senders
from tests.fl_server.made_fleet import change, enrol


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "coordinator.db")
    yield registry
    registry.close()


def test_an_active_device(registry: Registry) -> None:
    kitchen = enrol(registry, "kitchen", counter=7)
    sender = Senders(registry).active(kitchen.id)
    assert (sender.id, sender.name, sender.counter) == (kitchen.id, "kitchen", 7)
    assert sender.identity == raw_public(kitchen.key)
    assert sender.identity.hex() not in repr(sender)


def test_a_revocation_by_another_connection_is_seen_at_once(registry: Registry) -> None:
    kitchen, senders = enrol(registry, "kitchen"), Senders(registry)
    assert senders.may_take_part(kitchen.id)
    other = Registry(registry.path)
    revoke(other, kitchen.id, "stolen")
    other.close()
    assert not senders.may_take_part(kitchen.id)
    assert senders.is_revoked(kitchen.id)
    assert senders.name(kitchen.id) == "kitchen"
    with pytest.raises(CoordinatorError, match="FA-5048"):
        senders.active(kitchen.id)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": "pending", "expires": None}, "FA-5053"),
        ({"expires": datetime.now(UTC) - timedelta(seconds=1)}, "FA-5052"),
        ({"state": "revoked"}, "FA-5048"),
    ],
)
def test_who_may_not(registry: Registry, changes: dict[str, object], code: str) -> None:
    kitchen, senders = enrol(registry, "kitchen"), Senders(registry)
    change(registry, kitchen, **changes)
    assert not senders.may_take_part(kitchen.id)
    assert senders.is_revoked(kitchen.id) == (code == "FA-5048")
    with pytest.raises(CoordinatorError, match=code):
        senders.active(kitchen.id)


@pytest.mark.parametrize("device", ["", "x", "' OR 1=1 --", "\0", "5" * 32])
def test_strangers(registry: Registry, device: str) -> None:
    enrol(registry, "kitchen")
    senders = Senders(registry)
    assert not senders.may_take_part(device)
    assert not senders.is_revoked(device)
    assert senders.name(device) is None
    with pytest.raises(CoordinatorError, match="FA-5050"):
        senders.active(device)


def test_a_database_that_cannot_be_read_is_said_in_words(registry: Registry) -> None:
    senders = Senders(registry)
    senders._connection.execute("DROP TABLE devices")
    with pytest.raises(StorageError, match="FA-8001"):
        senders.may_take_part("0" * 32)
