"""The roster says what the registry says, at every moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import CoordinatorError
from fl_server.authority import DeviceAuthority
from fl_server.enrolment import approve, enrol, renew, revoke
from fl_server.home import CoordinatorHome
from fl_server.registry import Device, Registry
from fl_server.roster import Roster
from fl_server.settings import DeviceRules
from fl_server.tokens import make_token
from tests.fl_server.made_devices import MadeDevice


@pytest.fixture
def roster(home: CoordinatorHome, registry: Registry, authority: DeviceAuthority) -> Iterator[Roster]:
    roster = Roster(home.database, authority)
    yield roster
    roster.close()


def add(
    registry: Registry,
    authority: DeviceAuthority,
    device: MadeDevice,
    now: datetime | None = None,
    **rules: object,
) -> str:
    token = make_token(registry, timedelta(hours=1), 1, now)
    wanted = DeviceRules.model_validate(rules)
    return enrol(registry, authority, wanted, device.request(token), now).device


def verdict(roster: Roster, device: MadeDevice) -> str | None:
    """The code of why `device` may not take part; None if it may."""
    member = roster.find(device.node_pem.encode())
    if member is None:
        return "unknown"
    try:
        member.check()
    except CoordinatorError as error:
        return error.code
    return None


def test_an_enrolled_device_is_found_by_its_node_key(
    registry: Registry, authority: DeviceAuthority, roster: Roster
) -> None:
    device = MadeDevice("kitchen")
    assert verdict(roster, device) == "unknown"
    number = add(registry, authority, device)
    member = roster.find(device.node_pem.encode())
    assert member is not None
    assert member.device == number
    assert member.certificate is not None
    assert member.certificate.identity == device.raw
    assert roster.find(device.node_pem.encode()) is member, "nothing has changed"
    assert roster.find(device.node_pem.replace("\n", "\r\n").encode()) is None, "one key, one spelling"


def test_every_change_counts_at_once(registry: Registry, authority: DeviceAuthority, roster: Roster) -> None:
    device = MadeDevice("kitchen")
    number = add(registry, authority, device, approval=True)
    assert verdict(roster, device) == "FA-5053"
    approve(registry, authority, DeviceRules(), number)
    assert verdict(roster, device) is None
    revoke(registry, number, "lost")
    assert verdict(roster, device) == "FA-5048"


def test_what_changes_nothing_about_a_device_is_not_read_again(
    registry: Registry, authority: DeviceAuthority, roster: Roster
) -> None:
    device = MadeDevice("kitchen")
    number = add(registry, authority, device)
    before = roster.find(device.node_pem.encode())
    with registry.session() as session:
        session.get_one(Device, number).counter = 5
    assert roster.find(device.node_pem.encode()) is before


def test_a_certificate_is_good_until_it_expires(
    registry: Registry, authority: DeviceAuthority, roster: Roster
) -> None:
    device = MadeDevice("kitchen")
    add(registry, authority, device, certificate_days=1)
    member = roster.find(device.node_pem.encode())
    assert member is not None
    member.check(datetime.now(UTC) + timedelta(hours=23))
    with pytest.raises(CoordinatorError, match="FA-5052"):
        member.check(datetime.now(UTC) + timedelta(hours=25))


def test_a_rotation_forgets_the_old_key(
    registry: Registry, authority: DeviceAuthority, roster: Roster
) -> None:
    old, new = MadeDevice("kitchen"), MadeDevice("kitchen")
    number = add(registry, authority, old)
    assert verdict(roster, old) is None
    with registry.session() as session:
        serial = authority.read(session.get_one(Device, number).certificate).serial
    renew(registry, authority, DeviceRules(), new.renewal(number, serial, signer=old))
    assert (verdict(roster, old), verdict(roster, new)) == ("unknown", None)


def test_the_registry_is_only_read(roster: Roster) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        roster._connection.execute("DELETE FROM devices")


def test_strangers_leave_no_trace(roster: Roster) -> None:
    for number in range(1000):
        assert roster.find(b"stranger %d" % number) is None
    assert not roster._members
    assert not roster._rows
    assert not roster._asked


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000))
def test_whatever_a_peer_calls_its_key_is_not_found(roster: Roster, key: bytes) -> None:
    assert roster.find(key) is None
