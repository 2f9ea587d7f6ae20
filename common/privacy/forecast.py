"""What a private training would cost and could learn, said before anything is spent.

What can be said beforehand is how far the signal may rise above the noise. In one step a device adds up
gradients no longer than the clipping norm, one for each unit of a batch, adds noise to every parameter and
divides by the batch. A round adds up the steps of a device and averages the cohort. In clipping norms, over
all parameters:

    largest signal    steps * units it has / units it is taken to have
    noise             noise_multiplier * sqrt(parameters * steps / cohort) / batch

Several rounds are like more steps. The ratio of the two is that of one parameter as well, if the signal is
spread evenly; it falls with the root of the number of parameters, which is why a small head learns where a
whole model does not.

The largest signal is one at which all units pull together. Gradients agree far less than that, and least
while a model has yet to find its features. So the ratio that is needed depends on where training begins:
`NEEDED`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch

from common.errors import TrainingError
from common.models.acoustic import trained_part
from common.models.registry import build_model
from common.privacy.accounting import closest_epsilon, privacy_spent
from common.protocol.algorithms import Trained
from common.protocol.answer import PrivacySpent
from common.protocol.plan import Privacy
from common.protocol.unit import Unit
from common.task import Task

Start: TypeAlias = Literal["scratch", "warm"]
"""Whether features have yet to be found, or are there from other sounds."""

Outlook: TypeAlias = Literal["nothing", "little", "much"]

NEEDED: Mapping[Start, tuple[float, float]] = {"warm": (1.0, 3.0), "scratch": (3.0, 8.0)}
"""Signal to noise of all rounds together from which a quarter is learnt of what would be without noise, and
two thirds. Seen on one task (docs/privacy.md); others will differ."""

MOST_UNITS = 1_000_000
"""As in `Privacy.units`."""

EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0)

_TOO_SMALL = {
    "units": "A device with {} units has nothing to learn from.",
    "batch": "A batch of {} is too small.",
    "steps": "A round of {} steps learns nothing.",
    "rounds": "A schedule of {} rounds learns nothing.",
    "cohort": "A cohort of {} is too small.",
}

NOISES: tuple[float, ...] = tuple(np.geomspace(0.1, 1000, 24).tolist())
"""Noise multipliers between which a needed one is looked for."""


@dataclass(frozen=True)
class Prospect:
    """What to expect of training some of a model.

    Args:
        signal, noise: L2 norm of each in the mean update of a round, in clipping norms; of the signal, the
            largest.
        of_round, of_run: the ratio of the two, in one round and in all rounds together.
    """

    parameters: int
    start: Start
    signal: float
    noise: float
    of_round: float
    of_run: float
    outlook: Outlook


@dataclass(frozen=True)
class Schedule:
    """What one device does in all the rounds it takes part in.

    Args:
        units: clips, recordings or speakers, whatever one epsilon protects one of, that it is taken to have
            (`Privacy.units`): they decide what it costs.
        batch: units expected in a step.
        steps: in one round.
        rounds: it takes part in.
        cohort: devices whose updates are averaged in a round.
        delta: of all rounds together.
        unit: what is counted.
        held: units that it really has; `units` if not given.

    Raises:
        TrainingError: FA-7030, one of them makes no sense.
    """

    units: int
    batch: int
    steps: int
    rounds: int
    cohort: int
    delta: float = 1e-5
    unit: Unit = "clip"
    held: int | None = None

    def __post_init__(self) -> None:
        for name, too_small in _TOO_SMALL.items():
            if (count := getattr(self, name)) < 1:
                raise _senseless(too_small.format(count), "Give 1 or more.")
        if self.units > MOST_UNITS or (self.held is not None and self.held < 1):
            raise _senseless(
                f"No device has {self.units if self.held is None else self.held} {self.unit}s.",
                f"Give 1 to {MOST_UNITS:,}.",
            )
        if not 0 < self.delta < 0.1:
            raise _senseless(f"A delta of {self.delta:g} is not between 0 and 0.1.", "1e-5 is usual.")

    @property
    def rate(self) -> float:
        """Probability that a unit is in a step."""
        return min(1.0, self.batch / self.units)

    def cost(self, noise_multiplier: float) -> PrivacySpent:
        """Of all rounds together, as a ledger counts it."""
        privacy = Privacy(
            noise_multiplier=noise_multiplier, delta=self.delta, unit=self.unit, units=self.units
        )
        return privacy_spent(privacy, self.rate, self.steps * self.rounds)

    def noise_for(self, epsilon: float) -> float | None:
        """About the smallest noise multiplier that costs no more than `epsilon`, and 0.1 or more; None if it
        is above 1000.

        Raises:
            TrainingError: FA-7030, epsilon makes no sense.
        """
        noise = self.noise_about(epsilon)
        while noise is not None and self.cost(noise).epsilon > epsilon:
            noise = None if noise >= NOISES[-1] else min(_up(1.003 * noise), NOISES[-1])
        return noise

    def noise_about(self, epsilon: float) -> float | None:
        """The same to a per cent either way, in less time: between `NOISES`, whose costs are kept."""
        if not 0 < epsilon < math.inf:
            raise _senseless(f"An epsilon of {epsilon:g} makes no sense.", "1 to 10 is usual.")
        place = bisect_left(NOISES, True, key=lambda noise: self.cost(noise).epsilon <= epsilon)
        if place == len(NOISES):
            return None
        if place == 0:
            return NOISES[0]
        less, more = NOISES[place - 1], NOISES[place]
        # A line through two points of a curve that is nearly one on these scales.
        dear, cheap = (math.log(max(self.cost(one).epsilon / epsilon, 0.01)) for one in (less, more))
        return _up(less * (more / less) ** (dear / (dear - cheap)))

    def prospect(self, noise_multiplier: float, parameters: int, start: Start) -> Prospect:
        """What to expect of training so many parameters.

        Raises:
            TrainingError: FA-7030, there are none.
        """
        if parameters < 1:
            raise _senseless(f"A model of {parameters} parameters has nothing to train.", "Give 1 or more.")
        spread = math.sqrt(parameters * self.steps / self.cohort)
        noise = noise_multiplier * spread / min(self.batch, self.units)
        # A step divides by the units it expects of those a device is taken to have, and adds up real ones.
        signal = self.steps * (self.held or self.units) / self.units
        of_round = signal / noise
        of_run = of_round * math.sqrt(self.rounds)
        little, much = NEEDED[start]
        outlook: Outlook = "much" if of_run >= much else "little" if of_run >= little else "nothing"
        return Prospect(parameters, start, signal, noise, of_round, of_run, outlook)


@dataclass(frozen=True)
class Forecast:
    """All that can be said of a schedule under a budget.

    Args:
        cost: what it comes to with the smallest noise that keeps to the budget.
        closest: epsilon by the accountant that comes closest to the truth.
        planned: what is asked about.
        whole, head: beside it, the whole model from scratch and its head on a warm rest.
        needed: noise multiplier, about, by number of rounds and epsilon; None if none does.
    """

    schedule: Schedule
    cost: PrivacySpent
    closest: tuple[float, str]
    planned: Prospect
    whole: Prospect
    head: Prospect
    needed: dict[int, dict[float, float | None]]


def foresee(
    schedule: Schedule,
    epsilon: float,
    task: Task,
    trained: Trained = "all",
    start: Start = "scratch",
    parameters: int | None = None,
) -> Forecast:
    """What `schedule` can learn for `epsilon`.

    Args:
        parameters: that are trained, if not those of `trained` in the task's model.

    Raises:
        TrainingError: FA-7001 there is no such architecture, FA-7030 something makes no sense, FA-7031 no
            noise keeps to the budget.
    """
    noise = schedule.noise_for(epsilon)
    if noise is None:
        raise TrainingError(
            "FA-7031",
            f"Even a noise multiplier of {NOISES[-1]:g} would cost more than an epsilon of {epsilon:g}.",
            "Take a larger epsilon, fewer rounds or steps, or smaller batches.",
        )
    cost = schedule.cost(noise)
    planned = parameters_of(task, trained) if parameters is None else parameters
    epsilons = sorted({*EPSILONS, epsilon})
    return Forecast(
        schedule,
        cost,
        closest_epsilon({(cost.sampling_rate, noise): cost.steps}, schedule.delta),
        schedule.prospect(noise, planned, start),
        schedule.prospect(noise, parameters_of(task, "all"), "scratch"),
        schedule.prospect(noise, parameters_of(task, "head"), "warm"),
        {
            rounds: {one: replace(schedule, rounds=rounds).noise_about(one) for one in epsilons}
            for rounds in sorted({max(1, schedule.rounds // 2), schedule.rounds, 2 * schedule.rounds})
        },
    )


def parameters_of(task: Task, trained: Trained) -> int:
    """How many parameters of the task's model a recipe trains.

    Raises:
        TrainingError: FA-7001, there is no such architecture.
    """
    sizes = {name: value.numel() for name, value in build_model(task, torch.Generator()).named_parameters()}
    return sum(trained_part(trained, sizes).values())


def _senseless(happened: str, remedy: str) -> TrainingError:
    return TrainingError("FA-7030", happened, remedy)


def _up(value: float) -> float:
    """To three digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return round(math.ceil(value / unit - 1e-9) * unit, 12)
