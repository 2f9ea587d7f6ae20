"""Our rules give byzfl's values. `python -m benchmarks.byzfl_oracle` compares with byzfl itself."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.byzfl_oracle import ALLOWED, our_rules

KEPT = json.loads(Path(__file__).with_name("byzfl_values.json").read_text())
CASES: Sequence[dict[str, Any]] = KEPT["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{len(case['updates'])} devices")
@pytest.mark.parametrize("name", our_rules(0))
def test_the_value_is_byzfls(name: str, case: dict[str, Any]) -> None:
    rows = np.array(case["updates"], np.float32)
    np.testing.assert_allclose(
        our_rules(case["attackers"])[name](rows), case["results"][name], rtol=0, atol=ALLOWED
    )


def test_no_rule_of_byzfls_goes_unheeded() -> None:
    assert all(set(case["results"]) == set(our_rules(0)) for case in CASES)


def test_the_rules_can_be_told_apart_by_these_values() -> None:
    for one, other in itertools.combinations(our_rules(0), 2):
        apart = [np.subtract(case["results"][one], case["results"][other]) for case in CASES]
        assert max(np.abs(difference).max() for difference in apart) > 100 * ALLOWED, (one, other)
