"""Making a coordinator: once, whole, and never over another one."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from textwrap import dedent

import pytest

from common.errors import ConfigError, CoordinatorError
from common.settings import load_settings
from common.task import Task
from fl_server import evidence
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.keyring import ServerKeys, certified_names
from fl_server.registry import Registry
from fl_server.settings import ServerSettings
from fl_server.tokens import make_token

SETTINGS = ServerSettings(task=Task(labels=("yes", "no")))


def contents(home: CoordinatorHome) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}


def test_it_can_be_started_from(tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path / "deep" / "server")
    coordinator = initialise(home, SETTINGS, names=["localhost", "::1", "coordinator.example"])
    assert load_settings(ServerSettings, home.config) == SETTINGS
    assert ServerKeys.load(home, None).coordinator == coordinator
    assert certified_names(home) == ["localhost", "::1", "coordinator.example"]
    registry = Registry(home.database)
    assert evidence.verify(registry, home.evidence_head).entries == 1
    assert coordinator in next(evidence.lines(registry))


def test_a_coordinator_is_never_overwritten(home: CoordinatorHome) -> None:
    before = contents(home)
    with pytest.raises(CoordinatorError, match="FA-5010"):
        initialise(home, SETTINGS, names=["localhost"])
    assert contents(home) == before


def test_keys_that_devices_trust_are_not_replaced_because_a_file_was_lost(
    home: CoordinatorHome, registry: Registry
) -> None:
    make_token(registry, timedelta(hours=1), 1)
    home.config.unlink()
    keys = {path: path.read_bytes() for path in home.keys.iterdir()}
    with pytest.raises(CoordinatorError, match="FA-5010"):
        initialise(home, SETTINGS, names=["localhost"])
    assert {path: path.read_bytes() for path in home.keys.iterdir()} == keys


@pytest.mark.parametrize("names", [[], ["bücher.example"]])
def test_impossible_names_leave_nothing_behind(tmp_path: Path, names: list[str]) -> None:
    home = CoordinatorHome(tmp_path / "server")
    with pytest.raises(ConfigError, match="FA-6003"):
        initialise(home, SETTINGS, names=names)
    assert not home.root.exists()


@pytest.mark.parametrize("renames", range(0, 15, 2))
def test_half_made_it_can_be_made_again(tmp_path: Path, renames: int) -> None:
    home = CoordinatorHome(tmp_path / "server")
    script = dedent("""
        import os, sys
        from pathlib import Path
        from common.task import Task
        from fl_server.home import CoordinatorHome
        from fl_server.initialise import initialise
        from fl_server.settings import ServerSettings
        left, real = int(sys.argv[2]), Path.replace
        def replace(self, target):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), 9)
            return real(self, target)
        Path.replace = replace
        settings = ServerSettings(task=Task(labels=("yes", "no")))
        initialise(CoordinatorHome(Path(sys.argv[1])), settings, names=["localhost"])
    """)
    command = [sys.executable, "-c", script, str(home.root), str(renames)]
    done = subprocess.run(command, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    # Thirteen files are renamed into their places, and server.toml is the last of them.
    assert home.config.exists() == (renames >= 13) == (done.returncode == 0)
    if not home.config.exists():
        initialise(home, SETTINGS, names=["localhost"])
    coordinator = ServerKeys.load(home, None).coordinator
    registry = Registry(home.database)
    evidence.verify(registry, home.evidence_head)
    assert coordinator in list(evidence.lines(registry))[-1]
