"""`fedaudio client privacy`: what was spent and is left, line by line, and whether it is the truth."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from common.privacy.accounting import closest_epsilon
from fedaudio.cli import app
from fl_client.account import Cost, Entry
from fl_client.policy import Policy
from tests.fl_client.made_identity import Made
from tests.processes import run_cli

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
COST = Cost(unit="clip", noise_multiplier=1.0, sampling_rate=0.1, steps=100, delta=1e-5)
ROUND = {"run": "0123456789abcdef", "round": 7, "plan": "ab" * 32, "clips": "cd" * 32}


@pytest.fixture
def spent(made: Made) -> Made:
    """A device that has begun two private trainings and ended one."""
    with made.ledger as ledger:
        for entry in (
            Entry(state="reserved", time=NOW, cost=COST, **ROUND),
            Entry(state="spent", time=NOW, **ROUND),
            Entry(state="reserved", time=NOW, cost=COST, **ROUND | {"round": 8}),
        ):
            ledger.write(lambda account, entry=entry: entry)  # type: ignore[misc]
    return made


def privacy(made: Made, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    return run_cli("client", "privacy", command, "--home", str(made.home.root), *more)


def status(made: Made, *more: str) -> str:
    """In this process: what is closest to the truth takes seconds to load."""
    arguments = ["client", "privacy", "status", "--home", str(made.home.root), *more]
    return CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def test_status_says_what_is_spent_and_what_is_left(spent: Made) -> None:
    spent.home.policy.write_text("maximum_epsilon = 20.0\n")
    policy = Policy(maximum_epsilon=20.0)
    said = json.loads(status(spent, "--json"))
    account = spent.ledger.account()
    (unit,) = said["units"]
    assert (said["maximum_epsilon"], said["exact_answers"]) == (20.0, 0)
    assert unit["spent_epsilon"] == policy.spent(account)["clip"]
    assert (unit["unit"], unit["steps"]) == ("clip", 200)
    assert unit["rounds_left"] == policy.rounds_left(account, COST) > 0
    closest, accountant = closest_epsilon(account.steps["clip"], policy.delta)
    assert (unit["closest_epsilon"], unit["closest_accountant"]) == (closest, accountant) == (closest, "prv")
    assert closest < unit["spent_epsilon"]
    table = status(spent)
    for word in ("clip", f"{unit['spent_epsilon']:.3g}", "20", str(unit["rounds_left"]), "delta 1e-05"):
        assert word in table
    assert f"Closest to the truth per clip: {closest:.3g} by PRV." in table


def test_what_is_closest_to_the_truth_decides_nothing(spent: Made) -> None:
    """A limit between what PRV and what RDP says is used up."""
    account = spent.ledger.account()
    closest, _ = closest_epsilon(account.steps["clip"], 1e-5)
    bound = Policy().spent(account)["clip"]
    spent.home.policy.write_text(f"maximum_epsilon = {(closest + bound) / 2}\n")
    (unit,) = json.loads(status(spent, "--json"))["units"]
    assert unit["closest_epsilon"] < (closest + bound) / 2 < unit["spent_epsilon"]
    assert unit["rounds_left"] == 0


def test_where_prv_fails_status_says_so(made: Made) -> None:
    much = Cost(unit="clip", noise_multiplier=0.3, sampling_rate=0.25, steps=20_000)
    with made.ledger as ledger:
        ledger.write(lambda account: Entry(state="reserved", time=NOW, cost=much, **ROUND))
    assert "per clip: that of RDP, as PRV fails." in status(made)
    (unit,) = json.loads(status(made, "--json"))["units"]
    assert (unit["closest_epsilon"], unit["closest_accountant"]) == (unit["spent_epsilon"], "rdp")


def test_status_of_exact_answers_claims_no_epsilon(spent: Made) -> None:
    spent.ledger.write(lambda account: Entry(state="exact", time=NOW, count=2))
    said = json.loads(status(spent, "--json"))
    assert (said["units"][0]["spent_epsilon"], said["exact_answers"]) == (None, 2)
    assert "2 exact answers: no epsilon bounds them" in status(spent)


def test_who_has_spent_nothing(made: Made) -> None:
    assert "No privacy was spent" in status(made)
    assert json.loads(privacy(made, "history", "--json").stdout) == {"lines": []}
    assert json.loads(privacy(made, "verify", "--json").stdout) == {"lines": 0, "witnessed": 0}
    assert not made.home.ledger.exists()


def test_history_has_every_line(spent: Made) -> None:
    lines = json.loads(privacy(spent, "history", "--json").stdout)["lines"]
    assert [(line["seq"], line["state"]) for line in lines] == [
        (1, "reserved"),
        (2, "spent"),
        (3, "reserved"),
    ]
    assert lines[2] | ROUND | {"round": 8} == lines[2]
    assert lines[0]["cost"] == COST.model_dump()
    table = privacy(spent, "history").stdout
    for word in ("2026-06-01 12:00:00", "reserved", ROUND["run"], "cdcdcdcd"):
        assert str(word) in table


def test_verify_is_content_with_what_is_whole(spent: Made) -> None:
    assert json.loads(privacy(spent, "verify", "--json").stdout) == {"lines": 3, "witnessed": 3}
    done = privacy(spent, "verify")
    assert done.returncode == 0
    assert "All 3 lines" in done.stdout


def test_verify_says_what_is_wrong(spent: Made) -> None:
    older, witness = spent.home.ledger.read_bytes(), spent.home.witness.read_bytes()
    with spent.ledger as ledger:
        ledger.write(lambda account: Entry(state="exact", time=NOW))
    spent.home.ledger.write_bytes(older)
    done = privacy(spent, "verify", "--json")
    assert done.returncode != 0
    assert json.loads(done.stdout)["error"] == "FA-4062"
    spent.home.witness.write_bytes(witness)
    spent.home.ledger.write_bytes(older.replace(b'"steps":100', b'"steps":001', 1))
    done = privacy(spent, "verify")
    assert done.returncode != 0
    assert "FA-4043" in done.stderr
    assert "line 3 was changed" in done.stderr


def test_the_witness_is_where_its_owner_says(spent: Made, made: Made) -> None:
    other = made.home.root.parent / "usb"
    other.mkdir()
    spent.home.witness.rename(other / "witness.json")
    assert json.loads(privacy(spent, "verify", "--json").stdout)["error"] == "FA-4061"
    with spent.home.config.open("a") as config:
        config.write(f'witness = "{other / "witness.json"}"\n')
    assert json.loads(privacy(spent, "verify", "--json").stdout) == {"lines": 3, "witnessed": 3}
