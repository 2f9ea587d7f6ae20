"""The rule that the settings ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from common.errors import ConfigError
from common.protocol.tensors import Row, Schema
from fl_server.rules.centred_clipping import centred_clipping
from fl_server.rules.geometric_median import geometric_median
from fl_server.rules.geometry import plain_mean
from fl_server.rules.kept import Kept
from fl_server.rules.krum import krum, multi_krum
from fl_server.rules.mean import ExactMean
from fl_server.rules.median import median
from fl_server.rules.mixing import mix
from fl_server.rules.norm_clipping import clip_norms
from fl_server.rules.rule import Rows, Rule
from fl_server.rules.trimmed_mean import trimmed_mean
from fl_server.rules.trust import trust
from fl_server.settings import Aggregation, RuleName, ServerSettings


def make_rule(
    settings: ServerSettings,
    schema: Schema,
    cohort: int,
    norms: Sequence[float] = (),
    reference: Callable[[], Row] | None = None,
) -> Rule:
    """The rule for one round: updates are clipped, then mixed, then made one.

    Args:
        schema: of an answer.
        cohort: devices that are asked.
        norms: medians of the updates' norms in each of the earlier rounds, oldest first.
        reference: trains on the coordinator's own clips and gives that update, for the rule "trust".

    Raises:
        ConfigError: FA-6040 the rule needs more devices than are asked, FA-6041 it needs clips of the
            coordinator's own.
    """
    aggregation = settings.aggregation
    rule: Rule
    attackers = attackers_among(cohort, aggregation.attackers)
    if _is_the_mean(aggregation, attackers):
        largest_weight = settings.rounds.max_clips if settings.rounds.weighting == "clips" else 1
        # A little more than the norms allow, for they are computed in single precision.
        bound = 1.001 * largest_weight * cohort * settings.rounds.max_update_norm
        rule = ExactMean(schema, max(1.0, bound))
    else:
        rule = _make_kept(aggregation, schema, cohort, attackers, reference)
    factor = aggregation.norm_clipping
    return clip_norms(rule, factor, norms) if factor else rule


def attackers_among(devices: int, share: float) -> int:
    """How many of `devices` a rule must withstand: as many as fit into their share, none of four at a fifth.

    It is a share of those that are asked, not of those that answer: attackers do not stay away.
    """
    return math.floor(round(share * devices, 9))


def withstands_nobody(aggregation: Aggregation, cohort: int) -> bool:
    """Whether an aggregation that is to withstand attackers does not, because too few devices are asked."""
    plain = aggregation.rule == "mean" and aggregation.mixing == "off"
    return not plain and aggregation.attackers > 0 and attackers_among(cohort, aggregation.attackers) == 0


def _is_the_mean(aggregation: Aggregation, attackers: int) -> bool:
    """Whether the rule comes to the mean, which needs no update to be kept."""
    if aggregation.rule == "trimmed-mean":
        return attackers == 0
    return aggregation.rule == "mean" and (aggregation.mixing == "off" or attackers == 0)


def _make_kept(
    aggregation: Aggregation,
    schema: Schema,
    cohort: int,
    attackers: int,
    reference: Callable[[], Row] | None,
) -> Kept:
    fewest = _fewest(aggregation, attackers)
    if fewest > cohort:
        raise ConfigError(
            "FA-6040",
            f"The rule {aggregation.rule} needs {fewest} devices where {attackers} may be attackers, "
            f"and {cohort} were to be asked.",
            "Raise rounds.min_devices and rounds.cohort, or lower aggregation.attackers.",
        )
    combine = _combination(aggregation, attackers, reference)
    near = aggregation.mixing
    if near == "off":
        return Kept(schema, cohort, combine, fewest)
    return Kept(schema, cohort, lambda rows: combine(mix(rows, attackers, near)), fewest)


def _fewest(aggregation: Aggregation, attackers: int) -> int:
    """Updates from which on the rule withstands so many attackers among them."""
    match aggregation.rule:
        case "krum" | "multi-krum":
            return 2 * attackers + 3
        case "trust" if aggregation.mixing == "off":
            return 1
        case _:
            return 2 * attackers + 1


def _combination(
    aggregation: Aggregation, attackers: int, reference: Callable[[], Row] | None
) -> Callable[[Rows], Row]:
    """What makes one update of those of a round."""
    if aggregation.rule != "trust":
        combine = _COMBINATIONS[aggregation.rule]
        return lambda rows: combine(rows, attackers)
    if reference is None:
        raise ConfigError(
            "FA-6041",
            "The rule trust learns from clips of the coordinator's own, and there are none.",
            "Set `validation` to a folder of labelled clips, or choose another rule.",
        )
    trained = reference
    return lambda rows: trust(rows, trained())


_COMBINATIONS: Mapping[RuleName, Callable[[Rows, int], Row]] = {
    "mean": lambda rows, attackers: plain_mean(rows),
    "median": lambda rows, attackers: median(rows),
    "trimmed-mean": trimmed_mean,
    "krum": krum,
    "multi-krum": multi_krum,
    "geometric-median": lambda rows, attackers: geometric_median(rows),
    "centred-clipping": lambda rows, attackers: centred_clipping(rows),
}
