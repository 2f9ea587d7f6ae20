"""The report on a simulation: one page of HTML with everything inside, the same to the byte each time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from simulations.figures import SEEDED, devices_accuracy
from simulations.reports import curves, distributions
from simulations.reports.drawing import SERIES, in_style
from simulations.reports.found import Found, FoundSweep, find_results
from simulations.reports.page import Markup, Panel, page, table, tiles
from simulations.results import SimulationResults
from simulations.sweep_results import Cell, SeedFigures, Spread, spreads


def render(folder: Path) -> str:
    """The page about the results in `folder`.

    Raises:
        SimulationError: FA-9301 no matplotlib, FA-9303..FA-9305 no results, or none that can be read.
        StorageError: FA-8001.
    """
    found = find_results(folder)
    with in_style():
        return _sweep_page(found) if isinstance(found, FoundSweep) else _run_page(found)


def _run_page(found: Found) -> str:
    seeds, first = found.seeds, found.seeds[0]
    about = (
        f"{first.config.get('about') or ''} {_count(first.population, 'virtual device')}, "
        f"{_count(len(first.labels), 'label')}, a model of {_count(first.parameters, 'parameter')}; "
        f"{_of_seeds(seeds)}."
    )
    panels = [*_over_rounds(seeds), *_at_the_end(seeds), *_what_it_took(seeds), _settings(first)]
    return page(f"Simulation {first.scenario}", about, _warnings(found), _headline(seeds), panels)


def _headline(seeds: Sequence[SimulationResults]) -> Markup:
    figures = spreads([SeedFigures.of(results) for results in seeds])
    accuracy, success, epsilon = figures["accuracy_unseen"], figures["attack_success"], figures["epsilon"]
    untrained = statistics.fmean(results.initial.accuracy_unseen for results in seeds)
    rows = [("accuracy on the unseen", percent(accuracy), f"untrained {untrained:.1%}")]
    if chosen_by := figures["accuracy_validation"]:
        rows.append(("accuracy on validation clips", percent(chosen_by), "to choose by"))
    if own := Spread.of(devices_accuracy(results) for results in seeds):
        rows.append(("accuracy on devices' own clips", percent(own), "every clip counts the same"))
    if success:
        rows.append(("attack success", percent(success), _count(seeds[0].attackers, "attacker")))
    if epsilon:
        final = seeds[0].final
        rows.append(("epsilon", number(epsilon), f"delta {final.delta:g}, protects one {final.unit}"))
    counts = sorted({len(results.rounds) for results in seeds})
    rounds = [each for results in seeds for each in results.rounds]
    made = sum(not each.void for each in rounds) / max(1, len(rounds))
    rows += [
        ("rounds", " or ".join(map(str, counts)), f"{made:.0%} made a version"),
        ("sent and received", in_bytes(figures["bytes"]), "by all devices"),
        ("took", in_time(figures["seconds"]), _count(seeds[0].workers, "worker")),
    ]
    return tiles(rows)


def _warnings(found: Found) -> Iterator[str]:
    if found.missing:
        yield f"No results yet: {', '.join(found.missing)}."
    stopped = [str(results.seed) for results in found.seeds if results.interrupted]
    if stopped:
        yield f"Stopped before the last round: seed {', '.join(stopped)}."
    if any(results.noise == "seed" for results in found.seeds):
        yield SEEDED


def _over_rounds(seeds: Sequence[SimulationResults]) -> Iterator[Panel]:
    if not all(results.rounds for results in seeds):
        return
    note = "Mean of the seeds; the band is their range." if len(seeds) > 1 else ""
    yield Panel("Accuracy over rounds", curves.accuracy_over_rounds(seeds), note)
    yield Panel("Accuracy over bytes", curves.accuracy_over_bytes(seeds), note)
    yield Panel("Loss over rounds", curves.loss_over_rounds(seeds), "Cross-entropy on the unseen.")
    rounds = [each for results in seeds for each in results.rounds]
    if any(each.epsilon is not None for each in rounds):
        yield Panel(
            "Epsilon over rounds", curves.epsilon_over_rounds(seeds), "Of the device that has spent most."
        )
    if any(each.attack_success is not None for each in rounds):
        yield Panel(
            "Attack success over rounds",
            curves.attack_success_over_rounds(seeds),
            "Share of unseen clips, not of the target, that are called it with the trigger.",
        )


def _at_the_end(seeds: Sequence[SimulationResults]) -> Iterator[Panel]:
    if any(each.clips for results in seeds for each in results.devices):
        yield Panel(
            "Device by device", distributions.device_accuracy(seeds), "On clips that each device keeps."
        )
    if any(each.clips for results in seeds for each in results.unseen):
        yield Panel(
            "Unseen speakers", distributions.unseen_accuracy(seeds), "Nobody trained on any clip of them."
        )
    if any(any(row) for results in seeds for row in results.confusion):
        matrix, shown = distributions.confusion(seeds)
        note = "Unseen clips by label, all seeds together; a colour's depth is the share of its row."
        if shown < len(seeds[0].labels):
            note += f" The {shown} labels with the most errors, of {len(seeds[0].labels)}."
        yield Panel("Confusion", matrix, note, wide=shown > 12)


def _what_it_took(seeds: Sequence[SimulationResults]) -> Iterator[Panel]:
    first = seeds[0]
    if first.rounds:
        if any(each.clock_seconds for results in seeds for each in results.rounds):
            note = "How long the rounds would have taken real devices, by the scenario's speeds."
            yield Panel("Accuracy over simulated time", curves.accuracy_over_clock(seeds), note)
        note = f"Of seed {first.seed}." if len(seeds) > 1 else ""
        yield Panel("Participation", curves.participation(first), note)
    parts = [
        (name, statistics.fmean(getattr(results.time, name) for results in seeds))
        for name in ("preparing", "training", "idle", "coordinating", "testing")
    ]
    note = "; ".join(f"{name} {_seconds(seconds)}" for name, seconds in parts) + "."
    yield Panel("Time budget", distributions.time_budget(parts), note)
    void = [
        (str(results.seed), str(each.round), each.void, f"{each.participants} of {each.cohort}")
        for results in seeds
        for each in results.rounds
        if each.void
    ]
    if void:
        note = f"The first {_VOID_ROWS} of {len(void)}." if len(void) > _VOID_ROWS else ""
        rows = table(("seed", "round", "error", "answered"), void[:_VOID_ROWS])
        yield Panel("Rounds that made no version", rows, note)


def _settings(results: SimulationResults) -> Panel:
    rows = [(key, "" if value is None else str(value)) for key, value in results.config.items()]
    for name, people in results.speakers:
        rows.append((f"speakers: {name}", _listed(people)))
    return Panel("Settings", table(("setting", "value"), rows, numbers=False), wide=True)


def _sweep_page(found: FoundSweep) -> str:
    sweep = found.table
    about = f"{_count(len(sweep.cells), 'cell')}, {_count(len(sweep.seeds), 'seed')} each."
    unfinished = [f"{sweep.done} of {sweep.runs} runs are done."] if sweep.done < sweep.runs else []
    rows = [row_of(cell) for cell in sweep.cells]
    panels = [
        Panel(
            "Results",
            table((*sweep.keys, *FIGURES), rows),
            " ".join(("Mean ± standard deviation.", *sweep.notes)),
            wide=True,
        )
    ]
    final = [
        (_label(cell), spread) for cell in sweep.cells if (spread := spreads(cell.seeds)["accuracy_unseen"])
    ]
    if final:
        note = "On the unseen; a dot for each seed, the line is their mean."
        panels.append(Panel("Final accuracy", distributions.accuracy_of_cells(final), note, wide=True))
    drawn = [(_label(cell), each.seeds) for cell, each in found.cells if all(r.rounds for r in each.seeds)]
    for start in range(0, len(drawn), len(SERIES)):
        some = drawn[start : start + len(SERIES)]
        note = "On the unseen; mean of the seeds, the band is their range."
        panels.append(Panel("Accuracy over rounds", curves.accuracies_of_cells(some), note))
    return page(f"Sweep over {sweep.scenario}", about, unfinished, Markup(""), panels)


FIGURES = (
    "validation (to choose by)",
    "unseen (to report)",
    "attack success",
    "epsilon",
    "noise",
    "sent",
    "time",
    "seeds",
)
"""Columns of a sweep's table, after those of the grid."""


def row_of(cell: Cell) -> tuple[str, ...]:
    """A cell's line in a sweep's table."""
    figures = spreads(cell.seeds)
    return (
        *cell.values.values(),
        percent(figures["accuracy_validation"]),
        percent(figures["accuracy_unseen"]),
        percent(figures["attack_success"]),
        number(figures["epsilon"]),
        ", ".join(sorted({each.noise for each in cell.seeds if each.noise})) or "–",
        in_bytes(figures["bytes"]),
        in_time(figures["seconds"]),
        str(len(cell.seeds)),
    )


def percent(spread: Spread | None) -> str:
    """A share over seeds."""
    return _with_deviation(spread, 100, 1, " %")


def number(spread: Spread | None) -> str:
    """A figure without unit over seeds."""
    return _with_deviation(spread, 1, 2, "")


def in_bytes(spread: Spread | None) -> str:
    """Bytes over seeds, in a unit to read."""
    size, unit = curves.unit_of_bytes(spread.mean if spread else 0)
    return _with_deviation(spread, 1 / size, 1, f" {unit}")


def in_time(spread: Spread | None) -> str:
    """Seconds over seeds, in a unit to read."""
    seconds, unit = curves.unit_of_time(spread.mean if spread else 0)
    return _with_deviation(spread, 1 / seconds, 1, f" {unit}")


def _with_deviation(spread: Spread | None, factor: float, digits: int, unit: str) -> str:
    if spread is None:
        return "–"
    text = f"{spread.mean * factor:.{digits}f}"
    if spread.deviation is not None:
        text += f" ± {spread.deviation * factor:.{digits}f}"
    return text + unit


def _label(cell: Cell) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in cell.values.items()) or "all"


def _of_seeds(seeds: Sequence[SimulationResults]) -> str:
    numbers = ", ".join(str(results.seed) for results in seeds)
    return f"seed {numbers}" if len(seeds) == 1 else f"seeds {numbers}: mean ± standard deviation"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _seconds(seconds: float) -> str:
    size, unit = curves.unit_of_time(seconds)
    return f"{seconds / size:.1f} {unit}"


_VOID_ROWS, _LISTED = 200, 60
