"""What cannot work ends at once, with a status and two sentences."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.processes import ROOT, Federation, run_cli


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A coordinator to which nobody comes."""
    rounds = {"min_devices": 1, "wait_seconds": 1.0}
    with Federation(tmp_path_factory.mktemp("lonely"), {"rounds": rounds}) as federation:
        federation.start_server()
        yield federation


def test_training_without_devices_ends_with_the_reason(lonely: Federation) -> None:
    home = str(lonely.home.root)
    done = run_cli("server", "train", "--rounds", "2", "--home", home)
    assert done.returncode == 6
    assert done.stderr.startswith("FA-5001: 0 of 1 devices came")
    assert "Traceback" not in done.stderr
    # The coordinator lives on and takes the next order, which fails in the same way.
    done = run_cli("server", "train", "--rounds", "1", "--json", "--home", home)
    assert done.returncode == 6
    assert json.loads(done.stdout)["error"] == "FA-5001"
    status = json.loads(run_cli("server", "status", "--json", "--home", home).stdout)
    assert (status["running"], status["online"], status["version"]) == (True, 0, 0)


def test_a_second_coordinator_on_the_same_folder_is_refused(lonely: Federation) -> None:
    done = run_cli("server", "start", "--home", str(lonely.home.root))
    assert done.returncode == 6
    assert done.stderr.splitlines()[-2].startswith("FA-5003: ")
    assert lonely.processes["server"].poll() is None


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with Federation(tmp_path, {}) as federation, socket.socket() as other:
        other.bind(("127.0.0.1", federation.port))
        other.listen()
        done = run_cli("server", "start", "--home", str(federation.home.root))
    assert done.returncode == 6
    assert done.stderr.splitlines()[-2].startswith(f"FA-5002: Port {federation.port} ")


@pytest.mark.parametrize("place", ["releases", "coordinator.db"])
def test_something_in_the_place_of_the_state_is_explained(place: str, tmp_path: Path) -> None:
    with Federation(tmp_path, {}) as federation:
        federation.registry.close()
        for file in federation.home.root.glob("coordinator.db*"):
            file.unlink()
        if place == "releases":
            federation.home.releases.write_text("a file")
        else:
            federation.home.database.mkdir()
        done = run_cli("server", "start", "--home", str(federation.home.root))
    assert done.returncode == 8
    assert "FA-8001: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_explained(tmp_path: Path) -> None:
    with Federation(tmp_path, {}) as federation:
        federation.home.root.chmod(0o500)
        try:
            done = run_cli("server", "start", "--home", str(federation.home.root))
        finally:
            federation.home.root.chmod(0o700)
    assert done.returncode == 8
    assert "FA-8001: " in done.stderr


def test_a_full_disk_is_explained_and_leaves_no_half_release(tmp_path: Path) -> None:
    # A limit on file size stands for the full disk; these weights are larger, the database is not.
    script = dedent("""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
        from fedaudio.cli import main
        main()
    """)
    with Federation(tmp_path, {"task": {"labels": ["yes", "no"], "width": 128}}) as federation:
        federation.registry.close()
        done = subprocess.run(
            [sys.executable, "-c", script, "200000", "server", "start", "--home", str(federation.home.root)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 8, done.stderr
        assert "FA-8001: " in done.stderr
        assert "Traceback" not in done.stderr
        # With room again it starts as if nothing had been.
        federation.start_server()
        assert federation.release(0).version == 0


def refused_start(federation: Federation, *options: str) -> subprocess.CompletedProcess[str]:
    federation.registry.close()
    done = run_cli("server", "start", "--home", str(federation.home.root), *options)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost.localdomain"])
def test_the_insecure_mode_is_for_this_machine_alone(tmp_path: Path, host: str) -> None:
    with Federation(tmp_path, {"host": host}) as federation:
        done = refused_start(federation, "--insecure-loopback")
    assert done.returncode == 6
    assert "FA-5090: " in done.stderr


@pytest.mark.parametrize("name", ["plan", "envelope", "envelope-mlkem", "tls", "device-ca"])
def test_a_key_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    with Federation(tmp_path, {}) as federation:
        (federation.home.keys / f"{name}.key").unlink()
        done = refused_start(federation)
    assert done.returncode in {2, 6}
    assert "FA-6005: " in done.stderr
    assert f"{name}.key" in done.stderr


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with Federation(tmp_path, {}) as federation:
        (federation.home.keys / "plan.key").chmod(0o640)
        done = refused_start(federation)
    assert done.returncode == 2
    assert "FA-6007: " in done.stderr


@pytest.mark.parametrize("name", ["root", "release"])
def test_the_root_and_the_release_key_may_be_elsewhere(tmp_path: Path, name: str) -> None:
    with Federation(tmp_path, {"rounds": {"min_devices": 1, "evaluate": False}}) as federation:
        (federation.home.keys / f"{name}.key").unlink()
        federation.start_server()
        federation.start_light_devices("devices", "kitchen=honest")
        # Training goes on; without the release key, versions wait for a signature.
        assert federation.train(2).state == "done"
        assert [model.signed for model in federation.registry.models()] == [name == "root"] * 3
