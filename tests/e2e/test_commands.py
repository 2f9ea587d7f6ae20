"""The commands: two sentences and a status for every mistake, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest
from typer.testing import CliRunner

import fedaudio
from common.protocol.invitation import Invitation
from fedaudio.cli import app, main
from tests.fl_client.made_identity import make_home
from tests.processes import write_tones


class Command(Protocol):
    """Runs `fedaudio arguments`: status, standard output, standard error."""

    def __call__(self, *arguments: object) -> tuple[int, str, str]: ...


@pytest.fixture
def fedaudio_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedaudio", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        status = ended.value.code
        out, err = capsys.readouterr()
        return (status if isinstance(status, int) else 0), out, err

    return run


@pytest.fixture
def server(tmp_path: Path, fedaudio_command: Command) -> Path:
    home = tmp_path / "server"
    status, _, _ = fedaudio_command("server", "init", "--labels", "yes,no", "--home", home)
    assert status == 0
    return home


NOBODY = Invitation("127.0.0.1:1", "0" * 64, bytes(16))
"""An invitation to where nobody listens."""


HELP = [
    (),
    ("server",),
    *(("server", command) for command in ("init", "start", "train", "status")),
    *(
        ("server", "models", *rest)
        for rest in ((), ("list",), ("show",), ("sign",), ("promote",), ("rollback",))
    ),
    *(
        ("server", "devices", *rest)
        for rest in ((), ("token",), ("list",), ("show",), ("approve",), ("revoke",))
    ),
    *(("server", "keys", *rest) for rest in ((), ("show",), ("rotate",))),
    *(("server", "log", *rest) for rest in ((), ("show",), ("verify",))),
    ("client",),
    *(("client", command) for command in ("enroll", "import", "start", "status", "listen")),
    *(("client", "keys", *rest) for rest in ((), ("show",), ("rotate",))),
    *(("client", "policy", *rest) for rest in ((), ("show",), ("check",))),
    ("model",),
    ("model", "verify"),
    ("demo",),
    ("simulate",),
    *(("simulate", command) for command in ("run", "sweep", "robustness", "report", "list")),
]


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_the_version_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedaudio", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == fedaudio.__version__


@pytest.mark.parametrize(
    "arguments",
    [
        ("server", "train", "--rounds", "0"),
        ("server", "train", "--rounds", "many"),
        ("server", "train"),
        ("server", "init"),
        ("server", "fly"),
        ("client", "enroll"),
        ("demo", "--rounds", "-1"),
        ("--unknown",),
    ],
    ids=" ".join,
)
def test_bad_options_are_usage_errors(fedaudio_command: Command, arguments: tuple[str, ...]) -> None:
    status, _, err = fedaudio_command(*arguments)
    assert status == 2
    assert "Usage" in err


def test_a_coordinator_is_made_once(fedaudio_command: Command, server: Path) -> None:
    before = {file: file.read_bytes() for file in server.rglob("*") if file.is_file()}
    keys = [file for file in before if file.suffix == ".key"]
    assert {"root", "device-ca", "tls", "plan", "release", "envelope"} <= {key.stem for key in keys}
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
    status, out, err = fedaudio_command("server", "init", "--labels", "a,b", "--home", server)
    assert (status, out) == (6, "")
    assert err.startswith("FA-5010: ")
    assert len(err.strip().splitlines()) == 2
    assert {file: file.read_bytes() for file in server.rglob("*") if file.is_file()} == before


def test_a_device_is_made_once(fedaudio_command: Command, tmp_path: Path) -> None:
    made = make_home(tmp_path / "device")
    home, invited = made.home, Invitation("127.0.0.1:1", made.authority.pin, bytes(16))
    before = {file: file.read_bytes() for file in home.root.rglob("*") if file.is_file()}
    for invitation, code in ((invited, "FA-4004"), (NOBODY, "FA-4017")):
        status, _, err = fedaudio_command("client", "enroll", invitation, "--home", home.root)
        assert status == 5
        assert err.startswith(f"{code}: ")
    assert {file: file.read_bytes() for file in before} == before


def test_a_coordinator_that_is_away_is_explained(fedaudio_command: Command, tmp_path: Path) -> None:
    status, _, err = fedaudio_command("client", "enroll", NOBODY, "--home", tmp_path / "device")
    assert status == 5
    assert err.startswith("FA-4012: ")
    assert str(NOBODY) not in err
    assert not (tmp_path / "device" / "device.toml").exists()


BEFORE_INIT = [
    ("server", "start"),
    ("server", "status"),
    ("server", "train", "--rounds", "1"),
    ("server", "models", "list"),
    ("server", "models", "show", "0"),
    ("server", "devices", "list"),
    ("server", "devices", "token"),
    ("server", "keys", "show"),
    ("server", "log", "verify"),
    ("client", "start"),
    ("client", "keys", "rotate"),
    ("client", "policy", "check"),
    ("client", "status"),
    ("client", "listen"),
]


@pytest.mark.parametrize("arguments", BEFORE_INIT, ids=" ".join)
def test_before_init_there_is_nothing(
    fedaudio_command: Command, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    status, out, err = fedaudio_command(*arguments, "--home", tmp_path / "none")
    expected, code, remedy = (2, "FA-6001", "init") if arguments[0] == "server" else (5, "FA-4010", "enroll")
    assert (status, out) == (expected, "")
    assert err.startswith(f"{code}: ")
    assert remedy in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--labels", "same,same"), "FA-6003"),
        (("--labels", "one"), "FA-6003"),
        (("--labels", ","), "FA-6003"),
        (("--labels", "a,../b"), "FA-6003"),
        (("--labels", "a,b", "--port", "70000"), "FA-6003"),
        (("--labels", "a,b", "--clip-seconds", "-1"), "FA-6003"),
        (("--labels", "a,b", "--names", ""), "FA-6003"),
    ],
)
def test_an_impossible_coordinator_is_not_made(
    fedaudio_command: Command, options: tuple[str, ...], code: str, tmp_path: Path
) -> None:
    home = tmp_path / "server"
    status, _, err = fedaudio_command("server", "init", *options, "--home", home)
    assert status == 2
    assert err.startswith(f"{code}: ")
    assert not (home / "server.toml").exists()


def test_with_json_an_error_is_one_object(fedaudio_command: Command, tmp_path: Path) -> None:
    status, out, err = fedaudio_command("server", "status", "--json", "--home", tmp_path / "none")
    assert status == 2
    assert err == ""
    document = json.loads(out)
    assert document["error"] == "FA-6001"
    assert document["happened"]
    assert document["remedy"]


def test_status_and_models_before_the_first_start(fedaudio_command: Command, server: Path) -> None:
    status, out, _ = fedaudio_command("server", "status", "--json", "--home", server)
    assert status == 0
    report = json.loads(out)
    assert (report["running"], report["version"], report["rounds"], report["online"]) == (False, None, [], 0)
    assert "not running" in fedaudio_command("server", "status", "--home", server)[1]
    status, out, _ = fedaudio_command("server", "models", "list", "--json", "--home", server)
    assert (status, json.loads(out)) == (0, {"models": []})
    status, _, err = fedaudio_command("server", "models", "show", "3", "--home", server)
    assert status == 6
    assert err.startswith("FA-5007: ")


def test_training_needs_a_running_coordinator(fedaudio_command: Command, server: Path) -> None:
    status, _, err = fedaudio_command("server", "train", "--rounds", "1", "--home", server)
    assert status == 6
    assert err.startswith("FA-5009: ")
    # The wish was not kept to surprise whoever starts the coordinator next.
    assert "FA-5006" not in fedaudio_command("server", "train", "--rounds", "1", "--home", server)[2]


def test_a_misspelt_key_is_named(fedaudio_command: Command, server: Path) -> None:
    with (server / "server.toml").open("a") as file:
        file.write("\n[optimizer]\nlearning_rat = 1\n")
    status, _, err = fedaudio_command("server", "status", "--home", server)
    assert status == 2
    assert "FA-6003" in err
    assert "learning_rate" in err


def test_a_damaged_configuration_is_said_to_be(fedaudio_command: Command, server: Path) -> None:
    (server / "server.toml").write_text("port = \n")
    for command in (("status",), ("start",), ("train", "--rounds", "1")):
        status, _, err = fedaudio_command("server", *command, "--home", server)
        assert status == 2
        assert err.startswith("FA-6002: ")


def test_a_file_in_the_place_of_a_folder_is_explained(fedaudio_command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "server"
    status, _, err = fedaudio_command("server", "init", "--labels", "a,b", "--home", home)
    assert status == 8, err
    assert err.startswith("FA-8001: ")


class TestDevice:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        return make_home(tmp_path / "device").home.root

    def test_import_and_status(self, fedaudio_command: Command, home: Path, tmp_path: Path) -> None:
        source = tmp_path / "clips"
        write_tones(source)
        (source / "high" / "damaged.flac").write_bytes(b"no sound")
        arguments = ("client", "import", source, "--json", "--home", home)
        status, out, _ = fedaudio_command(*arguments)
        report = json.loads(out)
        assert (status, report["imported"], report["duplicates"]) == (0, 6, 0)
        assert [Path(entry["file"]).name for entry in report["skipped"]] == ["damaged.flac"]
        assert json.loads(fedaudio_command(*arguments)[1])["duplicates"] == 6
        status, out, _ = fedaudio_command("client", "status", "--json", "--home", home)
        report = json.loads(out)
        assert (status, report["clips"], report["link"], report["version"]) == (0, 6, None, None)
        assert "The link is not running." in fedaudio_command("client", "status", "--home", home)[1]

    def test_importing_nothing_is_explained(
        self, fedaudio_command: Command, home: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        for source, code in ((tmp_path / "none", "FA-2001"), (tmp_path / "empty", "FA-2002")):
            status, _, err = fedaudio_command("client", "import", source, "--home", home)
            assert status == 3
            assert err.startswith(f"{code}: ")
