"""What attackers achieve against the default rule and the release gate.

    python -m benchmarks.robustness [--part updates|backdoor] [--data ../shared/data] [--rules default]
        [--rounds 30] [--seeds 3] [--workers 2] [--out DIR] [--json]

Updates: a fifth of the devices flip signs, send noise, or do as ALIE and IPM say, each at its usual strength
and at those that hide best; points lost are against no attack and the plain mean, with the same seeds. The
goal is at most 5, for the default rule, in each of three worlds: Arabic commands with one speaker a device,
and spread evenly over 20 devices, and synthetic words on 40 devices.

Backdoor: a tenth of the devices teach a sound, with clips spread evenly. The goal is that at most 10 % of the
clips obey it in the end, with the gate. `swept` is a sound that the gate tries itself; the gate was made with
`chirp` and `click` at hand, and without `whistle`.

The model is narrow and clips are not augmented, so that it takes minutes. The default rule was chosen on
other synthetic voices, and without the Arabic speakers that are unseen here. The simulations stay in --out,
and those that are finished there are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from fl_server.settings import GateRules
from simulations.robustness import Watched, measure
from simulations.robustness_results import RobustnessCell
from simulations.scenario import Scenario

SEEDS_FROM = 100
"""Seeds below it were used to choose settings."""

UPDATES = ("none", "sign-flip", "sign-flip=1", "gaussian", "alie", "alie=1.5", "ipm", "ipm=1", "ipm=2")
TRIGGERS = ("chirp", "click", "whistle", "swept")
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
        "arabic-speakers": {"data": arabic, "population": {"devices": 14, "partition": "speaker"}},
        "arabic-even": {"data": arabic, "population": {"devices": 20, "partition": "iid"}},
        "words": {
            "data": {"voices": 48, "takes": 4, "unseen": 8},
            "population": {"devices": 40, "partition": "speaker"},
        },
    }
    for name, fleet in fleets.items():
        if name == "words" or data.is_dir():
            yield Scenario.model_validate({"name": name, **COMMON, **fleet})


def backdoored(data: Path) -> Iterator[Scenario]:
    """Each trigger with the gate and without; the coordinator has clips of some speakers for the gate."""
    fleet: dict[str, object] = {
        "data": {"voices": 48, "takes": 4, "unseen": 8, "validation": 6},
        "population": {"devices": 20, "partition": "iid"},
    }
    if data.is_dir():
        arabic = next(iter(worlds(data))).data
        fleet["data"] = arabic.model_copy(update={"validation": 2})
    for trigger in TRIGGERS:
        attack = {"kind": "backdoor", "trigger": trigger, "share": 0.1}
        for gate, rules in (("gate", GateRules()), ("open", NO_GATE)):
            name = f"{trigger}-{gate}"
            yield Scenario.model_validate({"name": name, **COMMON, **fleet, "attack": attack, "gate": rules})


def run(
    scenario: Scenario, attacks: tuple[str, ...], options: argparse.Namespace
) -> Iterator[RobustnessCell]:
    """One world's cells, with what they are of."""

    def show(watched: Watched) -> None:
        if watched.progress.doing == "finishing":
            print(f"  {scenario.name}: {watched.finished + 1}/{watched.runs}", flush=True)

    results = measure(
        scenario.model_copy(update={"number_of_rounds": options.rounds}),
        attacks,
        options.rules.split(","),
        range(SEEDS_FROM, SEEDS_FROM + options.seeds),
        options.out / scenario.name,
        workers=options.workers,
        watch=lambda watched: None if options.json else show(watched),
    )
    yield from results.cells


def main() -> None:
    """Run, and print a table of what each attack achieved."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("updates", "backdoor"))
    parser.add_argument("--data", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rules", default="default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("robustness"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.data = options.data.resolve()
    parts = {"updates": (worlds, UPDATES), "backdoor": (backdoored, ("backdoor",))}
    found = [
        {"part": part, "world": scenario.name, **cell.model_dump(exclude={"runs"})}
        | {"void": sum(each.void for each in cell.runs) / len(cell.runs)}
        for part, (scenarios, attacks) in parts.items()
        if options.part in (None, part)
        for scenario in scenarios(options.data)
        for cell in run(scenario, attacks, options)
    ]
    print(f"{'world':<18}{'attack':<14}{'rule':<24}{'accuracy':>9}{'lost':>7}{'open':>8}{'void':>7}  goal")
    for row in found:
        success = row["attack_success"]
        opened = "" if success is None else f"{success:.1%}"
        lost = row["points_lost"]
        print(
            f"{row['world']:<18}{row['attack']:<14}{row['rule']:<24}{row['accuracy']:>9.1%}{lost:>7.1f}"
            f"{opened:>8}{row['void']:>7.1f}  {_goal(row)}"
        )
    if options.json:
        print(json.dumps({"benchmark": "robustness", "rounds": options.rounds, "rows": found}))


def _goal(row: Mapping[str, object]) -> str:
    """Whether a figure that has a goal reached it."""
    if row["rule"] != "default" or row["attack"] == "none":
        return ""
    if row["part"] == "updates":
        return "met" if float(str(row["points_lost"])) <= LOST_GOAL else "missed"
    if str(row["world"]).endswith("-gate"):
        return "met" if float(str(row["attack_success"])) <= SUCCESS_GOAL else "missed"
    return ""


if __name__ == "__main__":
    main()
