"""The rule that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from common.protocol.tensors import Row, Schema
from fl_server.rules.mean import ExactMean
from fl_server.rules.rule import Rule
from fl_server.settings import ServerSettings


def make_rule(
    settings: ServerSettings,
    schema: Schema,
    cohort: int,
    norms: Sequence[float] = (),
    reference: Callable[[], Row] | None = None,
) -> Rule:
    """The rule for one round.

    Args:
        schema: of an answer.
        cohort: devices that are asked.
        norms: medians of the updates' norms in earlier rounds, oldest first.
        reference: trains on the coordinator's own clips and gives that update, for the rule "trust".

    Raises:
        ConfigError: FA-6040, the rule needs more devices or clips than there are.
    """
    largest_weight = settings.rounds.max_clips if settings.rounds.weighting == "clips" else 1
    # A little more than the norms allow, for they are computed in single precision.
    bound = 1.001 * largest_weight * cohort * settings.rounds.max_update_norm
    return ExactMean(schema, max(1.0, bound))
