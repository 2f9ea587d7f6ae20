"""Runs a release's graph with ONNX Runtime.

The weights are inputs of the graph, bound once, so a new version of the same graph needs no new session.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from common.errors import DeviceError
from common.protocol.release import Release
from fl_client.listen.watchdog import running

Frames = NDArray[np.float32]

_Arrays = dict[str, Frames]

FRAMES, LOGITS = "frames", "logits"

_REFUSED = "Go on with the version in use and tell the coordinator's operator; the next version may mend it."

GRAPH_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    MemoryError,
    RuntimeError,
    ValueError,
)
"""What ONNX Runtime raises at a graph it cannot load or run; it gives them no common base."""


class Engine:
    """The graph of one release with its weights and its state. Used by one thread at a time.

    Args:
        release: the version to run.
        like: an engine that lends its session if it runs the same graph; threads may share a session.

    Raises:
        DeviceError: FA-4201 the graph cannot be run as the manifest says, FA-4202 its output is not finite.
    """

    def __init__(self, release: Release, like: Engine | None = None) -> None:
        self.graph = release.manifest.graph
        self._manifest = release.manifest
        self._labels = len(release.manifest.task.labels)
        self._features = release.manifest.task.front_end.features
        try:
            same = like is not None and like.graph.digest == self.graph.digest
            with running(self._manifest):
                self._session: ort.InferenceSession = (
                    like._session if like and same else _open_session(release.graph)
                )
            self._weights = {name: _dense(value) for name, value in release.weights.items()}
            # Two sets of state, read and written in turn: no hop allocates or copies any.
            here, there = self._zeros(), self._zeros()
            self._state = (*here.values(), *there.values())
            self._bindings = [self._bind(here, there), self._bind(there, here)]
            self._hold(max(1, release.manifest.task.clip_frames))
            self._warm_up()
        except GRAPH_ERRORS as error:
            raise unrunnable(release.version, error) from error

    def run(self, frames: Frames) -> Frames:
        """Logits (T, labels) of the next `frames` (T, features); a window graph gives (1, labels)."""
        if len(frames) != len(self._frames[0]):
            self._hold(len(frames))
        self._frames[0] = frames
        with running(self._manifest):
            self._session.run_with_iobinding(self._bindings[0])
        self._bindings.reverse()
        return self._logits.reshape(-1, self._labels).copy()

    def reset(self) -> None:
        """Forget all frames."""
        for value in self._state:
            value.fill(0.0)

    def _zeros(self) -> _Arrays:
        return {name: np.zeros(shape, np.float32) for name, shape in self.graph.state.items()}

    def _bind(self, past: _Arrays, following: _Arrays) -> ort.IOBinding:
        binding = self._session.io_binding()
        for name, value in (self._weights | past).items():
            binding.bind_ortvalue_input(name, _shared(value))
        for name, value in following.items():
            binding.bind_ortvalue_output(f"{name}.next", _shared(value))
        return binding

    def _hold(self, count: int) -> None:
        """Have the session read `count` frames from one array and write their logits to another.

        Blocks are mostly alike, and binding costs as much as a small layer of the network.
        """
        rows = (count,) if self.graph.streaming else ()
        self._frames = np.zeros((1, count, self._features), np.float32)
        self._logits = np.zeros((1, *rows, self._labels), np.float32)
        for binding in self._bindings:
            binding.bind_ortvalue_input(FRAMES, _shared(self._frames))
            binding.bind_ortvalue_output(LOGITS, _shared(self._logits))

    def _warm_up(self) -> None:
        """Run once on silence and on noise; the first run also pays for ONNX Runtime's own preparations."""
        shape = self._frames.shape[1:]
        # The sine of a square looks like noise, and numpy's generators cost 2.5 MB of resident memory.
        noise = np.sin(np.arange(shape[0] * shape[1], dtype=np.float32) ** 2).reshape(shape)
        for frames in (np.zeros_like(noise), noise):
            if not np.isfinite(self.run(frames)).all():
                raise not_numbers(self._manifest.version)
        self.reset()


def unrunnable(version: int, error: Exception) -> DeviceError:
    """The refusal (FA-4201) of a version whose graph fails."""
    return DeviceError(
        "FA-4201", f"Version {version} was refused: its graph does not run ({first_line(error)}).", _REFUSED
    )


def not_numbers(version: int) -> DeviceError:
    """The refusal (FA-4202) of a version whose scores are infinite or NaN."""
    return DeviceError("FA-4202", f"Version {version} was refused: its scores are not numbers.", _REFUSED)


def first_line(error: Exception) -> str:
    """What of `error` is fit to be told: a graph may put megabytes into it."""
    return next(iter(str(error)[:1000].strip().splitlines()), type(error).__name__)[:200]


def _open_session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # The arena and the memory pattern hold memory for the largest block ever run and gain nothing on a hop.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _dense(value: Frames) -> Frames:
    return np.ascontiguousarray(value, np.float32)


def _shared(array: Frames) -> ort.OrtValue:
    """`array` as ONNX Runtime sees it: the same memory, so somebody must hold the array."""
    return ort.OrtValue.ortvalue_from_numpy(array)
