"""The running device: what it keeps to itself, and how it follows what happens to its enrolment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse

from common.protocol.invitation import Invitation
from common.security.keys import KeyFolder
from fl_client.enrol import enrol
from fl_client.home import DeviceHome
from fl_client.identity import Identity
from fl_client.renewal import renew
from fl_client.status import describe
from tests.fl_client.made_coordinator import Answer, Desk, serving
from tests.processes import ROOT, run_cli, wait_for

PASSPHRASE = b"correct horse battery staple"


class FleetDesk(Desk):
    """A desk beside a fleet in which nothing happens; it counts who comes in."""

    def __init__(self, root: Path, *, approval: bool = False) -> None:
        super().__init__(root, approval=approval)
        self.activations = 0

    def respond(self, path: str, body: bytes) -> Answer:
        if path == "/v1/fleet/activate-node":
            self.activations += 1
            return bytes(ActivateNodeResponse(node_id=7).SerializeToString())
        if path == "/v1/releases":
            return 204, b""
        return b"" if path.startswith("/v1/fleet/") else super().respond(path, body)


@contextmanager
def running(home: DeviceHome, log: Path, *arguments: str) -> Iterator[psutil.Process]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedaudio", "client", "start", "--home", str(home.root), *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def home(tmp_path: Path) -> DeviceHome:
    return DeviceHome(tmp_path / "kitchen")


def test_no_secret_can_be_seen_from_outside(tmp_path: Path, home: DeviceHome) -> None:
    desk, log, passphrase = FleetDesk(tmp_path), tmp_path / "log", tmp_path / "passphrase"
    passphrase.write_bytes(PASSPHRASE)
    with desk.open():
        invitation = desk.invite()
        enrol(home, invitation, name="kitchen", passphrase=PASSPHRASE)
        password = KeyFolder.unlock(home.identity, PASSPHRASE).password
        assert password is not None
        signing = Identity.load(home, password).signing_key.private_bytes_raw()
        secrets = {
            "passphrase": PASSPHRASE.decode(),
            "password": password.decode(),
            "key": signing.hex(),
            "token": invitation.token.hex(),
            "invitation": str(invitation),
        }
        with running(home, log, "--passphrase-file", str(passphrase)) as device:
            wait_for(lambda: desk.activations > 0, "a link")
            processes = [device, *device.children(recursive=True)]
            assert len(processes) == 2
            seen = "\n".join(
                " ".join([*process.cmdline(), *(f"{k}={v}" for k, v in process.environ().items())])
                for process in processes
            )
        on_disk = "".join(
            path.read_bytes().decode("latin-1") for path in home.root.rglob("*") if path.is_file()
        )
        said = log.read_text() + "".join(
            run_cli("client", *words, "--home", str(home.root)).stdout
            for words in (["status"], ["keys", "show"], ["policy", "show"])
        )
    for name, secret in secrets.items():
        for where, text in (("processes", seen), ("files", on_disk), ("log", said)):
            assert secret not in text, f"the {name} is in the {where}"
    assert "PRIVATE KEY" not in said
    for path in (home.root, *home.root.rglob("*")):
        inside_private = path.parent != home.root and home.root.stat().st_mode & 0o077 == 0
        assert path.stat().st_mode & 0o077 == 0 or inside_private or path.is_dir(), path


def test_a_wrong_passphrase_is_said_before_anything_starts(tmp_path: Path, home: DeviceHome) -> None:
    desk, passphrase = FleetDesk(tmp_path), tmp_path / "passphrase"
    passphrase.write_text("guess")
    with desk.open():
        enrol(home, desk.invite(), name="kitchen", passphrase=PASSPHRASE)
    for arguments in ((), ("--passphrase-file", str(passphrase))):
        done = run_cli("client", "start", "--home", str(home.root), *arguments)
        assert done.returncode == 2
        assert "FA-6006" in done.stderr
        assert "guess" not in done.stderr


def test_a_device_that_waits_for_approval_comes_in_when_it_has_it(tmp_path: Path, home: DeviceHome) -> None:
    desk = FleetDesk(tmp_path, approval=True)
    with desk.open():
        done = enrol(home, desk.invite(), name="kitchen")
        with running(home, tmp_path / "log"):
            wait_for(lambda: "waits for the approval" in (tmp_path / "log").read_text(), "the device")
            assert desk.activations == 0
            desk.approve(done.device)
            wait_for(lambda: desk.activations > 0, "a link")
        assert describe(home)["enrolment"] == "active"


def test_a_running_device_follows_a_rotation(tmp_path: Path, home: DeviceHome) -> None:
    desk = FleetDesk(tmp_path)
    with desk.open():
        enrol(home, desk.invite(), name="kitchen")
        with running(home, tmp_path / "log"):
            wait_for(lambda: desk.activations == 1, "a link")
            rotated = run_cli("client", "keys", "rotate", "--home", str(home.root))
            assert rotated.returncode == 0, rotated.stderr
            wait_for(lambda: desk.activations == 2, "another link")


def test_a_running_device_ends_a_rotation_that_was_cut_short(tmp_path: Path, home: DeviceHome) -> None:
    desk = FleetDesk(tmp_path)
    with desk.open():
        enrol(home, desk.invite(), name="kitchen")
        before, desk.lost_answers = Identity.load(home, None), 1
        run_cli("client", "keys", "rotate", "--home", str(home.root))
        assert Identity.load(home, None).certificate == before.certificate
        with running(home, tmp_path / "log"):
            wait_for(
                lambda: Identity.load(home, None).certificate.identity != before.certificate.identity, "keys"
            )
        assert not list(home.identity.glob("*-next*"))


def test_somebody_else_at_the_coordinators_address_is_told_nothing(tmp_path: Path, home: DeviceHome) -> None:
    desk, seen = FleetDesk(tmp_path), list[str]()
    with desk.open():
        enrol(home, desk.invite(), name="kitchen")
    other = FleetDesk(tmp_path / "other")

    def respond(path: str, body: bytes) -> Answer:
        seen.append(path)
        return b""

    with serving(respond, other.context) as address:
        text = home.config.read_text()
        home.config.write_text(text.replace(desk.address, address))
        with running(home, tmp_path / "log"):
            wait_for(lambda: "FA-4016" in (tmp_path / "log").read_text(), "a complaint")
    assert seen == []


def test_insecure_is_for_this_machine(tmp_path: Path, home: DeviceHome) -> None:
    desk = FleetDesk(tmp_path)
    with desk.open(tls=False):
        invitation: Invitation = desk.invite()
        enrol(home, invitation, name="kitchen", insecure=True)
        with running(home, tmp_path / "log", "--insecure-loopback"):
            wait_for(lambda: desk.activations > 0, "a link")
    home.config.write_text(home.config.read_text().replace("127.0.0.1", "10.0.0.1"))
    refused = run_cli("client", "start", "--home", str(home.root), "--insecure-loopback")
    assert refused.returncode == 5
    assert "FA-4009" in refused.stderr


def test_a_renewed_certificate_is_in_use_at_once(tmp_path: Path, home: DeviceHome) -> None:
    from fl_client.device import Device

    desk = FleetDesk(tmp_path)
    with desk.open():
        enrol(home, desk.invite(), name="kitchen")
        device = Device(home)
        renewed = renew(home, None, device.client)
        device.reload()
        assert device.identity().certificate == renewed.certificate
