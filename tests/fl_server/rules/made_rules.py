"""Rules at work on made updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from common.protocol.tensors import Row, norm
from common.task import Task
from fl_server.rules.registry import make_rule
from fl_server.rules.rule import Rows, Rule
from fl_server.settings import Aggregation, Mixing, RoundSettings, RuleName, ServerSettings

RULES: tuple[RuleName, ...] = get_args(RuleName)
ROBUST = tuple(rule for rule in RULES if rule != "mean")


def settings_for(
    rule: RuleName = "mean",
    *,
    mixing: Mixing = "off",
    clipping: float | None = None,
    attackers: float = 0.2,
    **rounds: object,
) -> ServerSettings:
    """A coordinator's, with this aggregation. Norms are clipped where the mixing asks for it."""
    if clipping is None:
        clipping = 1.0 if mixing == "direction" else 0.0
    aggregation = Aggregation(rule=rule, mixing=mixing, norm_clipping=clipping, attackers=attackers)
    return ServerSettings(
        task=Task(labels=("a", "b")),
        aggregation=aggregation,
        rounds=RoundSettings.model_validate({"max_update_norm": 1000.0} | rounds),
    )


def rule_for(settings: ServerSettings, rows: Rows, asked: int | None = None, **options: object) -> Rule:
    """The rule for updates like `rows`, split into two tensors. A reference is their mean."""
    values = rows.shape[1]
    schema = {"b": (values - 1,), "a": (1,)}
    reference = {"reference": lambda: rows.mean(axis=0)}
    return make_rule(settings, schema, len(rows) if asked is None else asked, **(reference | options))  # type: ignore[arg-type]


def fold(rule: Rule, rows: Rows, order: Sequence[int] | None = None, weights: Sequence[int] = ()) -> Row:
    """The result for `rows`, whose devices keep their names in whatever order they come."""
    for place in range(len(rows)) if order is None else order:
        row = rows[place]
        weight = weights[place] if weights else 1
        rule.fold(row, weight, device=f"{place:032x}", norm=norm(row))
    result = rule.result()
    assert list(result) == ["b", "a"]
    return np.concatenate([result["a"], result["b"]])


def combine(
    settings: ServerSettings, rows: Rows, order: Sequence[int] | None = None, **options: object
) -> Row:
    """`rule_for`, then `fold`."""
    return fold(rule_for(settings, rows, **options), rows, order)


def honest_rows(devices: int, values: int, seed: int, spread: float = 1.0) -> Rows:
    """Updates that go the same way, more or less."""
    random = np.random.default_rng(seed)
    way = random.normal(size=values)
    return (way + spread * random.normal(size=(devices, values))).astype(np.float32)
