"""A release that scores the live sound beside the one at work, unheard, until it is fit to take over."""

from __future__ import annotations

import time
from concurrent.futures import Executor, Future

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from fl_client.listen.engine import Frames, first_line
from fl_client.listen.limits import SwapLimits
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.ring import Ring


def tops(scores: Frames) -> Frames:
    """(hops, 2): which label leads at each hop, and its score."""
    found = np.empty((len(scores), 2), np.float32)
    found[:, 0], found[:, 1] = scores.argmax(axis=1), scores.max(axis=1)
    return found


class Shadow:
    """The next pipeline in waiting. The feeding thread gives it turns, which another thread works off;
    between two turns, and only then, may the feeding thread look at it.

    Args:
        pipeline: has heard the stream up to a moment ago.
        beside: the pipeline at work, which it is compared with.
        agreement: least agreement, in [0, 1].
        limits: all the rest it must keep to.
    """

    def __init__(self, pipeline: Pipeline, beside: Pipeline, agreement: float, limits: SwapLimits) -> None:
        self.pipeline = pipeline
        self.beside = beside
        self.fault: str | None = None
        self.disagrees = False
        self.ready_at: int | None = None if limits.shadow_seconds > 0 else pipeline.position
        self._least = agreement
        self._limits = limits
        self._began = pipeline.position
        self._turn: Future[None] | None = None
        self._seconds, self._hops = 0.0, 0
        self._sure = self._same = 0
        known = {label: column for column, label in enumerate(pipeline.task.labels)}
        # A label that the new release does not know is no column of it.
        self._column = np.array([known.get(label, -1) for label in beside.task.labels])
        self._common = np.isin(pipeline.task.labels, beside.task.labels)

    @property
    def idle(self) -> bool:
        """Whether no turn is being worked off."""
        return self._turn is None or self._turn.done()

    @property
    def agreement(self) -> float | None:
        """Share of the hops at which both were sure at which it was of the same label; None without any."""
        return round(self._same / self._sure, 3) if self._sure else None

    def take_turn(self, worker: Executor, recent: Ring, said: Ring, cost: float) -> None:
        """Let `worker` score what came in since the last turn.

        Args:
            recent: the newest samples.
            said: `tops` of the release at work, by hop, up to the end of `recent`.
            cost: processor time per second of stream of the release at work, in seconds.
        """
        missed = recent.resized(min(recent.end - self.pipeline.position, recent.capacity))
        self._turn = worker.submit(self._hear, missed, said.copy(), cost)

    def end_turn(self) -> None:
        """Wait until no turn is being worked off."""
        if self._turn is not None:
            self._turn.result()

    def _hear(self, missed: Ring, said: Ring, cost: float) -> None:
        began = time.thread_time()
        try:
            scores = self.pipeline.catch_up(missed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no business of the release at work
            self.fault = f"its graph failed: {first_line(error)}"
            return
        self._seconds += time.thread_time() - began
        self._hops += len(scores)
        if not np.isfinite(scores).all():
            self.fault = "its scores are not numbers"
            return
        self._compare(scores, said)
        self._judge(cost)

    def _compare(self, scores: Frames, said: Ring) -> None:
        """Count the hops at which both are sure of a label both know, and those where it is the same."""
        ours, theirs = self.pipeline.task, self.beside.task
        ends = (self.pipeline.hop - len(scores) + np.arange(len(scores))) * ours.front_end.hop
        # The newest hop of the other that ended by then; the same one if the front ends are alike.
        others = (ends + ours.front_end.window - theirs.front_end.window) // theirs.front_end.hop
        there = (others >= said.begin) & (others < said.end)
        other = said.since(said.begin)[others[there] - said.begin]
        own = tops(scores[there])
        mine: NDArray[np.int64] = own[:, 0].astype(np.int64)
        column = self._column[other[:, 0].astype(np.int64)]
        sure = (own[:, 1] >= ours.trigger.threshold) & (other[:, 1] >= theirs.trigger.threshold)
        sure &= self._common[mine] & (column >= 0)
        self._sure += int(sure.sum())
        self._same += int((mine == column)[sure].sum())

    def _judge(self, cost: float) -> None:
        heard, limits = (self.pipeline.position - self._began) / SAMPLE_RATE, self._limits
        if self.ready_at is not None or heard < limits.shadow_seconds:
            return
        own = self._seconds / max(1, self._hops) / self.pipeline.task.front_end.hop_seconds
        budget = limits.budget(cost)
        if own > budget:
            self.fault = f"it takes {own:.0%} of the processor, more than {budget:.0%}"
        elif self._sure < limits.sure_hops or self._same >= self._least * self._sure:
            self.ready_at = self.pipeline.position
        elif heard >= limits.patience_seconds:
            self.disagrees = True
            self.fault = (
                f"it agrees with the version at work on {self.agreement:.0%} of what both are sure of"
            )
