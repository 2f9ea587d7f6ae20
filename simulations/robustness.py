"""Attacks by aggregation rules: every combination is one simulation, and all of them make a table."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TypeAlias, get_args

import numpy as np
from pydantic import ValidationError

from common.errors import ConfigError, SimulationError
from common.files import make_folder, write_atomic
from common.settings import parse_settings
from common.task import Task
from fl_server.rules.registry import make_rule
from fl_server.settings import Aggregation, RuleName
from simulations.engine import simulate
from simulations.finished import finished
from simulations.progress import Progress
from simulations.results import SimulationResults
from simulations.robustness_results import RobustnessCell, RobustnessResults, RobustnessRun
from simulations.scenario import AttackChoice, AttackName, Scenario

RESULTS = "robustness.json"

Pair: TypeAlias = tuple[str, str]
"""Names of an attack and of a rule."""

BASELINE: Pair = ("none", "mean")
"""What every other pair is compared with."""

DEFAULT, MIXING, CLIPPING = "default", "mixing", "clipping"

USUAL_RULES = (
    "mean",
    DEFAULT,
    "median",
    "trimmed-mean",
    "krum",
    "multi-krum",
    "geometric-median",
    "centred-clipping",
    "trust",
    "trimmed-mean+mixing",
)


@dataclass(frozen=True)
class Watched:
    """How far a grid is.

    Args:
        finished, runs: simulations, of all.
        progress: of the one that is run now.
    """

    finished: int
    runs: int
    pair: Pair
    seed: int
    progress: Progress


def measure(
    scenario: Scenario,
    attacks: Sequence[str],
    rules: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    *,
    workers: int = 1,
    backend: str = "local",
    cache: Path | None = None,
    watch: Callable[[Watched], None] = lambda watched: None,
) -> RobustnessResults:
    """Run `scenario` with each attack against each rule, and with no attack and the plain mean.

    What is finished in `folder` already, of the same scenario, is not run again. Ctrl-C ends it early, with
    the results of what is finished.

    Args:
        scenario: its attack says all of the attackers but what they do.
        attacks, rules: see `choose_attack` and `choose_rule`.
        folder: gets one folder for each pair, in it one for each seed, and robustness.json, which is
            written anew after each run.
        workers, backend, cache: of each run.

    Raises:
        SimulationError: FA-9202 no such attack, FA-9203 no such rule, and as `simulate`.
        ConfigError: FA-6040, FA-6041 a rule cannot work here; nothing has been run then; and as `simulate`.
        DataError, TrainingError, StorageError: as `simulate`.
    """
    pairs = dict.fromkeys([BASELINE, *product(attacks, rules)])
    chosen = {pair: choose(scenario, *pair) for pair in pairs}
    for each in chosen.values():
        check_rule(each)
    make_folder(folder)
    runs: dict[Pair, list[RobustnessRun]] = {pair: [] for pair in pairs}
    found = _write(folder, scenario, seeds, runs)
    # Seed by seed, so that a grid that is stopped early has all of the first.
    for done, (seed, pair) in enumerate(product(seeds, pairs)):

        def tell(progress: Progress, done: int = done, seed: int = seed, pair: Pair = pair) -> None:
            watch(Watched(done, len(seeds) * len(pairs), pair, seed, progress))

        place = folder / "_".join(pair) / f"seed-{seed}"
        try:
            results = _run(chosen[pair], seed, place, workers, backend, cache, tell)
        except KeyboardInterrupt:
            break
        if results.interrupted:
            break
        runs[pair].append(RobustnessRun.of(results))
        found = _write(folder, scenario, seeds, runs)
    return found


def usual_rules(scenario: Scenario) -> tuple[str, ...]:
    """Those of `USUAL_RULES` that can work in `scenario`."""
    return tuple(rule for rule in USUAL_RULES if _can_work(choose(scenario, "none", rule)))


def check_rule(scenario: Scenario) -> None:
    """Nothing if the rule of `scenario` has the devices and the clips that it needs.

    Raises:
        ConfigError: FA-6003 it does not go with the rest, FA-6040 it needs more devices, FA-6041 clips of the
            coordinator's own.
    """
    devices = scenario.population.devices
    parse_settings(Scenario, scenario.model_dump(), f"{scenario.name} with {scenario.aggregation.rule}")
    settings = scenario.server_settings(Task(labels=("a", "b")), seed=0)
    reference = (lambda: np.zeros(1, np.float32)) if scenario.data.validation else None
    make_rule(settings, {"": (1,)}, min(devices, scenario.rounds.cohort or devices), reference=reference)


def _can_work(scenario: Scenario) -> bool:
    try:
        check_rule(scenario)
    except ConfigError:
        return False
    return True


def choose(scenario: Scenario, attack: str, rule: str) -> Scenario:
    """`scenario` with this attack and this rule."""
    return scenario.model_copy(
        update={
            "attack": choose_attack(attack, scenario.attack),
            "aggregation": choose_rule(rule, scenario.aggregation),
        }
    )


def choose_attack(text: str, base: AttackChoice) -> AttackChoice:
    """The attack of a name, or of "name=strength", with everything else as in `base`.

    Raises:
        SimulationError: FA-9202, there is no such attack.
    """
    name, _, strength = text.partition("=")
    if name not in get_args(AttackName):
        raise SimulationError(
            "FA-9202", f"There is no attack '{name}'.", _nearest(name, get_args(AttackName))
        )
    try:
        return AttackChoice.model_validate(base.model_dump() | {"kind": name, "strength": strength or None})
    except ValidationError as error:
        raise SimulationError(
            "FA-9202",
            f"'{strength}' is no strength of the attack {name}.",
            f"Give a number above 0 and at most 1000, as in {name}=2.",
        ) from error


def choose_rule(text: str, base: Aggregation) -> Aggregation:
    """The rule of a name, with "+mixing", "+clipping" or both behind it, and as many attackers as in `base`.

    "default" is `base` as it is. The others clip no norms and mix nothing unless they say so; both are done
    as `base` says, or else at the median and by direction. What is mixed is clipped.

    Raises:
        SimulationError: FA-9203, there is no such rule.
    """
    if text == DEFAULT:
        return base
    name, *more = text.split("+")
    if name not in get_args(RuleName) or len(set(more)) != len(more) or not {*more} <= {MIXING, CLIPPING}:
        raise SimulationError(
            "FA-9203", f"There is no rule '{text}'.", _nearest(name, (DEFAULT, *get_args(RuleName)))
        )
    mixing = "off" if MIXING not in more else "direction" if base.mixing == "off" else base.mixing
    clipping = (base.norm_clipping or 1.0) if {*more} & {CLIPPING, MIXING} else 0.0
    return base.model_copy(update={"rule": name, "norm_clipping": clipping, "mixing": mixing})


def _run(
    scenario: Scenario,
    seed: int,
    folder: Path,
    workers: int,
    backend: str,
    cache: Path | None,
    watch: Callable[[Progress], None],
) -> SimulationResults:
    """Run one simulation, or go on with it, unless it is finished."""
    results = finished(scenario, seed, folder)
    if results is None:
        results = simulate(
            scenario,
            seed,
            folder,
            workers=workers,
            resume=True,
            backend=backend,
            cache=cache,
            release=False,
            watch=watch,
        )
        if not results.interrupted:
            # Follows from scenario and seed, and a grid has many.
            shutil.rmtree(folder / "world", ignore_errors=True)
    return results


def _write(
    folder: Path, scenario: Scenario, seeds: Sequence[int], runs: Mapping[Pair, Sequence[RobustnessRun]]
) -> RobustnessResults:
    """What was found so far, also as robustness.json."""
    baseline = {run.seed: run.accuracy for run in runs[BASELINE]}
    found = RobustnessResults(
        scenario=scenario.name,
        share=scenario.attack.share,
        rounds=scenario.number_of_rounds,
        seeds=tuple(seeds),
        baseline=fmean(baseline.values()) if baseline else None,
        finished=all(len(cell) == len(seeds) for cell in runs.values()),
        cells=tuple(RobustnessCell.of(*pair, cell, baseline) for pair, cell in runs.items() if cell),
    )
    write_atomic(folder / RESULTS, found.model_dump_json(indent=1).encode())
    return found


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"Choose from: {', '.join(known)}."
