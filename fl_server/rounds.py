"""What a round asks of devices: draw a cohort, send it a plan, check each answer, fold it in or add it up."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from common.errors import CoordinatorError, ProtocolError
from common.files import sha256
from common.protocol.answer import Answer, PrivacySpent, Refusal, Report
from common.protocol.plan import Plan
from common.protocol.release import Metrics
from common.protocol.tensors import Schema, Weights
from fl_server.fleet import Fleet, Kind, Reply
from fl_server.intake import Intake
from fl_server.rules.rule import Rule
from fl_server.settings import ServerSettings

log = logging.getLogger(__name__)

ON_THE_WAY_SECONDS = 2
"""A plan outlives the time to answer by this, for what is on its way when the time is up."""


@dataclass(frozen=True)
class Exchange:
    """One plan, what goes with it, who is asked, and who takes the answers in.

    Args:
        order: the plan as it is sent.
        cohort: nodes, and the ids of their devices (empty if they are not known).
        names: what a device is called.
    """

    plan: Plan
    order: bytes = field(repr=False)
    weights: bytes = field(repr=False)
    schema: Schema = field(repr=False)
    cohort: Mapping[int, str]
    intake: Intake
    names: Callable[[str], str | None]

    def name(self, node: int, device: str) -> str:
        """What to call a node and its device, whether or not it is known."""
        return (self.names(device) if device else None) or f"node {node % 10_000:04d}"


@dataclass(frozen=True)
class Part:
    """A device's valid part in an exchange.

    Args:
        update: digest of what it sent.
    """

    node: int
    device: str
    report: Report
    update: str


@dataclass(frozen=True)
class Failure:
    """A node whose part in a round came to nothing; `device` is empty if it is not known."""

    who: str
    code: str
    reason: str
    device: str = ""


@dataclass
class Collected:
    """Answers to one plan, as far as they have come: the valid ones, and why others failed.

    Args:
        norms: of the updates among them.
        counters: by device, that of the envelope it sent.
    """

    parts: list[Part] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0

    @property
    def reports(self) -> list[Report]:
        """What the devices say of their work."""
        return [part.report for part in self.parts]

    @property
    def nodes(self) -> dict[int, str]:
        """Nodes whose part is valid, and their devices."""
        return {part.node: part.device for part in self.parts}

    @property
    def slowest_seconds(self) -> float:
        """Work of the slowest device, as it says, but no longer than the exchange took."""
        return min(self.seconds, max((report.seconds for report in self.reports), default=0.0))


def draw_cohort(online: Mapping[int, str], size: int | None, seed: int, number: int) -> dict[int, str]:
    """`size` of the nodes that are online, uniformly, or all of them."""
    nodes = list(online)
    if size is None or size >= len(nodes):
        return dict(online)
    rng = np.random.default_rng([seed, number])
    # Places rather than nodes are drawn: numpy would turn 64-bit names into floats.
    drawn = sorted(nodes[place] for place in rng.choice(len(nodes), size, replace=False))
    return {node: online[node] for node in drawn}


def make_plan(
    settings: ServerSettings,
    kind: Kind,
    number: int,
    weights: bytes,
    *,
    coordinator: str,
    run: str,
    cohort: int,
    recipient: str,
) -> Plan:
    """The order for round `number` on a model given as bytes; the time to answer begins now."""
    seconds = settings.rounds.answer_seconds
    return Plan(
        coordinator=coordinator,
        run=run,
        round=number,
        kind=kind,
        expires=math.ceil(time.time() + seconds) + ON_THE_WAY_SECONDS,
        cohort=cohort,
        recipient=recipient,
        task=settings.task,
        recipe=settings.recipe,
        privacy=settings.privacy,
        base=sha256(weights),
        holdout=settings.rounds.holdout if settings.devices_evaluate else 0.0,
        seed=settings.seed,
        seconds=seconds,
    )


def train_cohort(
    fleet: Fleet,
    settings: ServerSettings,
    exchange: Exchange,
    collected: Collected,
    book: Callable[[Report], None],
    rule: Rule,
) -> Weights:
    """Let the cohort train, fold each update in as it arrives, and return what `rule` makes of them.

    A bad update costs its sender its place in the round and nothing else.

    Args:
        book: told every report that can be true, also when its update is then refused: it has spent that.

    Raises:
        CoordinatorError: FA-5004 too few valid updates.
        StorageError: FA-8001.
        FleetLostError: the transport is gone.
    """
    rules, weighted = settings.rounds, 0

    def fold(answer: Answer) -> None:
        nonlocal weighted
        _check_privacy(answer.report, settings)
        book(answer.report)
        _check_update(answer, settings)
        weight = answer.report.clips if rules.weighting == "clips" else 1
        rule.fold(answer.row, weight, device=answer.report.device, norm=answer.norm)
        collected.norms.append(answer.norm)
        weighted += weight

    _collect(fleet, exchange, collected, fold)
    if rule.count < rules.min_answers or not weighted:
        reasons = "; ".join(f"{failure.who}: {failure.reason}" for failure in collected.failures[:3])
        raise CoordinatorError(
            "FA-5004",
            f"Round {exchange.plan.round} had {rule.count} valid updates, {rules.min_answers} are needed"
            + (f" ({reasons})." if reasons else "."),
            "See `fedaudio server status`; allow more time or fewer answers in server.toml.",
        )
    return rule.result()


def evaluate_cohort(fleet: Fleet, exchange: Exchange, collected: Collected) -> Metrics:
    """Let the cohort evaluate a candidate on clips that it keeps for that."""
    _collect(fleet, exchange, collected, lambda answer: None)
    clips = sum(report.clips for report in collected.reports)
    if not clips:
        return Metrics()
    correct = sum(report.correct for report in collected.reports)
    loss = sum(report.loss * report.clips for report in collected.reports)
    return Metrics(device_accuracy=correct / clips, device_loss=loss / clips)


def _collect(fleet: Fleet, exchange: Exchange, collected: Collected, use: Callable[[Answer], None]) -> None:
    """Send the plan, check what comes back, `use` what is good, and note in `collected` how everybody did."""
    plan, cohort = exchange.plan, exchange.cohort
    collected.bytes_down += (len(exchange.order) + len(exchange.weights)) * len(cohort)
    started = time.monotonic()
    heard: set[int] = set()
    try:
        for reply in fleet.ask(exchange.order, plan.kind, plan.seconds, exchange.weights, list(cohort)):
            # One answer a node: neither the same again nor another one is heard.
            if reply.node in cohort and reply.node not in heard:
                heard.add(reply.node)
                _take(reply, exchange, collected, use)
            # Without this, the reply would stay in memory until the next one is there too.
            del reply
    finally:
        collected.counters = exchange.intake.counters()
        collected.seconds = time.monotonic() - started
    for node, device in cohort.items():
        if node not in heard:
            late = f"no answer within {plan.seconds:.0f} s"
            collected.failures.append(Failure(exchange.name(node, device), "FA-5005", late, device))


def _take(reply: Reply, exchange: Exchange, collected: Collected, use: Callable[[Answer], None]) -> None:
    device = exchange.cohort[reply.node]

    def fail(code: str, reason: str) -> None:
        who = exchange.name(reply.node, device)
        log.warning("no part of %s in round %d: %s %s", who, exchange.plan.round, code, reason)
        collected.failures.append(Failure(who, code, reason, device))

    if reply.data is None:
        fail("FA-5005", reply.failure)
        return
    collected.bytes_up += len(reply.data)
    try:
        received = exchange.intake.read(reply.data, device)
        if received is None:
            return
        if received.sender is not None:
            device = received.sender.id
        if isinstance(received.answer, Refusal):
            fail(received.answer.code, received.answer.reason)
            return
        use(received.answer)
    except (ProtocolError, CoordinatorError) as error:
        fail(error.code, error.happened)
        return
    collected.parts.append(Part(reply.node, device, received.answer.report, received.digest))


def _check_privacy(report: Report, settings: ServerSettings) -> None:
    """Return if `report` tells of the privacy that was asked for, and no more than the recipe can spend."""
    asked, spent, recipe = settings.privacy, report.privacy, settings.recipe
    if asked is None and spent is None:
        return
    most = recipe.steps
    if most is None:
        most = recipe.passes * math.ceil(report.clips / recipe.batch_size)
    if (
        asked is None
        or spent is None
        or (spent.noise_multiplier, spent.unit) != (asked.noise_multiplier, asked.unit)
        # More by what the sampler of the noise may be wrong by, which is nothing but for huge epsilons.
        or spent.delta < asked.delta
        or spent.steps > most
        or (asked.units and not _tells_nothing(report, spent, asked.units, recipe.batch_size))
    ):
        raise ProtocolError(
            "FA-3009", "The update was not trained with the privacy the plan asks for.", "Update the device."
        )


def _tells_nothing(report: Report, spent: PrivacySpent, units: int, batch_size: int) -> bool:
    """Whether the numbers in `report` are those of any device, by the plan."""
    return report.clips == units and spent.sampling_rate == min(1.0, batch_size / units)


def _check_update(answer: Answer, settings: ServerSettings) -> None:
    rules = settings.rounds
    if answer.report.clips > rules.max_clips:
        raise ProtocolError(
            "FA-3008",
            f"The update claims {answer.report.clips} clips, {rules.max_clips} are allowed.",
            "Raise rounds.max_clips if devices really have so many.",
        )
    if not answer.norm <= rules.max_update_norm:
        raise ProtocolError(
            "FA-3008",
            f"The update's norm is {answer.norm:.3g}, {rules.max_update_norm:.3g} is allowed.",
            "Lower the learning rate, or raise rounds.max_update_norm.",
        )
