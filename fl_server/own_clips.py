"""What a coordinator with labelled clips of its own does with them: it judges candidates, and it learns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from common.algorithms.registry import ALGORITHMS
from common.data.features import FeatureSet
from common.protocol.release import Metrics
from common.protocol.tensors import Row, Weights
from fl_server.memory import Memory
from fl_server.release_gate import ReleaseGate
from fl_server.rules.trust import train_reference
from fl_server.settings import ServerSettings
from fl_server.validation import Validation

log = logging.getLogger(__name__)


class OwnClips:
    """Where devices have heads of their own, the clips judge nothing: the shared head is never trained.

    Args:
        clips: with the labels and the front end of the settings' task; None if there are none.
    """

    def __init__(self, settings: ServerSettings, clips: FeatureSet | None) -> None:
        self._settings, self._clips = settings, clips
        algorithm = settings.recipe.algorithm
        judges = not ALGORITHMS[algorithm].personal
        if clips is not None and not judges:
            log.warning(
                "with %s each device has a head of its own: validation clips judge nothing", algorithm
            )
        self._validation = None if clips is None or not judges else Validation(clips, settings.task)
        self._gate = ReleaseGate(settings.gate, self._validation)

    def check(self, candidate: Weights, base: Weights, memory: Memory) -> None:
        """Return if the candidate may be released, as far as the gate can tell.

        Raises:
            CoordinatorError: as `ReleaseGate.check`.
        """
        self._gate.check(candidate, base, memory)

    def metrics(self, weights: Weights) -> Metrics:
        """What a release states of the clips; nothing where they judge nothing.

        Raises:
            TrainingError: FA-7004, the scores are not finite.
        """
        return self._validation.metrics(weights) if self._validation else Metrics()

    def reference(self, base: Weights, memory: Memory, number: int) -> Callable[[], Row] | None:
        """Trains on the clips in round `number`; see `make_rule`."""
        if self._clips is None:
            return None
        return partial(train_reference, self._clips, self._settings, base, memory, number)
