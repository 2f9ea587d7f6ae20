"""The coordinator's keys: loaded as devices are told of them, replaced as a whole, whatever cuts that off."""

from __future__ import annotations

import io
import logging
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import ConfigError, CoordinatorError, FedAudioError, ProtocolError
from common.security.keys import KeyFolder, KeyGroup
from common.security.sealing import Suite
from common.security.statement import raw_public
from common.security.trust import open_trust
from common.task import Task
from fl_server import evidence
from fl_server.authority import DeviceAuthority
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise, pem
from fl_server.key_report import describe_keys
from fl_server.keyring import (
    ServerKeys,
    certified_names,
    finish_rotation,
    load_certificate,
    release_keys_ever,
    unlock,
)
from fl_server.registry import Registry
from fl_server.rotation import rotate
from fl_server.settings import DeviceRules, ServerSettings

RULES = DeviceRules()
ALL = ("tls", "device-ca", "plan", "release", "envelope")
PASSPHRASE = b"correct horse battery staple"


def load_tls(home: CoordinatorHome, password: bytes | None) -> None:
    """Fail if the TLS certificate is not the root's, or not of the key beside it."""
    certificate = load_certificate(home.certificate)
    certificate.verify_directly_issued_by(load_certificate(home.root_certificate))
    key = KeyFolder(home.keys, password).load("tls", EllipticCurvePrivateKey)
    assert certificate.public_key() == key.public_key()


def load_all(home: CoordinatorHome, password: bytes | None = None, now: datetime | None = None) -> ServerKeys:
    """Everything, as the coordinator and its front do; every part must belong to every other."""
    keys = ServerKeys.load(home, password, now)
    authority = DeviceAuthority.load(home, KeyGroup.FRONT.password(password))
    assert authority.certificates[0].public_key() == authority.key.public_key()
    assert keys.trust.device_ca.encode() == b"".join(map(pem, authority.certificates))
    load_tls(home, password)
    assert open_trust(home.trust.read_bytes(), keys.coordinator) == keys.trust
    return keys


def private_keys(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.key"))


def test_what_was_made_is_loaded(home: CoordinatorHome) -> None:
    keys = load_all(home)
    assert keys.trust.serial == 1
    assert raw_public(keys.plan) == keys.trust.plan_keys()[0]
    assert keys.release is not None
    assert raw_public(keys.release) == keys.trust.release_keys()[0]
    opening = keys.opening
    assert opening.public.suite is Suite.HYBRID
    sealed = opening.public.seal(b"update", b"info")
    assert opening.open(sealed, b"info") == b"update"
    assert keys.trust_data == home.trust.read_bytes()
    for word in ("PRIVATE", "Ed25519PrivateKey", "OpeningKey"):
        assert word not in repr(keys)


def test_every_key_is_for_its_owner_alone(home: CoordinatorHome) -> None:
    assert {path.stem for path in private_keys(home.keys)} == {
        "root", "device-ca", "tls", "plan", "release", "envelope", "envelope-mlkem"
    }  # fmt: skip
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private_keys(home.keys))
    assert stat.S_IMODE(home.keys.stat().st_mode) == stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_plain_x25519_can_be_chosen(tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path / "server")
    rules = DeviceRules(envelope="x25519")
    initialise(home, ServerSettings(task=Task(labels=("a", "b")), devices=rules), names=["localhost"])
    assert load_all(home).opening.public.suite is Suite.X25519
    assert not (home.keys / "envelope-mlkem.key").exists()
    # And left again, by a rotation, as it can be come back to.
    registry = Registry(home.database)
    rotate(home, registry, RULES, None, ["envelope"])
    assert load_all(home).opening.public.suite is Suite.HYBRID
    rotate(home, registry, rules, None, ["envelope"])
    keys = load_all(home)
    assert keys.opening.public.suite is Suite.X25519
    assert [key.suite for key in keys.trust.envelope] == [Suite.X25519, Suite.HYBRID]
    assert not (home.keys / "envelope-mlkem.key").exists()


class TestPassphrase:
    @pytest.fixture
    def home(self, tmp_path: Path) -> CoordinatorHome:
        home = CoordinatorHome(tmp_path / "server")
        settings = ServerSettings(task=Task(labels=("a", "b")))
        initialise(home, settings, names=["localhost"], passphrase=PASSPHRASE)
        return home

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "passphrase"
        path.write_bytes(PASSPHRASE + b"\n")
        return path

    def test_every_private_key_is_encrypted(self, home: CoordinatorHome, file: Path) -> None:
        password = unlock(home, file, ask=False)
        rotate(home, Registry(home.database), RULES, password, ALL)
        for path in private_keys(home.keys):
            assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        load_all(home, password)

    def test_it_comes_from_a_file_or_a_credential(
        self, home: CoordinatorHome, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert load_all(home, unlock(home, file, ask=False)).trust.serial == 1
        (tmp_path / "credentials").mkdir()
        shutil.copy(file, tmp_path / "credentials" / "fedaudio.passphrase")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
        assert unlock(home, None, ask=False) == unlock(home, file, ask=False)

    def test_without_it_nothing_opens(
        self, home: CoordinatorHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        for ask in (False, True):
            with pytest.raises(ConfigError, match="FA-6006"):
                unlock(home, None, ask=ask)
        wrong = tmp_path / "wrong"
        wrong.write_text("wrong")
        with pytest.raises(ConfigError, match="FA-6006") as raised:
            ServerKeys.load(home, unlock(home, wrong, ask=False))
        assert "wrong" not in raised.value.happened.replace("The passphrase", "")
        with pytest.raises(ConfigError, match="FA-6006"):
            ServerKeys.load(home, None)


def test_a_folder_without_keys_is_explained(tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path)
    for act in (
        lambda: unlock(home, None, ask=False),
        lambda: ServerKeys.load(home, None),
        lambda: describe_keys(home),
    ):
        with pytest.raises(FedAudioError, match=r"FA-(6005|8001)"):
            act()


class TestKeysElsewhere:
    def test_the_release_key_may_be_on_another_machine(self, home: CoordinatorHome) -> None:
        (home.keys / "release.key").unlink()
        assert ServerKeys.load(home, None).release is None
        shown = {key["name"]: key["here"] for key in describe_keys(home)["keys"]}
        assert shown["release"] is False
        assert shown["plan"] is True

    def test_the_root_key_is_needed_for_rotation_only(
        self, home: CoordinatorHome, registry: Registry, tmp_path: Path
    ) -> None:
        (home.keys / "root.key").rename(tmp_path / "root.key")
        before = home.trust.read_bytes()
        load_all(home)
        with pytest.raises(CoordinatorError, match="FA-5041"):
            rotate(home, registry, RULES, None, ["plan"])
        assert home.trust.read_bytes() == before
        (tmp_path / "root.key").rename(home.keys / "root.key")
        assert rotate(home, registry, RULES, None, ["plan"]).serial == 2

    @pytest.mark.parametrize("name", ["plan", "release", "envelope", "envelope-mlkem"])
    def test_a_key_that_devices_were_not_told_of_is_not_used(
        self, home: CoordinatorHome, tmp_path: Path, name: str
    ) -> None:
        other = CoordinatorHome(tmp_path / "other")
        initialise(other, ServerSettings(task=Task(labels=("a", "b"))), names=["localhost"])
        shutil.copy(other.keys / f"{name}.key", home.keys / f"{name}.key")
        with pytest.raises(CoordinatorError, match="FA-5042"):
            ServerKeys.load(home, None)
        # Rotation mends it.
        rotate(home, Registry(home.database), RULES, None, [name.removesuffix("-mlkem")])
        load_all(home)

    def test_a_trust_statement_of_another_root_is_refused(
        self, home: CoordinatorHome, tmp_path: Path
    ) -> None:
        other = CoordinatorHome(tmp_path / "other")
        initialise(other, ServerSettings(task=Task(labels=("a", "b"))), names=["localhost"])
        shutil.copy(other.trust, home.trust)
        with pytest.raises(ProtocolError, match="FA-3026"):
            ServerKeys.load(home, None)


class TestRotation:
    def test_each_key_is_replaced_and_no_other(self, home: CoordinatorHome, registry: Registry) -> None:
        for number, name in enumerate(ALL, start=2):
            before = {path.name: path.read_bytes() for path in private_keys(home.keys)}
            assert rotate(home, registry, RULES, None, [name]).serial == number
            load_all(home)
            after = {path.name: path.read_bytes() for path in private_keys(home.keys)}
            changed = {file for file in after if after[file] != before.get(file)}
            expected = {f"{name}.key"}
            if name == "envelope":
                expected |= {"envelope-mlkem.key"}
            assert changed == expected
        assert not home.next_keys.exists()
        assert [line.count("keys-rotated") for line in evidence.lines(registry)] == [0, 1, 1, 1, 1, 1]

    def test_the_plan_key_before_may_sign_no_more(self, home: CoordinatorHome, registry: Registry) -> None:
        before = load_all(home)
        rotate(home, registry, RULES, None, ["plan"])
        assert before.trust.plan_keys()[0] not in load_all(home).trust.plan_keys()

    def test_older_release_keys_stay_trusted(self, home: CoordinatorHome, registry: Registry) -> None:
        known = [load_all(home).trust.release[0]]
        for _ in range(9):
            known.insert(0, rotate(home, registry, RULES, None, ["release"]).release[0])
        assert list(load_all(home).trust.release) == known[:8]
        expected = [*known[:8], *reversed(known[8:])]
        # What the others have signed can still be checked, against statements of the root alone.
        assert [key.hex() for key in release_keys_ever(home)] == expected
        other = home.keys / "trust-000001.fas"
        other.write_bytes(other.read_bytes()[:-1] + b" ")
        with pytest.raises(ProtocolError):
            release_keys_ever(home)

    def test_a_release_key_that_is_elsewhere_is_replaced_only_on_demand(
        self, home: CoordinatorHome, registry: Registry
    ) -> None:
        (home.keys / "release.key").unlink()
        before = home.trust.read_bytes()
        with pytest.raises(CoordinatorError, match="FA-5043"):
            rotate(home, registry, RULES, None, ["plan", "release"])
        assert home.trust.read_bytes() == before
        rotate(home, registry, RULES, None, ["release"], new_release_key=True)
        assert load_all(home).release is not None

    def test_what_was_sealed_to_the_key_before_is_opened_by_nobody_any_more(
        self, home: CoordinatorHome, registry: Registry
    ) -> None:
        before = load_all(home)
        old = {path.read_bytes() for path in home.keys.glob("envelope*.key")}
        rotate(home, registry, RULES, None, ["envelope"])
        after = load_all(home)
        assert after.opening.public.id != before.opening.public.id
        # A round that is running can finish: it holds the key, and devices still seal to it.
        assert after.trust.envelope_key(before.opening.public.id) is not None
        sealed = before.opening.public.seal(b"update", b"info")
        assert before.opening.open(sealed, b"info") == b"update"
        assert not old & {path.read_bytes() for path in home.root.rglob("*") if path.is_file()}

    def test_the_tls_certificate_keeps_its_names(self, home: CoordinatorHome, registry: Registry) -> None:
        before = load_certificate(home.certificate)
        rotate(home, registry, RULES, None, ["tls"])
        assert certified_names(home) == ["localhost", "127.0.0.1"]
        assert load_certificate(home.certificate).public_key() != before.public_key()

    def test_the_device_ca_before_is_remembered(self, home: CoordinatorHome, registry: Registry) -> None:
        before = [DeviceAuthority.load(home, None).certificates[0]]
        for _ in range(5):
            rotate(home, registry, RULES, None, ["device-ca"])
            before.insert(0, DeviceAuthority.load(home, None).certificates[0])
        assert list(DeviceAuthority.load(home, None).certificates) == before[:4]
        load_all(home)

    @pytest.mark.parametrize("renames", range(0, 19, 2))
    def test_cut_off_anywhere_everything_still_fits(
        self, home: CoordinatorHome, registry: Registry, renames: int
    ) -> None:
        before = load_all(home).trust
        script = dedent("""
            import os, sys
            from pathlib import Path
            from fl_server.home import CoordinatorHome
            from fl_server.registry import Registry
            from fl_server.rotation import rotate
            from fl_server.settings import DeviceRules
            home, left = CoordinatorHome(Path(sys.argv[1])), int(sys.argv[2])
            real = Path.replace
            def replace(self, target):
                global left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), 9)
                return real(self, target)
            registry = Registry(home.database)
            Path.replace = replace
            rotate(home, registry, DeviceRules(), None, ["tls", "device-ca", "plan", "envelope"])
        """)
        # Files are written by renaming them: 10 are gathered (one is evidence.head), and then 9 moved.
        command = [sys.executable, "-c", script, str(home.root), str(renames)]
        assert subprocess.run(command, check=False).returncode == -9
        after = load_all(home).trust
        assert after.serial == (1 if renames < 10 else 2)
        assert (after == before) == (after.plan == before.plan) == (renames < 10)
        assert evidence.verify(registry, home.evidence_head).entries == (1 if renames < 8 else 2)
        rotate(home, registry, RULES, None, ALL)
        load_all(home)
        assert not home.next_keys.exists()

    def test_finishing_what_is_finished_changes_nothing(
        self, home: CoordinatorHome, registry: Registry
    ) -> None:
        rotate(home, registry, RULES, None, ALL)
        before = {path: path.read_bytes() for path in home.keys.iterdir()}
        finish_rotation(home)
        assert {path: path.read_bytes() for path in home.keys.iterdir()} == before

    def test_the_end_of_trust_is_announced(
        self, home: CoordinatorHome, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = datetime.now(UTC)
        with caplog.at_level(logging.WARNING):
            load_all(home, now=now + timedelta(days=700))
            assert not caplog.records
            load_all(home, now=now + timedelta(days=800))
        assert "fedaudio server keys rotate" in caplog.text

    def test_a_key_of_another_kind_is_refused(self, home: CoordinatorHome) -> None:
        shutil.copy(home.keys / "tls.key", home.keys / "plan.key")
        with pytest.raises(ConfigError, match="FA-6005"):
            ServerKeys.load(home, None)
        KeyFolder(home.keys, None).save("plan", Ed25519PrivateKey.generate())
        (home.keys / "plan.key").chmod(0o644)
        with pytest.raises(ConfigError, match="FA-6007"):
            ServerKeys.load(home, None)
