"""Ten Arabic words, learnt by fourteen one-speaker devices, beside the same clips trained on in one place.

    python -m benchmarks.keywords [--data ../shared/data] [--seeds 3] [--rounds 40] [--epochs 30]
        [--workers 2] [--out DIR] [--json]

The shipped scenario keywords-arabic with the default aggregation rule and with the plain mean; and the pooled
clips of the fourteen speakers with the same recipe and as many epochs as --epochs. All are tested on the same
four speakers whatever the seed: they were drawn once, and nothing was chosen by them. Seeds begin at 0. The
simulations stay in --out, and those that are finished there are not run again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from common.data.clips import Clips
from common.data.features import load_features
from common.task import Task
from common.training.local import train_local
from fl_server.validation import Validation
from simulations.engine import simulate
from simulations.finished import finished
from simulations.load import load_scenario
from simulations.scenario import Scenario
from simulations.sweep_results import Spread

COLLECTION = "arabic_speech_commands"

PLAIN_MEAN = ('aggregation.rule="mean"', "aggregation.norm_clipping=0", 'aggregation.mixing="off"')


def federated(scenario: Scenario, name: str, options: argparse.Namespace) -> Iterator[float]:
    """Accuracy on the unseen of each seed's last version."""
    for seed in range(options.seeds):
        folder = options.out / f"{name}-{options.rounds}" / f"seed-{seed}"
        results = finished(scenario, seed, folder) or simulate(
            scenario,
            seed,
            folder,
            workers=options.workers,
            resume=True,
            cache=options.out / "cache",
            release=False,
        )
        if results.interrupted:
            sys.exit(130)
        yield results.final.accuracy_unseen


def centralised(scenario: Scenario, options: argparse.Namespace) -> Iterator[float]:
    """Accuracy on the same unseen of one training on all devices' clips, for each seed."""
    unseen = scenario.data.unseen
    assert scenario.data.path is not None
    assert not isinstance(unseen, int)
    clips = Clips.load(scenario.data.path)
    task = Task(labels=clips.labels, **dict(scenario.task))
    pooled = clips.filter(lambda clip: clip.speaker not in unseen)
    tested = clips.filter(lambda clip: clip.speaker in unseen)
    cache = options.out / "cache" / "energies"
    judge = Validation(load_features(tested, task, cache), task)
    recipe = scenario.recipe.model_copy(update={"epochs": options.epochs})
    for seed in range(options.seeds):
        weights, _ = train_local(pooled, task, recipe, cache=cache, seed=seed)
        yield judge.evaluate(weights).accuracy


def measured(data: Path, options: argparse.Namespace) -> Iterator[tuple[str, Iterator[float]]]:
    """What is compared, and its accuracies as they come."""
    overrides = [f"data.path={json.dumps(str(data))}", f"number_of_rounds={options.rounds}"]
    scenario = load_scenario("keywords-arabic", overrides)
    plain = load_scenario("keywords-arabic", [*overrides, *PLAIN_MEAN])
    yield "federated, default rule", federated(scenario, "default", options)
    yield "federated, mean", federated(plain, "mean", options)
    yield "centralised", centralised(scenario, options)


def main() -> None:
    """Measure, and print a table; with --json, one JSON object is the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=30, help="of the centralised training")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs") / "benchmark-keywords")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = options.data.resolve() / COLLECTION
    if not data.is_dir():
        reason = f"there is no {COLLECTION} in {options.data}"
        print(json.dumps({"skipped": reason}) if options.json else f"skipped: {reason}")
        return
    rows = []
    for name, accuracies in measured(data, options):
        values = []
        for accuracy in accuracies:
            values.append(accuracy)
            print(f"{name}, seed {len(values) - 1}: {accuracy:.1%}", file=sys.stderr, flush=True)
        spread = Spread.of(values)
        assert spread is not None
        rows.append({"what": name, "mean": spread.mean, "spread": spread.deviation, "accuracies": values})
    print(f"accuracy on four unseen speakers, {options.rounds} rounds, {options.epochs} epochs in one place")
    for row in rows:
        deviation = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
        print(f"  {row['what']:<26}{100 * row['mean']:6.1f}{deviation} %")
    if options.json:
        shape = {"rounds": options.rounds, "epochs": options.epochs, "seeds": options.seeds}
        print(json.dumps({"benchmark": "keywords", **shape, "rows": rows}))


if __name__ == "__main__":
    main()
