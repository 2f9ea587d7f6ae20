"""What differential privacy costs in accuracy: tasks without it, and at one epsilon or more, in one run.

    python -m benchmarks.private_accuracy [--data ../shared/data] [--seeds 3] [--workers 2] [--out DIR]
        [--quick] [--json]

The shipped scenario private-keywords on Arabic commands, and the same default recipe on three other tasks.
Epsilon is for all rounds together at a delta of 1e-5 and protects one clip; the noise for it is what
`fedaudio privacy plan` says. The test speakers of the Arabic commands are those of keywords-arabic: nothing
was chosen by them.
The warm start is never from the task's own collection; it is the same for all seeds, which begin at 0.
Without privacy the same head is trained by AdamW, which does better there than the private recipe less its
noise.

--quick: one seed of the Arabic commands. Simulations stay in --out, and those that are finished there are not
run again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.privacy.forecast import Schedule
from common.protocol.plan import Privacy
from simulations.engine import simulate
from simulations.finished import finished
from simulations.load import DATA_VARIABLE, load_scenario
from simulations.scenario import DataChoice, PopulationChoice, Scenario, WarmStart
from simulations.sweep_results import Spread

WITHOUT = {"optimizer": "adamw", "learning_rate": 0.002, "batch_size": 16, "steps": None, "epochs": 2}
"""What replaces the private recipe where nothing is private."""


@dataclass(frozen=True)
class Case:
    """A task.

    Args:
        data, population: replace those of the shipped scenario, as does `clip_seconds`.
        warm: what to start from.
        goals: accuracy wanted, by epsilon; None: only to report.
    """

    name: str
    data: DataChoice
    population: PopulationChoice
    warm: tuple[str, ...] = ("babble", "fsdd")
    clip_seconds: float = 1.0
    goals: Mapping[float, float | None] = field(default_factory=lambda: {8.0: None})


def cases(data: Path) -> Iterator[Case]:
    """All tasks, with the collections in `data`."""
    shipped = load_scenario("private-keywords")
    goals = {8.0: 0.78, 4.0: 0.68, 2.0: 0.50}
    yield Case("Arabic commands", shipped.data, shipped.population, goals=goals)
    yield Case(
        "synthetic words",
        DataChoice(voices=105, takes=28, unseen=5),
        PopulationChoice(devices=100, clips=300),
        ("fsdd",),
    )
    yield Case("FSDD", DataChoice(path=data / "fsdd", unseen=1), PopulationChoice(devices=3), ("babble",))
    yield Case(
        "ESC-10",
        DataChoice(path=data / "esc10", split="fold", unseen=1),
        PopulationChoice(devices=10, clips=20),
        clip_seconds=5.0,
    )


def scenario_of(case: Case, epsilon: float | None, data: Path) -> Scenario:
    """The shipped scenario on another task, with the noise for `epsilon`; without privacy if it is None."""
    shipped = load_scenario("private-keywords")
    sources = tuple(source if source == "babble" else str(data / source) for source in case.warm)
    privacy, recipe = shipped.privacy, shipped.recipe
    assert privacy is not None
    if epsilon is None:
        privacy, recipe = None, recipe.model_copy(update=WITHOUT)
    else:
        # Every clip is in every step, so the noise does not hang on how many there are.
        schedule = Schedule(1, 1, 1, shipped.number_of_rounds, case.population.devices, privacy.delta)
        privacy = Privacy.model_validate(
            privacy.model_dump() | {"noise_multiplier": schedule.noise_for(epsilon)}
        )
    return shipped.model_copy(
        update={
            "data": case.data,
            "population": case.population,
            "task": shipped.task.model_copy(update={"clip_seconds": case.clip_seconds}),
            "warm_start": WarmStart(sources=sources),
            "recipe": recipe,
            "privacy": privacy,
        }
    )


def accuracies(
    scenario: Scenario, folder: Path, options: argparse.Namespace
) -> Iterator[tuple[float, float]]:
    """Accuracy on the unseen, and epsilon spent, of each seed's last version."""
    for seed in range(options.seeds):
        place = folder / f"seed-{seed}"
        results = finished(scenario, seed, place) or simulate(
            scenario,
            seed,
            place,
            workers=options.workers,
            resume=True,
            cache=options.out / "cache",
            release=False,
        )
        if results.interrupted:
            sys.exit(130)
        yield results.final.accuracy_unseen, results.rounds[-1].epsilon or 0.0


def measure(case: Case, data: Path, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """A row for each epsilon, the one without privacy first."""
    for epsilon in (None, *case.goals):
        name = "none" if epsilon is None else f"{epsilon:g}"
        folder = options.out / f"{case.name.replace(' ', '-')}-{name}"
        found = list(accuracies(scenario_of(case, epsilon, data), folder, options))
        spread = Spread.of(accuracy for accuracy, _ in found)
        assert spread is not None
        goal = None if epsilon is None else case.goals[epsilon]
        row: dict[str, object] = {
            "task": case.name,
            "epsilon": epsilon,
            "spent": max(cost for _, cost in found),
        }
        row |= {"mean": spread.mean, "spread": spread.deviation, "accuracies": spread.values, "goal": goal}
        print(_line(row), file=sys.stderr, flush=True)
        yield row


def _line(row: Mapping[str, object]) -> str:
    epsilon = "no privacy" if row["epsilon"] is None else f"epsilon {row['spent']:.2f}"
    deviation = "" if row["spread"] is None else f" ± {100 * float(str(row['spread'])):.1f}"
    goal = "" if row["goal"] is None else f"   goal {row['goal']}"
    return f"  {row['task']:<18}{epsilon:<14}{100 * float(str(row['mean'])):6.1f}{deviation} %{goal}"


def main() -> None:
    """Measure, and print a table; with --json, one JSON object is the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs") / "benchmark-private-accuracy")
    parser.add_argument("--quick", action="store_true", help="one seed of the Arabic commands")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seeds = 1
    data = options.data.resolve()
    if not (data / "arabic_speech_commands").is_dir():
        reason = f"there are no collections in {options.data}"
        print(json.dumps({"skipped": reason}) if options.json else f"skipped: {reason}")
        return
    os.environ[DATA_VARIABLE] = str(data)
    chosen = list(cases(data))[: 1 if options.quick else None]
    rows = [row for case in chosen for row in measure(case, data, options)]
    print(f"accuracy on unseen speakers and folds, {options.seeds} seeds")
    for row in rows:
        print(_line(row))
    if options.json:
        print(json.dumps({"benchmark": "private_accuracy", "seeds": options.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
