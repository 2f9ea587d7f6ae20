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

Frames = NDArray[np.float32]

_Tensors = dict[str, ort.OrtValue]

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
        self._version = release.version
        self._labels = len(release.manifest.task.labels)
        try:
            same = like is not None and like.graph.digest == self.graph.digest
            self._session: ort.InferenceSession = (
                like._session if like and same else _open_session(release.graph)
            )
            weights = {name: _tensor(value) for name, value in release.weights.items()}
            # Two sets of state, read and written in turn: no hop allocates or copies any.
            here, there = self._zeros(), self._zeros()
            self._state = (*here.values(), *there.values())
            self._bindings = [self._bind(weights, here, there), self._bind(weights, there, here)]
            self._warm_up(release.manifest.task.front_end.features, release.manifest.task.clip_frames)
        except GRAPH_ERRORS as error:
            raise unrunnable(self._version, str(error)) from error

    def run(self, frames: Frames) -> Frames:
        """Logits (T, labels) of the next `frames` (T, features); a window graph gives (1, labels)."""
        binding = self._bindings[0]
        self._bindings.reverse()
        block = np.ascontiguousarray(frames[np.newaxis], np.float32)
        binding.bind_cpu_input(FRAMES, block)  # not copied, so `block` stays in scope until the run is over
        binding.bind_output(LOGITS, "cpu")
        self._session.run_with_iobinding(binding)
        logits: Frames = binding.get_outputs()[0].numpy()
        return logits.reshape(-1, logits.shape[-1])

    def reset(self) -> None:
        """Forget all frames."""
        for value in self._state:
            value.update_inplace(np.zeros(value.shape(), np.float32))

    def _zeros(self) -> _Tensors:
        return {name: _tensor(np.zeros(shape, np.float32)) for name, shape in self.graph.state.items()}

    def _bind(self, weights: _Tensors, past: _Tensors, following: _Tensors) -> ort.IOBinding:
        binding = self._session.io_binding()
        binding.bind_output(LOGITS, "cpu")  # the first to be bound is the first to be got
        for name, value in weights.items():
            binding.bind_ortvalue_input(name, value)
        for name in self.graph.state:
            binding.bind_ortvalue_input(name, past[name])
            binding.bind_ortvalue_output(f"{name}.next", following[name])
        return binding

    def _warm_up(self, features: int, clip_frames: int) -> None:
        """Run once on silence and on noise; the first run also pays for ONNX Runtime's own preparations."""
        shape = (max(1, clip_frames), features)
        # The sine of a square looks like noise, and numpy's generators cost 2.5 MB of resident memory.
        noise = np.sin(np.arange(shape[0] * shape[1], dtype=np.float32) ** 2).reshape(shape)
        rows = len(noise) if self.graph.streaming else 1
        for frames in (np.zeros_like(noise), noise):
            logits = self.run(frames)
            if logits.shape != (rows, self._labels):
                expected = f"{logits.shape} logits where ({rows}, {self._labels}) were expected"
                raise unrunnable(self._version, expected)
            if not np.isfinite(logits).all():
                raise not_numbers(self._version)
        self.reset()


def unrunnable(version: int, reason: str) -> DeviceError:
    """The refusal (FA-4201) of a version whose graph fails."""
    first_line = reason.strip().splitlines()[0][:200] if reason.strip() else "no reason given"
    return DeviceError(
        "FA-4201", f"Version {version} was refused: its graph does not run ({first_line}).", _REFUSED
    )


def not_numbers(version: int) -> DeviceError:
    """The refusal (FA-4202) of a version whose scores are infinite or NaN."""
    return DeviceError("FA-4202", f"Version {version} was refused: its scores are not numbers.", _REFUSED)


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


def _tensor(value: Frames) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value, np.float32))
