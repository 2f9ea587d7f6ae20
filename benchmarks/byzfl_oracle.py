"""Our aggregation rules beside byzfl's on the same updates: largest difference of any value, and time.

    python -m benchmarks.byzfl_oracle [--devices 50] [--values 100000] [--environment DIR] [--json]

byzfl's pins are not ours, so it runs in an environment of its own, which is made in a cache folder the first
time; it borrows numpy, scipy and torch from this one. Where it cannot be had, the reason is printed and
nothing is compared. `--write FILE` makes the values that tests hold the rules to, where there is no byzfl.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.peers import byzfl_environment
from benchmarks.peers import byzfl_rules as peer
from benchmarks.peers.byzfl_environment import VERSION, SkippedError, environment, run_there
from common.protocol.tensors import Row, norm
from fl_server.rules.centred_clipping import centred_clipping
from fl_server.rules.geometric_median import geometric_median
from fl_server.rules.geometry import plain_mean
from fl_server.rules.krum import krum, multi_krum
from fl_server.rules.mean import ExactMean
from fl_server.rules.median import median
from fl_server.rules.mixing import mix
from fl_server.rules.norm_clipping import NormClipping
from fl_server.rules.rule import Rows
from fl_server.rules.trimmed_mean import trimmed_mean

ALLOWED = 1e-5
"""Largest difference: ours are single precision, byzfl's double."""

SMALL = ((11, 12, 2), (14, 9, 3), (25, 8, 5))
"""Devices, values and attackers of what `--write` keeps."""


def updates(devices: int, values: int, attackers: int, seed: int) -> Rows:
    """Honest updates that go the same way, more or less, and colluding ones that go another, not too far off:
    else all robust rules would agree."""
    random = np.random.default_rng(seed)
    way = random.normal(size=values)
    rows = way + 1.5 * random.normal(size=(devices, values))
    rows[:attackers] = -way + 0.5 * random.normal(size=(attackers, values))
    return (2 * rows[random.permutation(devices)] / np.sqrt(values)).astype(np.float32)


def our_rules(attackers: int) -> Mapping[str, Callable[[Rows], Row]]:
    """Ours by the names of `byzfl_rules.rules`, with the same numbers."""
    return {
        "median": median,
        "trimmed-mean": lambda rows: trimmed_mean(rows, attackers),
        "krum": lambda rows: krum(rows, attackers),
        "multi-krum": lambda rows: multi_krum(rows, attackers),
        "geometric-median": lambda rows: geometric_median(rows, peer.WEISZFELD_STEPS, peer.SMOOTHING),
        "centred-clipping": lambda rows: centred_clipping(rows, peer.CLIPPING_STEPS, peer.RADIUS),
        "norm clipping, mean": _clipped_mean,
        "mixing, mean": lambda rows: plain_mean(mix(rows, attackers, "distance")),
        "mixing, median": lambda rows: median(mix(rows, attackers, "distance")),
        "mixing, trimmed-mean": lambda rows: trimmed_mean(mix(rows, attackers, "distance"), attackers),
        "mixing, krum": lambda rows: krum(mix(rows, attackers, "distance"), attackers),
    }


def _clipped_mean(rows: Rows) -> Row:
    rule = NormClipping(ExactMean({"all": rows.shape[1:]}, 2 * peer.LIMIT * len(rows)), peer.LIMIT)
    for place, row in enumerate(rows):
        rule.fold(row, 1, device=str(place), norm=norm(row))
    return rule.result()["all"]


def ours(rows: Rows, attackers: int) -> tuple[dict[str, Row], dict[str, float]]:
    """By rule, the result and the milliseconds."""
    made, milliseconds = {}, {}
    for name, rule in our_rules(attackers).items():
        copy = rows.copy()  # mixing works in place
        begin = time.perf_counter()
        made[name] = rule(copy)
        milliseconds[name] = 1e3 * (time.perf_counter() - begin)
    return made, milliseconds


def theirs(python: Path, rows: Rows, attackers: int) -> tuple[dict[str, Row], dict[str, float]]:
    """As `ours`, of byzfl."""
    with tempfile.TemporaryDirectory() as folder:
        vectors, results = Path(folder) / "vectors.npy", Path(folder) / "results.npz"
        np.save(vectors, rows)
        printed = run_there(python, Path(peer.__file__), vectors, str(attackers), results)
        with np.load(results) as made:
            return {name: made[name] for name in made}, json.loads(printed)


def write(python: Path, file: Path) -> None:
    """Keep small updates and what byzfl makes of them."""
    cases = []
    for seed, (devices, values, attackers) in enumerate(SMALL):
        rows = updates(devices, values, attackers, seed)
        made, _ = theirs(python, rows, attackers)
        results = {name: value.tolist() for name, value in made.items()}
        cases.append({"attackers": attackers, "updates": rows.tolist(), "results": results})
    file.write_text(json.dumps({"made_with": VERSION, "cases": cases}) + "\n")


def compare(python: Path, devices: int, values: int, attackers: int) -> list[dict[str, float | str]]:
    """A row for each rule."""
    rows = updates(devices, values, attackers, seed=0)
    made, our_times = ours(rows, attackers)
    expected, their_times = theirs(python, rows, attackers)
    return [
        {
            "rule": name,
            "difference": float(np.abs(made[name] - value).max()),
            "milliseconds": our_times[name],
            "byzfl_milliseconds": their_times[name],
        }
        for name, value in expected.items()
    ]


def main() -> None:
    """Compare and print a table; status 1 if any rule differs by more than `ALLOWED`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--values", type=int, default=100_000)
    parser.add_argument("--attackers", type=int, default=10)
    parser.add_argument("--environment", type=Path, default=byzfl_environment.FOLDER)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the values for the tests instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        python = environment(options.environment)
        if options.write:
            write(python, options.write)
            return
        rows = compare(python, options.devices, options.values, options.attackers)
    except SkippedError as reason:
        print(json.dumps({"skipped": str(reason)}) if options.json else f"skipped: {reason}")
        return
    print(f"{options.devices} updates of {options.values} values, {options.attackers} attackers, one thread")
    print(f"  {'rule':<22} {'difference':>10} {'ours':>9} {'byzfl':>9}")
    for row in rows:
        print(
            f"  {row['rule']:<22} {row['difference']:10.1e} {row['milliseconds']:6.1f} ms "
            f"{row['byzfl_milliseconds']:6.1f} ms"
        )
    if options.json:
        print(json.dumps({"version": VERSION, "rules": rows}))
    sys.exit(any(row["difference"] > ALLOWED for row in rows))


if __name__ == "__main__":
    main()
