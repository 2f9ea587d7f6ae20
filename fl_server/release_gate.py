"""The gate: a candidate that was poisoned, or is broken, is not released.

It compares with the base, so that it lets a young model learn: only losses count, and only those beyond what
chance does to so few clips. What it does not see is a poison that works slowly, a little in each round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import CoordinatorError, TrainingError
from common.files import sha256
from common.protocol.tensors import Weights, encode_weights
from common.training.metrics import Evaluation
from fl_server.memory import Memory
from fl_server.settings import GateRules
from fl_server.trigger_sweep import Heard, TriggerSweep
from fl_server.validation import Validation

FEWEST_STEPS = 3
"""Earlier rounds without which nobody knows how long a step is."""

REFUSALS = frozenset({"FA-5110", "FA-5111", "FA-5112", "FA-5113"})
"""What a refused candidate is refused for."""


@dataclass(frozen=True)
class _Tried:
    """How weights do on the coordinator's clips."""

    result: Evaluation
    heard: Heard | None


class ReleaseGate:
    """Decides about candidates.

    Args:
        validation: the coordinator's clips; without any, only the step is looked at.
    """

    def __init__(self, rules: GateRules, validation: Validation | None) -> None:
        self._rules, self._validation = rules, validation
        sweeps = validation is not None and rules.trigger_success > 0
        self._sweep = TriggerSweep(validation) if validation is not None and sweeps else None
        self._known: dict[str, _Tried] = {}

    def check(self, candidate: Weights, base: Weights, memory: Memory) -> None:
        """Return if the candidate may be released.

        Args:
            base: the version it was made from.
            memory: what was remembered when that was made: without the candidate's own step.

        Raises:
            CoordinatorError: FA-5110 it lost accuracy, or its scores are not numbers, FA-5111 it lost a
                label, FA-5112 it obeys a sound, FA-5113 it is far away from its base.
        """
        self._check_step(candidate, base, memory.steps)
        if self._validation is None:
            return
        try:
            before, now = self._try(self._validation, base), self._try(self._validation, candidate)
        except TrainingError as error:
            if error.code != "FA-7004":
                raise
            raise CoordinatorError("FA-5110", "The candidate's scores are not numbers.", _LOOK) from error
        self._check_accuracy(now.result, before.result)
        self._check_labels(now.result, before.result)
        self._check_triggers(now.heard, before.heard)

    def _try(self, validation: Validation, weights: Weights) -> _Tried:
        """The same weights are tried once: most candidates are the base of the next."""
        digest = sha256(encode_weights(weights))
        tried = self._known.pop(digest, None)
        if tried is None:
            heard = self._sweep.listen(weights) if self._sweep else None
            tried = _Tried(validation.evaluate(weights), heard)
        self._known[digest] = tried
        while len(self._known) > 2:
            del self._known[next(iter(self._known))]
        return tried

    def _check_step(self, candidate: Weights, base: Weights, steps: Sequence[float]) -> None:
        limit = self._rules.step
        usual = float(np.median(steps)) if len(steps) >= FEWEST_STEPS else 0.0
        if limit == 0 or usual == 0:
            return
        step = math.sqrt(sum(float(np.square(candidate[name] - base[name]).sum()) for name in base))
        if not step <= limit * usual:
            raise CoordinatorError(
                "FA-5113",
                f"The candidate is a step of {step:.3g} away from its base, and {usual:.3g} is usual.",
                _LOOK,
            )

    def _check_accuracy(self, now: Evaluation, before: Evaluation) -> None:
        limit = self._rules.accuracy_drop
        if limit and _beyond_chance(before.correct - now.correct, limit * now.clips):
            raise CoordinatorError(
                "FA-5110",
                f"The candidate names {now.accuracy:.0%} of the validation clips rightly, "
                f"its base {before.accuracy:.0%}.",
                _LOOK,
            )

    def _check_labels(self, now: Evaluation, before: Evaluation) -> None:
        if self._validation is None or self._rules.label_drop == 0:
            return
        # A model that errs often changes its mind about whole labels from round to round.
        limit = self._rules.label_drop + 1 - before.accuracy
        clips = before.confusion.sum(axis=1)
        lost = np.diag(before.confusion) - np.diag(now.confusion)
        for place, label in enumerate(self._validation.task.labels):
            if _beyond_chance(int(lost[place]), limit * int(clips[place])):
                raise CoordinatorError(
                    "FA-5111",
                    f"The candidate no longer knows {label!r}: of {clips[place]} clips it names "
                    f"{lost[place]} fewer rightly than its base.",
                    _LOOK,
                )

    def _check_triggers(self, now: Heard | None, before: Heard | None) -> None:
        limit = self._rules.trigger_success
        if self._sweep is None or now is None or before is None:
            return
        worst = self._sweep.worst(now, before)
        if _beyond_chance(worst.windows, limit * worst.of + worst.lucky):
            raise CoordinatorError(
                "FA-5112",
                f"Mixed into {worst.of} clips of other labels, {worst.sound} turns {worst.windows} into "
                f"{worst.label!r}.",
                _LOOK,
            )


def _beyond_chance(count: int, allowed: float) -> bool:
    """Whether `count` clips are more than `allowed`, and not by chance: a count of k varies by sqrt(k)."""
    return count > 0 and count - allowed > math.sqrt(count)


_LOOK = "See whose updates came in `fedaudio server log`; the next round goes on from the same base."
