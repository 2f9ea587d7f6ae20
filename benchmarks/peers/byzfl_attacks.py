"""What byzfl's attacks make of given vectors. Runs in byzfl's own environment and knows nothing of fedaudio.

    python byzfl_attacks.py

Vectors follow from a seed: `default_rng(seed).standard_normal((devices, values), numpy.float32)`. Prints one
JSON object.
"""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np
from byzfl_rules import import_byzfl

CASES = ((1, 3, 5), (2, 8, 7), (3, 16, 4))
"""Seed, devices, values."""

NOISE = (3.0, 20_000)
"""Standard deviation and values of the Gaussian attack, of which only statistics can be compared."""


def main() -> None:
    """Print what the attackers send."""
    import_byzfl()
    from byzfl.attacks import attacks as a

    cases = []
    for seed, devices, values in CASES:
        rows = np.random.default_rng(seed).standard_normal((devices, values), np.float32).astype(np.float64)
        attacks = [("sign-flip", 1.0, a.SignFlipping())]
        attacks += [("ipm", tau, a.InnerProductManipulation(tau)) for tau in (0.5, 2.0, 10.0)]
        attacks += [("alie", tau, a.ALittleIsEnough(tau)) for tau in (0.3, 1.5)]
        for name, strength, attack in attacks:
            shape = {"seed": seed, "devices": devices, "values": values}
            cases.append({"attack": name, "strength": strength, **shape, "sent": attack(rows).tolist()})
    sigma, values = NOISE
    np.random.seed(0)  # byzfl draws from numpy's global generator
    noise = a.Gaussian(0.0, sigma)(np.ones((4, values)))
    deciles = np.quantile(noise / sigma, np.arange(0.1, 1.0, 0.1)).tolist()
    gaussian = {"strength": sigma, "values": values, "deciles": deciles}
    print(json.dumps({"byzfl": version("byzfl"), "cases": cases, "gaussian": gaussian}, indent=1))


if __name__ == "__main__":
    main()
