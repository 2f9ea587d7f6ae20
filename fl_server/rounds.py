"""What a round asks of devices: draw a cohort, send it a plan, check each answer, fold it in or add it up."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.errors import CoordinatorError, ProtocolError
from common.files import sha256
from common.protocol.answer import Answer, Refusal, Report, decode_answer
from common.protocol.plan import Plan
from common.protocol.release import Metrics
from common.protocol.tensors import Schema, Weights, encode_weights
from fl_server.aggregate import ExactMean
from fl_server.fleet import Fleet, Reply
from fl_server.settings import ServerSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A node whose part in a round came to nothing."""

    who: str
    code: str
    reason: str


@dataclass
class Collected:
    """Answers to one plan, as far as they have come: the valid ones, their nodes, why others failed."""

    reports: list[Report] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0

    @property
    def slowest_seconds(self) -> float:
        """Work of the slowest device, as it says, but no longer than the exchange took."""
        return min(self.seconds, max((report.seconds for report in self.reports), default=0.0))


def draw_cohort(online: Sequence[int], size: int | None, seed: int, number: int) -> list[int]:
    """`size` of the nodes that are online, uniformly, or all of them."""
    if size is None or size >= len(online):
        return list(online)
    rng = np.random.default_rng([seed, number])
    # Places rather than nodes are drawn: numpy would turn 64-bit names into floats.
    return sorted(online[place] for place in rng.choice(len(online), size, replace=False))


def make_plan(settings: ServerSettings, run: str, number: int, weights: bytes) -> Plan:
    """The order for round `number` on a model given as bytes."""
    return Plan(
        run=run,
        round=number,
        task=settings.task,
        recipe=settings.recipe,
        privacy=settings.privacy,
        base=sha256(weights),
        holdout=settings.rounds.holdout if settings.devices_evaluate else 0.0,
        seed=settings.seed,
        seconds=settings.rounds.answer_seconds,
    )


def train_cohort(
    fleet: Fleet,
    settings: ServerSettings,
    plan: Plan,
    weights: bytes,
    schema: Schema,
    cohort: Sequence[int],
    collected: Collected,
    book: Callable[[Report], None],
) -> Weights:
    """Let `cohort` train, fold each update in as it arrives, and return the mean delta.

    A bad update costs its sender its place in the round and nothing else.

    Args:
        book: told every report at once, also when the update is then refused: what it spent is spent.

    Raises:
        CoordinatorError: FA-5004 too few valid updates.
        FleetLostError: the transport is gone.
    """
    rules = settings.rounds
    largest_weight = rules.max_clips if rules.weighting == "clips" else 1
    # A little more than the norms allow, for they are computed in single precision.
    mean = ExactMean(schema, max(1.0, 1.001 * largest_weight * len(cohort) * rules.max_update_norm))

    def fold(answer: Answer) -> None:
        book(answer.report)
        _check_update(answer, settings)
        mean.fold(answer.delta, answer.report.clips if rules.weighting == "clips" else 1)

    _collect(fleet, plan, weights, schema, cohort, collected, fold)
    if mean.count < rules.min_answers or not mean.total_weight:
        reasons = "; ".join(f"{failure.who}: {failure.reason}" for failure in collected.failures[:3])
        raise CoordinatorError(
            "FA-5004",
            f"Round {plan.round} had {mean.count} valid updates, {rules.min_answers} are needed"
            + (f" ({reasons})." if reasons else "."),
            "See `fedaudio server status`; allow more time or fewer answers in server.toml.",
        )
    return mean.mean()


def evaluate_cohort(
    fleet: Fleet, plan: Plan, weights: Weights, schema: Schema, cohort: Sequence[int], collected: Collected
) -> Metrics:
    """Let `cohort` evaluate a candidate on clips that it keeps for that."""
    data = encode_weights(weights)
    order = plan.model_copy(update={"kind": "evaluate", "base": sha256(data)})
    _collect(fleet, order, data, schema, cohort, collected, lambda answer: None)
    clips = sum(report.clips for report in collected.reports)
    if not clips:
        return Metrics()
    correct = sum(report.correct for report in collected.reports)
    loss = sum(report.loss * report.clips for report in collected.reports)
    return Metrics(device_accuracy=correct / clips, device_loss=loss / clips)


def _collect(
    fleet: Fleet,
    plan: Plan,
    weights: bytes,
    schema: Schema,
    cohort: Sequence[int],
    collected: Collected,
    use: Callable[[Answer], None],
) -> None:
    """Send `plan`, check what comes back, `use` what is good, and note in `collected` how everybody did."""
    order_size = len(plan.model_dump_json()) + len(weights)
    collected.bytes_down += order_size * len(cohort)
    started = time.monotonic()
    heard: set[int] = set()
    for reply in fleet.ask(plan, weights, cohort):
        if reply.node not in heard:
            heard.add(reply.node)
            _take(reply, plan, schema, collected, use)
        # Without this, the reply would stay in memory until the next one is there too.
        del reply
    for node in cohort:
        if node not in heard:
            late = f"no answer within {plan.seconds:.0f} s"
            collected.failures.append(Failure(_node_name(node), "FA-5005", late))
    collected.seconds = time.monotonic() - started


def _take(
    reply: Reply, plan: Plan, schema: Schema, collected: Collected, use: Callable[[Answer], None]
) -> None:
    who = _node_name(reply.node)
    if reply.data is None:
        collected.failures.append(Failure(who, "FA-5005", reply.failure))
        return
    collected.bytes_up += len(reply.data)
    try:
        answer = decode_answer(reply.data, schema)
        if isinstance(answer, Refusal):
            collected.failures.append(Failure(who, answer.code, answer.reason))
            return
        who = answer.report.device
        _check_report(answer.report, plan, collected.reports)
        use(answer)
    except ProtocolError as error:
        log.warning("an answer of %s is refused: %s", who, error)
        collected.failures.append(Failure(who, error.code, error.happened))
        return
    collected.reports.append(answer.report)
    collected.nodes.append(reply.node)


def _node_name(node: int) -> str:
    """What to call a node whose device's name is not known."""
    return f"node {node % 10_000:04d}"


def _check_report(report: Report, plan: Plan, earlier: Sequence[Report]) -> None:
    said = (report.run, report.round, report.kind, report.base)
    if said != (plan.run, plan.round, plan.kind, plan.base):
        raise ProtocolError("FA-3006", "The answer belongs to another plan.", "Restart the device.")
    if any(report.device == other.device for other in earlier):
        raise ProtocolError(
            "FA-3007", "This device has answered already.", "Give every device its own name and identity."
        )
    if report.kind == "evaluate" and report.correct > report.clips:
        raise ProtocolError("FA-3004", "More clips were right than evaluated.", "Update the device.")


def _check_update(answer: Answer, settings: ServerSettings) -> None:
    rules = settings.rounds
    if answer.report.clips > rules.max_clips:
        raise ProtocolError(
            "FA-3008",
            f"The update claims {answer.report.clips} clips, {rules.max_clips} are allowed.",
            "Raise rounds.max_clips if devices really have so many.",
        )
    asked, spent = settings.privacy, answer.report.privacy
    if asked and (
        spent is None or (spent.noise_multiplier, spent.delta) != (asked.noise_multiplier, asked.delta)
    ):
        raise ProtocolError(
            "FA-3009", "The update was trained without the privacy the plan asks for.", "Update the device."
        )
    norm = math.sqrt(sum(float(np.vdot(value, value)) for value in answer.delta.values()))
    if not norm <= rules.max_update_norm:
        raise ProtocolError(
            "FA-3008",
            f"The update's norm is {norm:.3g}, {rules.max_update_norm:.3g} is allowed.",
            "Lower the learning rate, or raise rounds.max_update_norm.",
        )
