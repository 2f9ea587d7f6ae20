"""A grid of scenarios, each with several seeds, one run after the other. What is done is never done again."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import SimulationError
from common.files import make_folder, sha256, write_atomic
from simulations.engine import simulate
from simulations.finished import finished
from simulations.load import load_scenario
from simulations.progress import Progress
from simulations.reports.found import SWEEP
from simulations.results import SimulationResults
from simulations.scenario import Scenario
from simulations.sweep_results import Cell, SeedFigures, SweepResults

Grid = Mapping[str, Sequence[str]]
"""Values of each key, as they were written."""


@dataclass(frozen=True)
class Planned:
    """A cell before it is run."""

    values: dict[str, str]
    scenario: Scenario = field(repr=False)

    @property
    def folder(self) -> str:
        """Follows from the scenario, so that what is in it is of this one; begins with what one can read."""
        words = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.values.items())
        readable = re.sub(r"[^A-Za-z0-9._=+-]+", "_", words).strip("._-")[:80]
        return f"{readable or 'all'}-{sha256(self.scenario.model_dump_json().encode())[:12]}"


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is.

    Args:
        done, runs: of all cells and seeds.
        values: of the cell that is run now.
        run: how far that is.
    """

    done: int
    runs: int
    values: Mapping[str, str]
    run: Progress


Watch = Callable[[SweepProgress], None]


def parse_grid(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read `key=v1,v2` for each key; commas in brackets and quotes separate nothing.

    Raises:
        SimulationError: FA-9308.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, rest = text.partition("=")
        values = _split(rest)
        key = key.strip()
        if not key or not equals or not all(values) or len(set(values)) < len(values) or key in grid:
            raise SimulationError(
                "FA-9308",
                f"'{text}' is no line of a grid, or is there twice.",
                "Write each key once, for example --grid recipe.epochs=1,2,5.",
            )
        grid[key] = values
    return grid


def plan_sweep(scenario: str, grid: Grid, overrides: Sequence[str]) -> list[Planned]:
    """The scenario of each cell, in the order of the grid.

    Raises:
        SimulationError, ConfigError: as `load_scenario`; nothing has been run then.
    """
    cells = []
    for values in itertools.product(*grid.values()):
        choices = [f"{key}={value}" for key, value in zip(grid, values, strict=True)]
        planned = load_scenario(scenario, [*overrides, *choices])
        cells.append(Planned(dict(zip(grid, values, strict=True)), planned))
    return cells


def sweep(
    cells: Sequence[Planned],
    seeds: Sequence[int],
    out: Path,
    *,
    workers: int = 1,
    backend: str = "local",
    cache: Path | None = None,
    watch: Watch = lambda progress: None,
) -> SweepResults:
    """Run every cell with every seed, seed by seed, and keep sweep.json and sweep.csv in `out` up to date.

    A run that is over is read, and one that is not is gone on with. Ctrl-C ends the sweep with what there is.

    Args:
        cells: as `plan_sweep` makes them, at least one.
        workers, backend, cache: of each run.

    Raises:
        SimulationError: as `simulate`.
        StorageError: FA-8001.
    """
    make_folder(out)
    runs = list(itertools.product(seeds, cells))
    done = {
        (cell.folder, seed): results
        for seed, cell in runs
        if (results := finished(cell.scenario, seed, out / cell.folder / f"seed-{seed}"))
    }
    for seed, cell in runs:
        if (cell.folder, seed) in done:
            continue

        def tell(run: Progress, cell: Planned = cell) -> None:
            watch(SweepProgress(len(done), len(runs), cell.values, run))

        _write(out, cells, seeds, done)
        try:
            results = simulate(
                cell.scenario,
                seed,
                out / cell.folder / f"seed-{seed}",
                workers=workers,
                resume=True,
                backend=backend,
                cache=cache,
                release=False,
                watch=tell,
            )
        except KeyboardInterrupt:
            break
        if results.interrupted:
            break
        done[cell.folder, seed] = results
    return _write(out, cells, seeds, done)


def _write(
    out: Path,
    planned: Sequence[Planned],
    seeds: Sequence[int],
    done: Mapping[tuple[str, int], SimulationResults],
) -> SweepResults:
    """sweep.json, and sweep.csv with a line for each run."""
    cells = tuple(
        Cell(
            values=cell.values,
            folder=cell.folder,
            seeds=tuple(
                SeedFigures.of(results) for seed in seeds if (results := done.get((cell.folder, seed)))
            ),
        )
        for cell in planned
    )
    found = SweepResults(
        scenario=planned[0].scenario.name, keys=tuple(planned[0].values), seeds=tuple(seeds), cells=cells
    )
    write_atomic(out / SWEEP, found.model_dump_json(indent=1).encode())
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*found.keys, *SeedFigures.model_fields])
    for cell in cells:
        lines.writerows([*cell.values.values(), *figures.model_dump().values()] for figures in cell.seeds)
    write_atomic(out / "sweep.csv", text.getvalue().encode())
    return found


def _split(text: str) -> tuple[str, ...]:
    """The values between commas, of which those in brackets and quotes separate nothing."""
    values, open_one = list[str](), ""
    for part in text.split(","):
        open_one += part
        if open_one.count("[") <= open_one.count("]") and open_one.count('"') % 2 == 0:
            values.append(open_one.strip())
            open_one = ""
        else:
            open_one += ","
    return (*values, open_one) if open_one else tuple(values)
