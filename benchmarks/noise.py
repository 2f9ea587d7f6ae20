"""Time to draw the noise of one step: our discrete Gaussian beside generators that protect less, and one that
protects as much and is slow.

    python -m benchmarks.noise [--json]

One thread, 100,000 values. Every round times each contender, so that a busy machine hits all alike; medians
of processor time over the rounds. SystemRandom draws a hundredth of them and is scaled up.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable

import cryptography
import numpy as np
import torch

from common.privacy.discrete_gaussian import DiscreteGaussian, discrete_gaussian
from common.privacy.grid import SIGMA, Grid
from common.privacy.secure_random import SecureRandom

VALUES, ROUNDS, SHARE = 100_000, 31, 100
OURS, TORCH = "discrete Gaussian, AES-256 (ours)", "torch.randn"

Call = Callable[[], object]


def contenders() -> dict[str, tuple[Call, int]]:
    """By name: a call to time, and what share of the values it draws."""
    secure, system = SecureRandom(), random.SystemRandom()
    sampler, grid = discrete_gaussian(int(SIGMA)), Grid(1.0, 1.0)
    total = torch.zeros(VALUES, dtype=torch.float64)
    legacy, modern = np.random.RandomState(0), np.random.default_rng(0)
    return {
        OURS: (lambda: sampler.draw(VALUES, secure), 1),
        "  its 64-bit words alone": (lambda: secure.words(VALUES), 1),
        "  added to a sum of gradients": (lambda: grid.noised(total, secure), 1),
        TORCH: (lambda: torch.randn(VALUES), 1),
        "torch, as Opacus's secure_mode": (
            lambda: [torch.normal(0.0, 1.0, (VALUES,), dtype=torch.float64) for _ in range(4)],
            1,
        ),
        "numpy.random.normal, as Flower": (lambda: legacy.normal(0.0, 1.0, VALUES), 1),
        "numpy Generator.normal": (lambda: modern.normal(0.0, 1.0, VALUES), 1),
        "random.SystemRandom().gauss": (
            lambda: [system.gauss(0.0, 1.0) for _ in range(VALUES // SHARE)],
            SHARE,
        ),
    }


def measure(calls: dict[str, tuple[Call, int]]) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (call, share) in calls.items():
            begin = time.process_time()
            call()
            times[name].append((time.process_time() - begin) * share * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def table_seconds() -> float:
    """What making the table takes, once for each process."""
    begin = time.process_time()
    DiscreteGaussian(int(SIGMA))
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results, table = measure(contenders()), table_seconds()
    print(f"{f'{VALUES:,} values':36}{'ms':>8}{'x torch':>9}")
    for name, milliseconds in results.items():
        print(f"{name:36}{milliseconds:8.2f}{milliseconds / results[TORCH]:9.1f}")
    print(f"{'making our table, once':36}{table * 1e3:8.0f}")
    if arguments.json:
        versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "cryptography": cryptography.__version__,
        }
        rows = [
            {"name": name.strip(), "ms": round(value, 3), "ratio": round(value / results[TORCH], 2)}
            for name, value in results.items()
        ]
        document = {
            "benchmark": "noise",
            "values": VALUES,
            "versions": versions,
            "table_ms": round(table * 1e3),
        }
        print(json.dumps(document | {"rows": rows}))


if __name__ == "__main__":
    main()
