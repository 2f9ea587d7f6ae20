"""`fedaudio privacy ...`: what private training costs, before anybody pays."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import TrainingError
from common.protocol.algorithms import Trained
from common.protocol.unit import Unit
from common.settings import parse_settings
from common.task import Task

if TYPE_CHECKING:
    from common.privacy.forecast import Forecast, Outlook, Prospect

app = typer.Typer(help="What differential privacy costs.", no_args_is_help=True)

LEARNS: dict[Outlook, str] = {
    "nothing": "next to nothing, the noise drowns the signal",
    "little": "something, far less than without noise",
    "much": "most of what it would without noise",
}


@app.callback()
def group() -> None:
    """What differential privacy costs."""


@app.command()
def plan(
    clips: Annotated[int, typer.Option(help="That one device trains on.")],
    unit: Annotated[Unit, typer.Option(help="privacy.unit: what one epsilon protects.")] = "clip",
    units: Annotated[
        int | None,
        typer.Option(help="privacy.units: how many one device is taken to have; 0: as many as its clips."),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="What a device may spend in all its rounds.")] = 8.0,
    delta: Annotated[float, typer.Option(help="The same.")] = 1e-5,
    rounds: Annotated[int, typer.Option(help="That a device takes part in.")] = 20,
    cohort: Annotated[int, typer.Option(help="Devices that are averaged in a round.")] = 20,
    batch: Annotated[int | None, typer.Option(help="recipe.batch_size")] = None,
    epochs: Annotated[int | None, typer.Option(help="recipe.epochs, in place of steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="recipe.steps")] = None,
    architecture: Annotated[str | None, typer.Option(help="task.architecture")] = None,
    width: Annotated[int | None, typer.Option(help="task.width")] = None,
    labels: Annotated[int, typer.Option(min=2, max=1000, help="How many the task has.")] = 10,
    trained: Annotated[Trained | None, typer.Option(help="recipe.trained")] = None,
    parameters: Annotated[
        int | None, typer.Option(help="How many are trained, if not those of the model.")
    ] = None,
    warm: Annotated[
        bool | None,
        typer.Option(
            "--warm/--from-scratch",
            help="Whether the model has learnt from other sounds before; if not said, a head's rest has.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what noise a budget needs, and what can be learnt under it, before any of it is spent.

    What is not given of recipe and task is as in a coordinator made with --dp.
    """
    from common.privacy.forecast import Schedule, foresee
    from common.protocol.plan import PRIVATE_RECIPE, Privacy
    from fl_server.settings import PRIVATE_ARCHITECTURE

    names = [f"label {number}" for number in range(labels)]
    model = {"architecture": architecture or PRIVATE_ARCHITECTURE, "width": width}
    task = parse_settings(Task, {"labels": names, **model}, "The options")
    batch = PRIVATE_RECIPE.batch_size if batch is None else batch
    trained = trained or PRIVATE_RECIPE.trained
    if units is None and unit != "clip":
        raise TrainingError("FA-7030", f"How many {unit}s a device has is not said.", "Give --units.")
    count = (Privacy().units if units is None else units) or clips
    a_round = steps if steps is not None else PRIVATE_RECIPE.steps or 1
    if steps is None and epochs is not None:
        a_round = epochs * -(-count // max(1, batch))
    held = clips if unit == "clip" else None
    schedule = Schedule(count, batch, a_round, rounds, cohort, delta, unit, held)
    is_warm = trained == "head" if warm is None else warm
    forecast = foresee(schedule, epsilon, task, trained, "warm" if is_warm else "scratch", parameters)
    advice = _advice(forecast)
    if as_json:
        document = asdict(forecast) | {"cost": forecast.cost.model_dump(), "advice": advice}
        typer.echo(json.dumps(document))
        return
    _print_cost(forecast)
    _print_prospects(forecast)
    typer.echo(f"\n{advice}\n")
    _print_needed(forecast)


def _advice(forecast: Forecast) -> str:
    planned, head = forecast.planned, forecast.head
    if forecast.cost.delta >= 1:
        return "The plan promises nothing: a delta of 1 says so. Take a smaller epsilon."
    if planned.outlook == "much":
        return "The plan is sound. Try it with `fedaudio simulate` before devices spend anything on it."
    if head.outlook != "nothing" and head.of_run > planned.of_run:
        return (
            "Start from a model that has learnt from public or synthetic sounds, and train its head alone\n"
            f'(recipe.trained = "head"): noise then falls on {head.parameters:,} parameters, not on\n'
            f"{planned.parameters:,}; signal to noise is {head.of_run / planned.of_run:.1f} times as high."
        )
    return (
        "More clips on each device, more devices in a round, a larger epsilon or fewer parameters raise the\n"
        "signal; more rounds at the same epsilon hardly do."
    )


def _print_cost(forecast: Forecast) -> None:
    at, cost, (closest, accountant) = forecast.schedule, forecast.cost, forecast.closest
    held = at.held or at.units
    typer.echo(
        f"{at.rounds} rounds of {at.cohort} devices. In each, a device takes {at.steps} "
        f"step{'s' * (at.steps > 1)}, on about {at.rate * held:.0f} of its {held} {at.unit}s, "
        f"as if it had {at.units} (privacy.units).\n"
        f"Noise multiplier {cost.noise_multiplier:g}: epsilon {cost.epsilon:.2f} at delta {cost.delta:g}, "
        f"by {cost.accountant}, which ledgers count."
    )
    if accountant != cost.accountant:
        typer.echo(f"By {accountant}, which comes closer to the truth, it is {closest:.2f}.")
    typer.echo(
        f"It protects one {cost.unit} of a device ({cost.adjacency}; {cost.sampler} sampling), "
        f"whoever sees what leaves it.\nOnly the {cost.trusted} itself must be trusted."
    )


def _print_prospects(forecast: Forecast) -> None:
    rows = {
        "as planned": forecast.planned,
        "all, from scratch": forecast.whole,
        "head, on a warm rest": forecast.head,
    }
    typer.echo(f"\n{'signal to noise at best':24}{'parameters':>11}{'a round':>9}{'in all':>9}  learns")
    for name, prospect in rows.items():
        typer.echo(f"{name:24}{_numbers(prospect)}  {LEARNS[prospect.outlook]}")


def _numbers(prospect: Prospect) -> str:
    return f"{prospect.parameters:>11,}{prospect.of_round:>9.2f}{prospect.of_run:>9.2f}"


def _print_needed(forecast: Forecast) -> None:
    columns = next(iter(forecast.needed.values()))
    heads = "".join(f"{f'epsilon {epsilon:g}':>14}" for epsilon in columns)
    typer.echo(f"Noise multiplier, about (signal to noise in all), as planned but for:\n{'rounds':8}{heads}")
    for rounds, row in forecast.needed.items():
        cells = "".join(f"{_cell(forecast, rounds, noise):>14}" for noise in row.values())
        typer.echo(f"{rounds:<8}{cells}")


def _cell(forecast: Forecast, rounds: int, noise: float | None) -> str:
    if noise is None:
        return "none"
    at, planned = forecast.schedule, forecast.planned
    change = (rounds / at.rounds) ** 0.5 * forecast.cost.noise_multiplier / noise
    return f"{noise:g} ({planned.of_run * change:.2g})"
