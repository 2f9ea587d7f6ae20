"""`fedaudio server init|devices|keys|log`: what an operator types and reads."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.protocol.invitation import Invitation
from common.security.keys import read_protection
from common.settings import load_settings
from fedaudio.cli import main
from fl_server.authority import DeviceAuthority
from fl_server.devices_cli import parse_lifetime
from fl_server.enrolment import enrol
from fl_server.home import CoordinatorHome
from fl_server.keyring import load_trust
from fl_server.registry import Contribution, Registry, Round
from fl_server.settings import DeviceRules, ServerSettings
from fl_server.tokens import make_token
from tests.fl_server.made_devices import MadeDevice

Command = Callable[..., tuple[int, str, str]]
Output = Callable[..., str]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `fedaudio server arguments`: status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedaudio", "server", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def server(command: Command, home: CoordinatorHome) -> Output:
    """The same, for the coordinator in `home`, and only the output."""

    def run(*arguments: object) -> str:
        status, out, err = command(*arguments, "--home", home.root)
        assert status == 0, err
        return out

    return run


@pytest.fixture
def device(registry: Registry, authority: DeviceAuthority) -> str:
    """Id of a device that waits for approval."""
    return add(registry, authority, "kitchen")


def add(registry: Registry, authority: DeviceAuthority, name: str) -> str:
    token = make_token(registry, timedelta(hours=1), 1)
    rules = DeviceRules(approval=True)
    return enrol(registry, authority, rules, MadeDevice(name).request(token)).device


class TestInit:
    def test_it_says_plainly_when_keys_are_not_encrypted(self, command: Command, tmp_path: Path) -> None:
        status, out, _ = command("init", "--labels", "a,b", "--home", tmp_path / "plain")
        assert status == 0
        assert "NOT encrypted" in out
        status, out, _ = command("init", "--labels", "a,b", "--home", tmp_path / "json", "--json")
        report = json.loads(out)
        assert report["protection"] == "file-mode"
        assert len(report["coordinator"]) == 64

    @pytest.mark.parametrize(
        ("arguments", "negatives"),
        [
            (("--labels", "a,b"), 0),
            (("--labels", "a,b,background"), 1),
            (("--labels", "a,b,background", "--dp", "--warm-start", "body.safetensors"), 0),
        ],
    )
    def test_devices_make_what_is_no_word_where_there_is_a_label_for_it(
        self,
        command: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        negatives: int,
    ) -> None:
        monkeypatch.setattr("fl_server.cli._find_body", lambda sources, task: {})
        assert command("init", *arguments, "--home", tmp_path / "server")[0] == 0
        settings = load_settings(ServerSettings, tmp_path / "server" / "server.toml")
        assert settings.recipe.negatives == negatives

    def test_with_a_passphrase_from_a_file(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "passphrase").write_text("secret words\n")
        arguments = ("--home", tmp_path / "server", "--passphrase-file", tmp_path / "passphrase")
        status, out, _ = command("init", "--labels", "a,b", *arguments)
        assert (status, "NOT" in out) == (0, False)
        assert read_protection(tmp_path / "server" / "keys").by == "passphrase"
        assert command("keys", "rotate", "plan", *arguments)[0] == 0
        status, _, err = command("keys", "rotate", "plan", "--home", tmp_path / "server")
        assert status == 2
        assert err.startswith("FA-6006: ")
        assert "secret" not in err

    def test_a_passphrase_that_was_asked_for_and_not_given_is_no_leave_to_go_without(
        self, command: Command, tmp_path: Path
    ) -> None:
        status, _, err = command("init", "--labels", "a,b", "--home", tmp_path / "s", "--passphrase")
        assert status == 2
        assert err.startswith("FA-6008: ")
        assert not (tmp_path / "s").exists()


class TestToken:
    def test_it_is_one_string_that_says_all(
        self, server: Output, home: CoordinatorHome, registry: Registry, authority: DeviceAuthority
    ) -> None:
        before = datetime.now(UTC)
        report = json.loads(server("devices", "token", "--ttl", "2h", "--uses", "3", "--json"))
        invitation = Invitation.parse(report["invitation"])
        shown = json.loads(server("keys", "show", "--json"))
        assert (invitation.address, invitation.pin) == ("localhost:8650", shown["coordinator"])
        ends = datetime.fromisoformat(report["expires"])
        assert timedelta(minutes=119) < ends - before < timedelta(minutes=121)
        request = MadeDevice("kitchen").request(invitation.token)
        assert enrol(registry, authority, DeviceRules(), request).state == "active"
        with closing(sqlite3.connect(home.database)) as connection:
            assert connection.execute("SELECT uses FROM tokens").fetchall() == [(2,)]

    def test_it_is_listed_and_withdrawn(
        self, server: Output, command: Command, home: CoordinatorHome
    ) -> None:
        made = json.loads(server("devices", "token", "--uses", "3", "--json"))
        (entry,) = json.loads(server("devices", "tokens", "--json"))["tokens"]
        assert (entry["token"], entry["uses"]) == (made["token"], 3)
        assert entry["expires"] == made["expires"]
        assert made["token"] in server("devices", "tokens")
        assert made["token"] in server("devices", "withdraw", made["token"][:4])
        assert json.loads(server("devices", "tokens", "--json"))["tokens"] == []
        status, _, err = command("devices", "withdraw", made["token"], "--home", home.root)
        assert (status, err[:9]) == (6, "FA-5054: ")
        assert '"token-withdrawn"' in server("log", "show", "--json")

    def test_for_people_a_code_to_scan_too(self, command: Command, home: CoordinatorHome) -> None:
        status, out, err = command("devices", "token", "--home", home.root)
        lines = out.splitlines()
        assert status == 0
        assert Invitation.parse(lines[0]).address == "localhost:8650"
        assert len(lines) > 15
        assert "█" in lines[1]
        assert "one device" in err
        status, out, _ = command("devices", "token", "--home", home.root, "--no-qr")
        assert len(out.splitlines()) == 1

    @pytest.mark.parametrize("address", ["127.0.0.1:9000", "[::1]:1", "coordinator.example:8650"])
    def test_the_address_can_be_named(self, command: Command, home: CoordinatorHome, address: str) -> None:
        _, out, err = command("devices", "token", "--home", home.root, "--no-qr", "--address", address)
        assert Invitation.parse(out).address == address
        # A device would find that out only at the moment it connects.
        assert ("is not valid for" in err) == (not address.startswith("127."))

    @pytest.mark.parametrize("address", ["", "host", "host:", "ho st:1", "http://host:1", "a:123456"])
    def test_an_address_that_is_none(self, command: Command, home: CoordinatorHome, address: str) -> None:
        status, _, err = command("devices", "token", "--home", home.root, "--address", address)
        assert status == 2
        assert err.startswith("FA-6003: ")

    def test_a_port_that_was_not_drawn_yet(self, command: Command, home: CoordinatorHome) -> None:
        home.config.write_text("port = 0\n" + home.config.read_text())
        status, _, err = command("devices", "token", "--home", home.root)
        assert status == 6
        assert err.startswith("FA-5056: ")

    @pytest.mark.parametrize(
        ("text", "seconds"), [("30s", 30), ("15m", 900), ("2h", 7200), ("7d", 604_800), ("30d", 2_592_000)]
    )
    def test_times(self, text: str, seconds: int) -> None:
        assert parse_lifetime(text) == timedelta(seconds=seconds)

    @pytest.mark.parametrize(
        "text", ["", "0s", "15", "m", "1.5h", "-1h", "31d", "99999999s", "1w", "१m", "1m\n"]
    )
    def test_times_that_are_none(self, text: str) -> None:
        with pytest.raises(ConfigError, match="FA-6003"):
            parse_lifetime(text)


class TestDevices:
    def test_approve_show_revoke(
        self, server: Output, command: Command, home: CoordinatorHome, device: str
    ) -> None:
        (entry,) = json.loads(server("devices", "list", "--json"))["devices"]
        assert (entry["id"], entry["name"], entry["state"]) == (device, "kitchen", "pending")
        assert (entry["expires"], entry["rounds"], entry["last"]) == (None, 0, None)
        assert "is active" in server("devices", "approve", "kitchen")
        shown = json.loads(server("devices", "show", device[:6], "--json"))
        assert shown["state"] == "active"
        assert datetime.fromisoformat(shown["expires"]) > datetime.now(UTC) + timedelta(days=59)
        report = json.loads(server("devices", "revoke", device, "--reason", "sold\x1b[2J", "--json"))
        assert report == {"id": device, "name": "kitchen", "state": "revoked"}
        text = server("devices", "show", "kitchen")
        assert "sold\\x1b[2J" in text
        status, _, err = command("devices", "approve", "kitchen", "--home", home.root)
        assert status == 6
        assert err.startswith("FA-5048: ")

    def test_all_of_them_as_a_table(
        self, server: Output, registry: Registry, authority: DeviceAuthority, device: str
    ) -> None:
        add(registry, authority, "hall")
        now = datetime.now(UTC)
        with registry.session() as session:
            for number in (1, 2):
                session.add(Round(round=number, order=1, base=0, state="done", started=now))
                session.add(
                    Contribution(round=number, device=device, clips=1, skipped=0, loss=0.0, seconds=1.0)
                )
        text = server("devices", "list")
        assert device[:12] in text
        assert "hall" in text
        listed = json.loads(server("devices", "list", "--json"))["devices"]
        assert {entry["name"]: entry["rounds"] for entry in listed} == {"kitchen": 2, "hall": 0}

    def test_refusals_are_told_with_names(
        self, server: Output, registry: Registry, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        failures = [
            {"who": device, "code": "FA-4030", "reason": "on battery"},
            {"who": "node 7", "code": "FA-5005", "reason": "silent"},
        ]
        with registry.session() as session:
            row = Round(round=1, order=1, base=0, state="done", started=datetime.now(UTC))
            row.failures, row.failed = json.dumps(failures), 2
            session.add(row)
        (told,) = json.loads(server("status", "--json"))["rounds"]
        assert [failure["name"] for failure in told["failures"]] == ["kitchen", "node 7"]
        assert "kitchen: FA-4030 on battery" in server("status")

    def test_who_is_not_there(self, command: Command, home: CoordinatorHome) -> None:
        for action in ("show", "approve", "revoke"):
            status, _, err = command("devices", action, "nobody", "--home", home.root)
            assert status == 6
            assert err.startswith("FA-5050: ")


class TestKeys:
    def test_which_there_are(self, server: Output, home: CoordinatorHome) -> None:
        (home.keys / "root.key").unlink()
        text = server("keys", "show")
        assert "NOT encrypted" in text
        assert "Trust statement 1" in text
        report = json.loads(server("keys", "show", "--json"))
        here = {key["name"]: key["here"] for key in report["keys"]}
        assert here == {name: name != "root" for name in here}
        assert set(here) == {"root", "device-ca", "tls", "plan", "release", "envelope"}

    def test_rotation(self, server: Output, command: Command, home: CoordinatorHome) -> None:
        report = json.loads(server("keys", "rotate", "plan", "envelope", "plan", "--json"))
        assert report == {"rotated": ["plan", "envelope"], "serial": 2, "running": False}
        (home.keys / "release.key").unlink()
        report = json.loads(server("keys", "rotate", "--json"))
        # A release key that lives elsewhere is replaced only by name.
        assert report["rotated"] == ["tls", "device-ca", "plan", "envelope"]
        assert command("keys", "rotate", "root", "--home", home.root)[0] == 2
        status, _, err = command("keys", "rotate", "release", "--home", home.root)
        assert (status, err[:9]) == (6, "FA-5043: ")
        server("keys", "rotate", "release", "--new-release-key", "--compromised")
        assert len(load_trust(home)[0].release) == 1
        status, _, err = command("keys", "rotate", "plan", "--compromised", "--home", home.root)
        assert (status, err[:9]) == (2, "FA-6003: ")


class TestLog:
    def test_show_and_verify(
        self, server: Output, command: Command, home: CoordinatorHome, registry: Registry, device: str
    ) -> None:
        server("devices", "revoke", "kitchen", "--reason", "it was\nlost")
        lines = server("log", "show", "--json").splitlines()
        with closing(sqlite3.connect(home.database)) as connection:
            assert lines == [line for (line,) in connection.execute("SELECT line FROM evidence ORDER BY seq")]
        assert [json.loads(line)["kind"] for line in lines] == [
            "fleet-created", "token-made", "enrolled", "revoked"
        ]  # fmt: skip
        text = server("log", "show").splitlines()
        assert len(text) == 4
        assert "lost" in text[3]
        report = json.loads(server("log", "verify", "--json"))
        assert report["entries"] == 4
        assert report["findings"] == []
        kept = f"4:{report['head']}"
        assert f"--head {kept}" in server("log", "verify")
        server("log", "verify", "--head", kept)
        status, _, err = command("log", "verify", "--home", home.root, "--head", f"4:{'0' * 64}")
        assert (status, err[:40]) == (6, "FA-5055: Line 4 of the evidence was chan")
        for text in ("4", "x:" + "0" * 64, kept + "0"):
            status, _, err = command("log", "verify", "--home", home.root, "--head", text)
            assert (status, err[:9]) == (2, "FA-6003: ")
        status, _, err = command("log", "verify", "--home", home.root, "--manifest", home.root / "none")
        assert (status, err[:9]) == (4, "FA-3046: ")
        with closing(sqlite3.connect(home.database)) as connection, connection:
            connection.execute("DROP TRIGGER evidence_no_delete")
            connection.execute("DELETE FROM evidence WHERE seq = 2")
        status, out, err = command("log", "verify", "--home", home.root)
        assert (status, out) == (6, "")
        assert err.startswith("FA-5055: Line 2 of the evidence is missing")
        status, out, _ = command("log", "verify", "--home", home.root, "--json")
        assert (status, json.loads(out)["error"]) == (6, "FA-5055")
