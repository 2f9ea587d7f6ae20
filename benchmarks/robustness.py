"""What attackers achieve against the default rule and the release gate.

    python -m benchmarks.robustness [--part updates|backdoor] [--data ../shared/data] [--rules default]
        [--full] [--rounds 20] [--seeds 1] [--workers 2] [--out DIR] [--json]

Updates: a fifth of the devices flip signs, send noise, or do as ALIE and IPM say, each at its usual strength
and at those that hide best; points lost are against no attack and the plain mean, with the same seeds. The
goal is at most 5, for the default rule, in each of three worlds, in which a fifth is a whole number: Arabic
commands by speakers on 10 devices, and spread evenly over 20, and synthetic words on 20. The z that ALIE's
paper gives is 0 for 2 of 10 devices and 0.16 for 4 of 20, so it is run with 1.5 too, as byzfl has it.

Backdoor: a tenth of the devices teach a sound, with clips spread evenly, boosted to replace the model and
slowly (1, 2). The goal is that at most 10 % of the clips obey it in the end and that at most 5 points are
lost, for a gate that refuses everything would stop any backdoor; so void rounds are counted too. The gate was
made with `chirp` at hand and without `whistle`; --full adds `click`, which was at hand too, and `swept`, a
sound that the gate tries itself.

The model is narrow and clips are not augmented, so that it takes minutes: about twelve on two cores, and
with --full, which has more rounds and seeds and the backdoor without the gate, hours. The default rule was
chosen on other synthetic voices, and without the Arabic speakers that are unseen here. The simulations stay
in --out, and those that are finished there are not run again: name another folder when the code has changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fl_server.settings import GateRules
from simulations.robustness import Watched, measure
from simulations.robustness_results import RobustnessCell
from simulations.scenario import Scenario

SEEDS_FROM = 100
"""Seeds below it were used to choose settings."""

UPDATES = ("none", "sign-flip", "gaussian", "alie", "alie=1.5", "ipm=10", "ipm=1", "ipm=0.5")
BOOSTS = ("backdoor", "backdoor=1", "backdoor=2")
TRIGGERS = ("chirp", "whistle", "click", "swept")
LOST_GOAL, SUCCESS_GOAL = 5.0, 0.1

NO_GATE = GateRules(accuracy_drop=0, label_drop=0, trigger_success=0, step=0)

COMMON: Mapping[str, object] = {
    "task": {"width": 48, "front_end": {"kind": "log-mel", "hop": 320}},
    "recipe": {
        "learning_rate": 4e-3,
        "augmentation": {
            "shift_seconds": 0,
            "gain_db": 0,
            "noise_probability": 0,
            "time_masks": 0,
            "band_masks": 0,
        },
    },
    "rounds": {"min_devices": 1, "evaluate": False},
}


def worlds(data: Path) -> Iterator[Scenario]:
    """The fleets that are attacked; without real data only the synthetic one."""
    arabic = {
        "path": data / "arabic_speech_commands",
        "unseen": ("00000001", "00000011", "00000020", "00000030"),
    }
    fleets: dict[str, dict[str, object]] = {
        "arabic-speakers": {"data": arabic, "population": {"devices": 10, "partition": "speaker"}},
        "arabic-even": {"data": arabic, "population": {"devices": 20, "partition": "iid"}},
        "words": {
            "data": {"voices": 28, "takes": 4, "unseen": 8},
            "population": {"devices": 20, "partition": "speaker"},
        },
    }
    for name, fleet in fleets.items():
        if name == "words" or data.is_dir():
            yield Scenario.model_validate({"name": name, **COMMON, **fleet})


def backdoored(data: Path, full: bool) -> Iterator[Scenario]:
    """Triggers with the gate, and if `full` all of them, also without; the coordinator has clips for it."""
    fleet: dict[str, object] = {
        "data": {"voices": 28, "takes": 4, "unseen": 8, "validation": 4},
        "population": {"devices": 20, "partition": "iid"},
    }
    if data.is_dir():
        arabic = next(iter(worlds(data))).data
        fleet["data"] = arabic.model_copy(update={"validation": 2})
    for trigger in TRIGGERS if full else TRIGGERS[:2]:
        attack = {"kind": "backdoor", "trigger": trigger, "share": 0.1}
        for gate, rules in (("gate", GateRules()), ("open", NO_GATE))[: 1 + full]:
            name = f"{trigger}-{gate}"
            yield Scenario.model_validate({"name": name, **COMMON, **fleet, "attack": attack, "gate": rules})


def run(
    scenario: Scenario, attacks: tuple[str, ...], options: argparse.Namespace
) -> Iterator[RobustnessCell]:
    """One world's cells; stops everything where it is interrupted."""

    def show(watched: Watched) -> None:
        if watched.progress.doing == "finishing":
            place = f"{scenario.name}: {watched.finished + 1}/{watched.runs}"
            print(f"{place}, {' x '.join(watched.pair)}, seed {watched.seed}", file=sys.stderr, flush=True)

    results = measure(
        scenario.model_copy(update={"number_of_rounds": options.rounds}),
        attacks,
        options.rules.split(","),
        range(SEEDS_FROM, SEEDS_FROM + options.seeds),
        options.out / f"{scenario.name}-{options.rounds}",
        workers=options.workers,
        cache=options.out / "cache",
        watch=show,
    )
    if not results.finished:
        sys.exit(130)
    yield from results.cells


def parts(options: argparse.Namespace) -> Iterator[tuple[str, Iterator[Scenario], tuple[str, ...]]]:
    """Each part that is asked for: its worlds, and the attacks in each."""
    if options.part != "backdoor":
        yield "updates", worlds(options.data), UPDATES
    if options.part != "updates":
        yield "backdoor", backdoored(options.data, options.full), BOOSTS


def main() -> None:
    """Run, and print a table of what each attack achieved; with --json, one JSON object is the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("updates", "backdoor"))
    parser.add_argument("--data", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument("--full", action="store_true", help="30 rounds, 3 seeds, and without the gate too")
    parser.add_argument("--seeds", type=int, help="1, or 3 with --full")
    parser.add_argument("--rounds", type=int, help="20, or 30 with --full")
    parser.add_argument("--rules", default="default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs") / "benchmark-robustness")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.data = options.data.resolve()
    options.seeds = options.seeds or (3 if options.full else 1)
    options.rounds = options.rounds or (30 if options.full else 20)
    found = [
        row | {"goal": goal(row)}
        for part, scenarios, attacks in parts(options)
        for scenario in scenarios
        for cell in run(scenario, attacks, options)
        for row in [{"part": part, "world": scenario.name, **cell.model_dump(exclude={"runs"})}]
    ]
    print(f"{options.rounds} rounds, seeds from {SEEDS_FROM}: {options.seeds}")
    print(f"{'world':<16}{'attack':<13}{'rule':<22}{'accuracy':>9}{'lost':>7}{'open':>8}{'void':>6}  goal")
    for row in found:
        opened = "" if row["attack_success"] is None else f"{row['attack_success']:.1%}"
        print(
            f"{row['world']:<16}{row['attack']:<13}{row['rule']:<22}{row['accuracy']:>9.1%}"
            f"{row['points_lost']:>7.1f}{opened:>8}{row['void']:>6.1f}  {row['goal'] or ''}"
        )
    if options.json:
        shape = {"rounds": options.rounds, "seeds": options.seeds}
        print(json.dumps({"benchmark": "robustness", **shape, "rows": found}))


def goal(row: Mapping[str, Any]) -> str | None:
    """Whether a figure that has a goal reached it."""
    if row["rule"] != "default" or row["attack"] == "none" or row["world"].endswith("-open"):
        return None
    stopped = row["attack_success"] is None or row["attack_success"] <= SUCCESS_GOAL
    return "met" if stopped and row["points_lost"] <= LOST_GOAL else "missed"


if __name__ == "__main__":
    main()
