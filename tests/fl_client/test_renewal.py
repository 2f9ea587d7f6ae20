"""Certificates that renew themselves, and keys that change without a moment in which none fits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from common.errors import DeviceError
from fl_client.connection import RefusedError, client_to
from fl_client.enrol import enrol
from fl_client.home import DeviceHome
from fl_client.identity import Identity
from fl_client.renewal import is_due, renew
from tests.fl_client.made_coordinator import Desk
from tests.fl_client.power_cut import PowerCut, crash_at
from tests.processes import ROOT, run_cli


@pytest.fixture
def home(desk: Desk, tmp_path: Path) -> DeviceHome:
    home = DeviceHome(tmp_path / "kitchen")
    enrol(home, desk.invite(), name="kitchen")
    return home


@pytest.fixture
def client(desk: Desk, home: DeviceHome) -> httpx.Client:
    return client_to(desk.address, Identity.load(home, None).trust, insecure=False)


def keys_of(identity: Identity) -> tuple[bytes, str]:
    return identity.certificate.identity, identity.certificate.node


def test_it_is_due_after_two_thirds(home: DeviceHome) -> None:
    identity = Identity.load(home, None)
    life = identity.certificate.ends - identity.certificate.begins
    assert not is_due(home, identity, identity.certificate.begins + life * 0.66)
    assert is_due(home, identity, identity.certificate.begins + life * 0.67)


def test_a_renewal_keeps_the_keys_and_prolongs_the_certificate(
    home: DeviceHome, client: httpx.Client
) -> None:
    before = Identity.load(home, None)
    after = renew(home, None, client)
    assert after.device == before.device
    assert keys_of(after) == keys_of(before)
    assert after.certificate.serial != before.certificate.serial
    assert Identity.load(home, None).certificate == after.certificate


def test_what_is_not_due_is_left_alone(desk: Desk, home: DeviceHome, client: httpx.Client) -> None:
    before, asked = home.certificate.read_bytes(), len(desk.bodies)
    renew(home, None, client, if_due=True)
    assert home.certificate.read_bytes() == before
    assert len(desk.bodies) == asked


def test_a_rotation_changes_both_keys_and_not_the_device(home: DeviceHome, client: httpx.Client) -> None:
    before = Identity.load(home, None)
    after = renew(home, None, client, rotate=True)
    assert after.device == before.device
    assert not set(keys_of(after)) & set(keys_of(before))
    assert not list(home.identity.glob("*-next*"))
    again = renew(home, None, client, rotate=True)
    assert again.device == before.device


@pytest.mark.parametrize("rotate", [False, True])
def test_a_lost_answer_is_asked_for_again(
    desk: Desk, home: DeviceHome, client: httpx.Client, rotate: bool
) -> None:
    before, desk.lost_answers = Identity.load(home, None), 1
    with pytest.raises(DeviceError, match="FA-4012"):
        renew(home, None, client, rotate=rotate)
    # The coordinator has moved on, and the device is as it was.
    assert Identity.load(home, None).certificate == before.certificate
    assert is_due(home, before) == rotate
    after = renew(home, None, client, if_due=rotate)
    assert (keys_of(after) == keys_of(before)) != rotate
    assert after.device == before.device


def test_a_rotation_after_a_lost_renewal(desk: Desk, home: DeviceHome, client: httpx.Client) -> None:
    before, desk.lost_answers = Identity.load(home, None), 1
    with pytest.raises(DeviceError, match="FA-4012"):
        renew(home, None, client)
    after = renew(home, None, client, rotate=True)
    assert not set(keys_of(after)) & set(keys_of(before))


WRITES_OF_A_ROTATION = 6
"""node-next, identity-next, trust, certificate; then the two next keys get their names."""


@pytest.mark.parametrize("step", range(1, WRITES_OF_A_ROTATION + 2))
def test_a_power_cut_at_any_write_leaves_a_working_device(
    home: DeviceHome, client: httpx.Client, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Identity.load(home, None)
    crash_at(monkeypatch, step, home)
    if step <= WRITES_OF_A_ROTATION:
        with pytest.raises(PowerCut):
            renew(home, None, client, rotate=True)
    else:
        renew(home, None, client, rotate=True)
    monkeypatch.undo()
    between = Identity.load(home, None)
    assert keys_of(between) == keys_of(before) or not set(keys_of(between)) & set(keys_of(before))
    # What was begun is ended by the next look, and the coordinator agrees who this is.
    after = renew(home, None, client, if_due=True)
    assert after.device == before.device
    assert not list(home.identity.glob("*-next*")) or step <= 2
    assert renew(home, None, client).device == before.device


KILLED = """
import os, signal, sys
from pathlib import Path
from common import files
from fl_client.connection import client_to
from fl_client.home import DeviceHome
from fl_client.identity import Identity
from fl_client.renewal import renew

home, left, real = DeviceHome(Path(sys.argv[1])), int(sys.argv[3]), Path.replace

def replace(self, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)

files.Path.replace = replace
identity = Identity.load(home, None)
renew(home, None, client_to(sys.argv[2], identity.trust, insecure=False), rotate=True)
"""


@pytest.mark.parametrize("step", [2, 4, 5, 6])
def test_kill_9_leaves_a_working_device(
    desk: Desk, home: DeviceHome, client: httpx.Client, step: int
) -> None:
    before = Identity.load(home, None)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(home.root), desk.address, str(step)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert Identity.load(home, None).device == before.device
    after = renew(home, None, client)
    assert not set(keys_of(after)) & set(keys_of(before)) or step == 2


class TestRefused:
    def test_a_revoked_device_gets_no_certificate(
        self, desk: Desk, home: DeviceHome, client: httpx.Client
    ) -> None:
        before = home.certificate.read_bytes()
        desk.revoke(Identity.load(home, None).device)
        with pytest.raises(RefusedError, match=r"FA-4014.*FA-5048"):
            renew(home, None, client, rotate=True)
        assert home.certificate.read_bytes() == before

    def test_an_expired_certificate_is_not_even_shown(
        self, desk: Desk, home: DeviceHome, client: httpx.Client
    ) -> None:
        asked = len(desk.bodies)
        with pytest.raises(DeviceError, match="FA-4019"):
            renew(home, None, client, now=datetime.now(UTC) + timedelta(days=100))
        assert [path for path, _ in desk.bodies[asked:]] == ["/health"]

    def test_a_wrong_clock_is_not_taken_for_an_expired_certificate(
        self, desk: Desk, home: DeviceHome, client: httpx.Client
    ) -> None:
        desk.clock = timedelta(days=-100)
        with pytest.raises(DeviceError, match="FA-4015"):
            renew(home, None, client, rotate=True, now=datetime.now(UTC) + timedelta(days=100))


def test_the_command_rotates_and_shows(desk: Desk, home: DeviceHome) -> None:
    shown = [
        json.loads(run_cli("client", "keys", *words, "--home", str(home.root), "--json").stdout)
        for words in (["show"], ["rotate"], ["show"])
    ]
    assert shown[0]["device"] == shown[2]["device"]
    assert shown[0]["identity_key"] != shown[1]["identity_key"] == shown[2]["identity_key"]
