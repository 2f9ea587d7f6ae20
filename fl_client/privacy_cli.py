"""`fedaudio client privacy ...`"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from common.files import is_there
from fl_client.options import Home, Json, PassphraseFile, existing, unlock

if TYPE_CHECKING:
    from fl_client.account import Cost, Entry

app = typer.Typer(help="What the device has spent of its owner's privacy.", no_args_is_help=True)


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Say what was spent, of what, and how many rounds like the last are left.

    What is closest to the truth comes last, for it takes seconds. No limit is compared with it.
    """
    from common.privacy.accounting import closest_epsilon
    from fl_client.ledger import open_ledger
    from fl_client.policy import load_policy

    place = existing(home)
    rules = load_policy(place.policy)
    with open_ledger(place) as ledger:
        account = ledger.account()
        costs = {entry.cost.unit: entry.cost for _, entry in ledger.entries() if entry.cost is not None}
    spent = rules.spent(account)
    units: list[dict[str, object]] = [
        {
            "unit": unit,
            "spent_epsilon": None if account.exact or len(spent) > 1 else epsilon,
            "private_epsilon": epsilon,
            "steps": account.steps[unit].total(),
            "rounds_left": rules.rounds_left(account, costs[unit]) if unit in costs else None,
        }
        for unit, epsilon in spent.items()
    ]
    if as_json:
        for one, steps in zip(units, account.steps.values(), strict=True):
            one["closest_epsilon"], one["closest_accountant"] = closest_epsilon(steps, rules.delta)
        document = {
            "delta": rules.delta,
            "maximum_epsilon": rules.maximum_epsilon,
            "maximum_epsilon_per_round": rules.maximum_epsilon_per_round,
            "exact_answers": account.exact,
            "units": units,
        }
        typer.echo(json.dumps(document))
        return
    limit = "no limit" if rules.maximum_epsilon is None else f"{rules.maximum_epsilon:g}"
    table = Table("unit", "epsilon spent", "of", "steps", "rounds left like the last")
    for one in units:
        left = "any number" if one["rounds_left"] is None else str(one["rounds_left"])
        table.add_row(str(one["unit"]), f"{one['private_epsilon']:.3g}", limit, str(one["steps"]), left)
    if units:
        _print(table)
        typer.echo(f"At delta {rules.delta:g}, for adding or removing one unit, by RDP; noise is added here.")
    else:
        typer.echo(f"No privacy was spent; the limit of epsilon: {limit}.")
    if len(units) > 1:
        typer.echo("Each is of its own trainings only: no epsilon bounds them together.")
    if account.exact:
        typer.echo(f"And without privacy: {account.exact} exact answers: no epsilon bounds them.")
    for unit, steps in account.steps.items():
        typer.echo(f"Closest to the truth per {unit}: {_said(*closest_epsilon(steps, rules.delta))}.")
    if units:
        typer.echo("That is for reading; no limit is compared with it.")


@app.command()
def history(home: Home = None, as_json: Json = False) -> None:
    """Every line of the ledger, oldest first."""
    from fl_client.ledger import open_ledger

    with open_ledger(existing(home)) as ledger:
        lines = ledger.entries()
    if as_json:
        rows = [{"seq": seq, **entry.model_dump(mode="json", exclude_none=True)} for seq, entry in lines]
        typer.echo(json.dumps({"lines": rows}))
        return
    table = Table("line", "time", "state", "run", "round", "unit", "noise", "rate", "steps", "clips")
    for seq, entry in lines:
        table.add_row(str(seq), *_cells(entry))
    _print(table)


@app.command()
def verify(home: Home = None, passphrase_file: PassphraseFile = None, as_json: Json = False) -> None:
    """Check that every line is as this device wrote it, and that none is missing at the end."""
    from fl_client.identity import ledger_key
    from fl_client.ledger import open_ledger

    place = existing(home)
    key = ledger_key(place, unlock(place, passphrase_file)) if is_there(place.ledger) else None
    with open_ledger(place, key) as ledger:
        count, known = len(ledger.entries()), ledger.witnessed
    if as_json:
        typer.echo(json.dumps({"lines": count, "witnessed": known}))
        return
    typer.echo(f"All {count} lines are as this device wrote them; {ledger.witness} tells of {known}.")


def _cells(entry: Entry) -> Sequence[str]:
    cost: Cost | None = entry.cost
    spent = (
        ("", "", "", "")
        if cost is None
        else (cost.unit, f"{cost.noise_multiplier:g}", f"{cost.sampling_rate:.4g}", str(cost.steps))
    )
    state = entry.state if entry.count == 1 else f"{entry.state} x{entry.count}"
    time = entry.time.isoformat(" ", timespec="seconds")
    return time, state, entry.run, str(entry.round) if entry.run else "", *spent, entry.clips[:8]


def _said(epsilon: float, accountant: str) -> str:
    return f"{epsilon:.3g} by PRV" if accountant == "prv" else "that of RDP, as PRV fails"


def _print(table: Table) -> None:
    # Piped, a table is as wide as it needs to be: nothing of it may be cut off.
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)
