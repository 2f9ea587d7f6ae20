"""From features to one row of scores per hop: how likely each label is in the window that ends there."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from common.protocol.release import Release
from fl_client.listen.engine import Engine, Frames
from fl_client.listen.ring import Ring

AT_ONCE = 1_000_000
"""Frame logits summed at once, which bounds the memory that long windows and many labels need."""


class Scorer(Protocol):
    """One release scoring one stream of features.

    Attributes:
        engine: what it runs.
        need: past frames that decide the scores of the next one.
        frame: index in the stream of the next frame.
    """

    engine: Engine
    need: int
    frame: int

    def feed(self, features: Frames) -> Frames:
        """Scores (T, labels) in [0, 1] of the next frames (T, features).

        Rows are zero until one whole window has been fed since the last reset.
        """

    def reset(self, frame: int) -> None:
        """Forget all; the next frame will be number `frame` of the stream."""


def build_scorer(release: Release, like: Scorer | None = None) -> Scorer:
    """The scorer of `release`, which shares the session of `like` if the graph is the same.

    Raises:
        DeviceError: FA-4201, FA-4202.
    """
    engine = Engine(release, like.engine if like is not None else None)
    window = max(1, release.manifest.task.clip_frames)
    labels = len(release.manifest.task.labels)
    if engine.graph.streaming:
        return StreamScorer(engine, window, labels)
    return WindowScorer(engine, window, labels, release.manifest.task.front_end.features)


class StreamScorer:
    """Softmax of the log-mean-exp of the window's frame logits: what the model makes of a clip."""

    def __init__(self, engine: Engine, window: int, labels: int) -> None:
        self.engine = engine
        self.need = engine.graph.receptive_field + window
        self._window = window
        self._labels = labels
        self.reset(0)

    def reset(self, frame: int) -> None:
        self.engine.reset()
        self.frame = frame
        self._logits = np.empty((0, self._labels), np.float32)

    def feed(self, features: Frames) -> Frames:
        if len(features) == 0:
            return np.empty((0, self._labels), np.float32)
        self.frame += len(features)
        logits = np.concatenate((self._logits, self.engine.run(features)))
        self._logits = logits[-(self._window - 1) :] if self._window > 1 else logits[:0]
        scores = np.zeros((len(features), self._labels), np.float32)
        whole = len(logits) - self._window + 1
        if whole > 0:
            # The mean differs from the sum by the same number for every label, which softmax takes out.
            step = max(1, AT_ONCE // (self._window * self._labels))
            for start in range(0, whole, step):
                count = min(step, whole - start)
                windows = _windows(logits[start:], count, self._window)
                scores[len(scores) - whole + start :][:count] = _softmax(_log_sum_exp(windows))
        return scores


class WindowScorer:
    """Softmax of the logits of a whole window, evaluated every so many frames of the stream."""

    def __init__(self, engine: Engine, window: int, labels: int, features: int) -> None:
        self.engine = engine
        self.need = window + engine.graph.hop
        self._window = window
        self._labels = labels
        self._features = features
        self.reset(0)

    def reset(self, frame: int) -> None:
        self.frame = frame
        self._past = Ring(self._window, (self._features,), frame)
        self._last = np.zeros(self._labels, np.float32)

    def feed(self, features: Frames) -> Frames:
        scores, hop = np.empty((len(features), self._labels), np.float32), self.engine.graph.hop
        done = 0
        while done < len(features):
            # Windows end at fixed places of the stream, so neither block sizes nor swaps move them.
            to_next = -(self.frame - self._window) % hop or hop
            part = features[done : done + to_next]
            self._past.append(part)
            self.frame += len(part)
            scores[done : done + len(part)] = self._last
            done += len(part)
            if len(part) == to_next and self.frame - self._past.begin == self._window:
                self._last = _softmax(self.engine.run(self._past.since(self._past.begin)))[0]
                scores[done - 1] = self._last
        return scores


def _windows(rows: Frames, count: int, length: int) -> Frames:
    """The first `count` windows (count, length, columns) of `rows`, which are not copied.

    As numpy's `sliding_window_view`, which takes longer than all that is done with a window.
    """
    row, column = rows.strides
    shape, strides = (count, length, rows.shape[1]), (row, row, column)
    return np.ndarray(shape, np.float32, rows, strides=strides)


def _log_sum_exp(logits: Frames) -> Frames:
    """Over the axis before the last."""
    peak = logits.max(axis=-2, keepdims=True)
    total: Frames = np.log(np.exp(logits - peak).sum(axis=-2)) + peak[..., 0, :]
    return total


def _softmax(logits: Frames) -> Frames:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Frames = powers / powers.sum(axis=-1, keepdims=True)
    return shares
