"""Spoil messages and see whether any is believed, crashes its reader or keeps it busy.

    python -m tests.fuzz [--mutants N] [--seed N] [--target NAME] [--json]

Exit status 1 if one is. The keys are fresh every time; a seed makes the same changes at the same places.
"""

# ruff: noqa: T201 - a command prints

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import sys
import time
import warnings

from cryptography.utils import CryptographyDeprecationWarning

from tests.fuzz.campaign import Tally, run
from tests.fuzz.targets import every_target

COLUMNS = ("mutants", "refused", "other", "accepted", "crashed", "slow")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", help="only the targets whose name has this in it")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    targets = [target for target in every_target() if (arguments.target or "") in target.name]
    if not targets:
        sys.exit(f"no target has {arguments.target!r} in its name")
    begin, before = time.perf_counter(), _peak_megabytes()
    print(f"{'target':26}" + "".join(f"{name:>10}" for name in COLUMNS) + f"{'us each':>9}{'slowest ms':>12}")
    tallies = []
    for place, target in enumerate(targets):
        share = (place + 1) * arguments.mutants // len(targets) - place * arguments.mutants // len(targets)
        tallies.append(run(target, share, arguments.seed))
        _show(tallies[-1])
    seconds, grown = time.perf_counter() - begin, _peak_megabytes() - before
    total = {name: sum(getattr(tally, name) for tally in tallies) for name in COLUMNS}
    print(f"{'all':26}" + "".join(f"{total[name]:10}" for name in COLUMNS))
    print(f"{seconds:.0f} s; the peak of memory grew by {grown:.0f} MB")
    for tally in tallies:
        for what, data in tally.failures:
            print(f"{tally.name}: {what}: {data[:2000]}")
    if arguments.json:
        rows = [dataclasses.asdict(tally) for tally in tallies]
        facts = {
            "fuzz": total,
            "seed": arguments.seed,
            "seconds": round(seconds, 1),
            "grown_mb": round(grown, 1),
        }
        print(json.dumps(facts | {"targets": rows}))
    sys.exit(any(tally.failed for tally in tallies))


def _show(tally: Tally) -> None:
    counts = "".join(f"{getattr(tally, name):10}" for name in COLUMNS)
    each = tally.seconds / max(tally.mutants, 1) * 1e6
    print(f"{tally.name:26}{counts}{each:9.0f}{tally.slowest * 1e3:12.1f}", flush=True)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
