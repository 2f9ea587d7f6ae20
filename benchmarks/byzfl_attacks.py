"""Our attacks beside byzfl's on the same vectors: largest difference of any value.

    python -m benchmarks.byzfl_attacks [--environment DIR] [--json]

byzfl has an environment of its own, see `benchmarks.byzfl_oracle`. Where it cannot be had, the reason is
printed and nothing is compared. `--write tests/simulations/attacks/byzfl.json` makes the values that tests
hold the attacks to, where there is no byzfl.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.peers import byzfl_environment
from benchmarks.peers.byzfl_environment import SkippedError, environment, run_there
from simulations.attacks.attack import Scene
from simulations.attacks.registry import make_attack
from simulations.scenario import AttackChoice

SCRIPT = Path(byzfl_environment.__file__).with_name("byzfl_attacks.py")
ALLOWED = 1e-5
"""Largest difference: ours are single precision, byzfl's double."""


def difference(case: dict[str, object]) -> float:
    """Between what our attackers send and what byzfl's do."""
    random = np.random.default_rng(int(str(case["seed"])))
    rows = random.standard_normal((int(str(case["devices"])), int(str(case["values"]))), np.float32)
    # An attacker of ours reverses what it has learnt itself; byzfl's reverse the mean.
    own = rows.mean(axis=0, keepdims=True)
    choice = AttackChoice.model_validate({"kind": case["attack"], "strength": case["strength"]})
    sent = make_attack(choice).forge(Scene(1, rows, own, np.zeros_like(own[0])), np.random.default_rng(0))
    return float(np.abs(sent[0] - np.array(case["sent"])).max())


def main() -> None:
    """Compare and print a table; status 1 if any attack differs by more than `ALLOWED`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=Path, default=byzfl_environment.FOLDER)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the values for the tests instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        text = run_there(environment(options.environment), SCRIPT)
    except SkippedError as reason:
        print(json.dumps({"skipped": str(reason)}) if options.json else f"skipped: {reason}")
        return
    if options.write:
        options.write.write_text(text)
        return
    found = json.loads(text)
    rows = [
        {"attack": case["attack"], "strength": case["strength"], "difference": difference(case)}
        for case in found["cases"]
    ]
    for row in rows:
        print(f"  {row['attack']:<10} {row['strength']:>5} {row['difference']:10.1e}")
    if options.json:
        print(json.dumps({"version": found["byzfl"], "attacks": rows}))
    sys.exit(any(row["difference"] > ALLOWED for row in rows))


if __name__ == "__main__":
    main()
