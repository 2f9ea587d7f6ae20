"""`fedaudio server models`: versions are seen, signed on another machine, given out and taken back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from common.errors import CoordinatorError, FedAudioError
from common.protocol.release import MANIFEST, SIGNATURE, WEIGHTS, Metrics, load_release
from common.protocol.signed_release import verify_release
from common.security.keys import PROTECTION
from common.task import Task
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.keyring import ServerKeys, load_trust, unlock
from fl_server.models_cli import app
from fl_server.registry import Registry
from fl_server.releases import release_folder, stages
from fl_server.settings import ServerSettings
from fl_server.versions import Versions
from tests.processes import run_cli

SETTINGS = ServerSettings(port=0, task=Task(labels=("yes", "no"), width=4, clip_seconds=0.25))
PASSPHRASE = b"correct horse"


def keep_passphrase(folder: Path) -> Path:
    path = folder / "passphrase"
    path.write_bytes(PASSPHRASE + b"\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    return keep_passphrase(tmp_path)


@pytest.fixture(scope="module", params=[None, PASSPHRASE], ids=["file mode", "passphrase"])
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder with versions 0 and 1 in it: tracing their graph takes seconds."""
    folder = tmp_path_factory.mktemp("begun")
    home = CoordinatorHome(folder / "server")
    initialise(home, SETTINGS, names=["127.0.0.1"], passphrase=request.param)
    home.releases.mkdir()
    publish(home, keep_passphrase(folder))
    return home.root


@pytest.fixture
def home(begun: Path, tmp_path: Path) -> CoordinatorHome:
    shutil.copytree(begun, tmp_path / "server")
    return CoordinatorHome(tmp_path / "server")


def publish(home: CoordinatorHome, passphrase_file: Path) -> int:
    """One version more; the first publication makes version 0 too."""
    keys = ServerKeys.load(home, unlock(home, passphrase_file, ask=False))
    versions = Versions(home, SETTINGS, Registry(home.database), keys)
    parent = versions.current()
    weights = {name: value + 1 for name, value in parent.weights.items()}
    return versions.publish(weights, parent, metrics=Metrics(), participants=2, privacy=None, memory=b"m")


Run = Callable[..., Result]


@pytest.fixture
def run(home: CoordinatorHome) -> Run:
    def invoke(*arguments: str, at_home: bool = True) -> Result:
        place = ["--home", str(home.root)] if at_home else []
        return CliRunner().invoke(app, [*arguments, *place], catch_exceptions=not at_home)

    return invoke


def test_versions_are_listed_with_what_became_of_them(
    home: CoordinatorHome, run: Run, passphrase_file: Path
) -> None:
    (home.keys / "release.key").rename(home.root / "away.key")
    publish(home, passphrase_file)
    versions = json.loads(run("list", "--json").stdout)["models"]
    assert [(entry["version"], entry["signed"], entry["rollout"]) for entry in versions] == [
        (0, True, 100.0),
        (1, True, 100.0),
        (2, False, 0.0),
    ]
    table = run("list").stdout
    assert {"signed", "rollout"} <= set(table.split())
    assert any(line.split()[-3:] == ["no", "0", "%"] for line in table.splitlines())
    manifest = json.loads(run("show", "2", "--json").stdout)
    assert manifest["parent"] == 1
    assert run("show", "2").stdout.count("\n") > 20
    with pytest.raises(CoordinatorError, match="FA-5007"):
        run("show", "3")


def test_signing_on_another_machine_and_promoting_here(
    home: CoordinatorHome, run: Run, passphrase_file: Path, tmp_path: Path
) -> None:
    # The release key leaves for a machine that has nothing else of the coordinator.
    offline, stick = tmp_path / "offline", tmp_path / "stick"
    offline.mkdir()
    stick.mkdir()
    (home.keys / "release.key").rename(offline / "release.key")
    shutil.copyfile(home.keys / PROTECTION, offline / PROTECTION)
    version = publish(home, passphrase_file)
    folder = release_folder(home.releases, version)
    shutil.copyfile(folder / MANIFEST, stick / MANIFEST)

    arguments = ["sign", str(stick / MANIFEST), "--key", str(offline / "release.key"), "--json"]
    done = run_cli("server", "models", *arguments, "--passphrase-file", str(passphrase_file))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == version
    assert sorted(path.name for path in stick.iterdir()) == [MANIFEST, SIGNATURE]

    with pytest.raises(CoordinatorError, match="FA-5031"):
        run("promote", str(version))
    done = run("promote", str(version), "--signature", str(stick / SIGNATURE), "--json")
    assert json.loads(done.stdout) == {"version": version, "percent": 1.0}
    assert stages(home.releases) == [(version, 1.0), (1, 100.0)]
    assert "10 %" in run("promote", str(version)).stdout
    assert "100 %" in run("promote", str(version)).stdout
    trust, _, pin = load_trust(home)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert verify_release(files, trust.release_keys(), pin).version == version


def test_a_key_under_a_passphrase_needs_it_and_its_salt(
    home: CoordinatorHome, passphrase_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = shutil.copyfile(release_folder(home.releases, 1) / MANIFEST, tmp_path / MANIFEST)
    offline = tmp_path / "offline"
    offline.mkdir()
    shutil.copy2(home.keys / "release.key", offline)
    encrypted = b"ENCRYPTED" in (offline / "release.key").read_bytes()

    def sign(*more: str) -> None:
        arguments = ["sign", str(manifest), "--key", str(offline / "release.key"), *more]
        CliRunner().invoke(app, arguments, catch_exceptions=False)

    with_passphrase = ("--passphrase-file", str(passphrase_file))
    if not encrypted:
        sign()
        assert (tmp_path / SIGNATURE).is_file()
        return
    with pytest.raises(FedAudioError, match=rf"FA-6005.*{PROTECTION}"):
        sign(*with_passphrase)
    shutil.copyfile(home.keys / PROTECTION, offline / PROTECTION)
    with pytest.raises(FedAudioError, match="FA-6006"):
        sign()
    passphrase_file.write_text("wrong")
    with pytest.raises(FedAudioError, match="FA-6006"):
        sign(*with_passphrase)
    assert not (tmp_path / SIGNATURE).exists()


def test_what_is_signed_must_be_a_manifest_and_with_a_key(
    home: CoordinatorHome, passphrase_file: Path, tmp_path: Path
) -> None:
    key = home.keys / "release.key"

    def sign(manifest: Path, key: Path) -> None:
        arguments = ["sign", str(manifest), "--key", str(key), "--passphrase-file", str(passphrase_file)]
        CliRunner().invoke(app, arguments, catch_exceptions=False)

    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(FedAudioError, match="FA-3011"):
        sign(tmp_path / "other.json", key)
    with pytest.raises(FedAudioError, match="FA-3046"):
        sign(tmp_path / "missing.json", key)
    manifest = release_folder(home.releases, 1) / MANIFEST
    with pytest.raises(FedAudioError, match="FA-6005"):
        sign(manifest, home.keys / "envelope.key")
    with pytest.raises(FedAudioError, match=r"FA-3046|FA-6005"):
        sign(manifest, home.keys / "missing.key")
    key.chmod(0o644)
    with pytest.raises(FedAudioError, match="FA-6007"):
        sign(manifest, key)


def test_a_wrong_signature_gives_a_version_to_nobody(
    home: CoordinatorHome, run: Run, passphrase_file: Path, tmp_path: Path
) -> None:
    (home.keys / "release.key").rename(home.root / "away.key")
    publish(home, passphrase_file)
    for data in (b"", bytes(76), (release_folder(home.releases, 1) / SIGNATURE).read_bytes()):
        (tmp_path / SIGNATURE).write_bytes(data)
        with pytest.raises(CoordinatorError, match="FA-5032"):
            run("promote", "2", "--signature", str(tmp_path / SIGNATURE))
    with pytest.raises(FedAudioError, match="FA-3046"):
        run("promote", "2", "--signature", str(release_folder(home.releases, 1) / WEIGHTS))
    assert stages(home.releases) == [(1, 100.0)]


def test_a_rollback_is_one_command(home: CoordinatorHome, run: Run, passphrase_file: Path) -> None:
    publish(home, passphrase_file)
    arguments = ["rollback", "--passphrase-file", str(passphrase_file)]
    assert json.loads(run(*arguments, "--json").stdout) == {"version": 3, "restores": 1, "signed": True}
    assert stages(home.releases) == [(3, 100.0)]
    assert "version 0" in run(*arguments, "--to", "0").stdout
    old, new = (load_release(release_folder(home.releases, version)) for version in (0, 4))
    assert all(new.weights[name].tobytes() == value.tobytes() for name, value in old.weights.items())
    with pytest.raises(CoordinatorError, match="FA-5007"):
        run(*arguments, "--to", "9")


def test_a_rollback_without_the_key_waits_for_its_signature(
    home: CoordinatorHome, run: Run, passphrase_file: Path
) -> None:
    (home.keys / "release.key").rename(home.root / "away.key")
    said = run("rollback", "--passphrase-file", str(passphrase_file)).stdout
    assert "promote 2 --percent 100" in said
    assert stages(home.releases) == [(1, 100.0)]
