"""What byzfl makes of updates. Runs in byzfl's own environment and knows nothing of fedaudio.

    python byzfl_rules.py VECTORS.npy ATTACKERS RESULTS.npz

VECTORS holds one update a row, of which ATTACKERS may be an attacker's; RESULTS gets one vector for each rule
of `RULES`. Prints {rule: milliseconds} as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np

SMOOTHING, WEISZFELD_STEPS = 0.1, 3
RADIUS, CLIPPING_STEPS = 1.0, 3
LIMIT = 2.0
"""Numbers of the rules that have any: nu and T of the geometric median, tau and L of centred clipping, and
the longest norm. fedaudio's rules are given the same."""


def import_byzfl() -> None:
    """Make byzfl's modules importable, but not run its package, which wants torchvision and seaborn."""
    found = importlib.util.find_spec("byzfl")
    if found is None:
        sys.exit("byzfl is not installed here")
    package = types.ModuleType("byzfl")
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules["byzfl"] = package


def rules(attackers: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """byzfl's rules by the names that fedaudio gives them."""
    import_byzfl()
    from byzfl.aggregators import aggregators as a
    from byzfl.aggregators import preaggregators as pre

    mix, trimmed, krum = pre.NNM(attackers), a.TrMean(attackers), a.Krum(attackers)
    return {
        "median": a.Median(),
        "trimmed-mean": trimmed,
        "krum": krum,
        "multi-krum": a.MultiKrum(attackers),
        "geometric-median": a.GeometricMedian(SMOOTHING, WEISZFELD_STEPS),
        "centred-clipping": a.CenteredClipping(None, CLIPPING_STEPS, RADIUS),
        "norm clipping, mean": lambda rows: a.Average()(pre.Clipping(LIMIT)(rows.copy())),
        "mixing, mean": lambda rows: a.Average()(mix(rows)),
        "mixing, median": lambda rows: a.Median()(mix(rows)),
        "mixing, trimmed-mean": lambda rows: trimmed(mix(rows)),
        "mixing, krum": lambda rows: krum(mix(rows)),
    }


def main(vectors: Path, attackers: int, results: Path) -> None:
    """Apply every rule."""
    rows = np.load(vectors).astype(np.float64)
    made, milliseconds = {}, {}
    for name, rule in rules(attackers).items():
        begin = time.perf_counter()
        made[name] = rule(rows)
        milliseconds[name] = 1e3 * (time.perf_counter() - begin)
    np.savez(results, **made)
    print(json.dumps(milliseconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
