"""Releases that pass every check before they are put to work, and then fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from common.models.golden import golden_scores
from common.protocol.release import GRAPH, Release, open_release
from common.protocol.tensors import Weights
from tests.fl_client.listen.made_releases import Made, resealed_files

LOUD = 5.6
"""A feature that only a bang in silence has: the golden clip has 5.1 at most, the recorded words 4.5."""

BANG: NDArray[np.float32] = (np.random.default_rng(0).normal(size=1600) * 1000).astype(np.float32)

Fault = Literal["fails", "not numbers", "misshapen", "hangs", "slow"]


def faulty_files(made: Made, fault: Fault) -> dict[str, bytes]:
    """`made`, whose graph does wrong as soon as it hears a bang, or is always slow."""
    model = onnx.load_from_string(made.files[GRAPH])
    graph = model.graph
    for node in graph.node:
        for at, name in enumerate(node.output):
            if name == "logits":
                node.output[at] = "calm"
        for at, name in enumerate(node.input):
            if name == "logits":
                node.input[at] = "calm"
    least = -1.0 if fault == "slow" else LOUD
    graph.node.extend(
        [
            helper.make_node("Constant", [], ["least"], value=_scalar(least)),
            helper.make_node("ReduceMax", ["frames"], ["peak"], keepdims=0),
            helper.make_node("Greater", ["peak", "least"], ["is_loud"]),
            helper.make_node(
                "If", ["is_loud"], ["logits"], then_branch=_branch(_bad(fault)), else_branch=_branch(_same())
            ),
        ]
    )
    return resealed_files(made, graph=model.SerializeToString())


def faulty(made: Made, fault: Fault) -> Release:
    """As `faulty_files`."""
    return open_release(faulty_files(made, fault))


def with_weights(made: Made, changes: Mapping[str, NDArray[np.float32]]) -> Release:
    """`made` with other weights of the last layer, and the golden scores that belong to them."""
    weights: Weights = {**made.release.weights, **changes}
    release = open_release(resealed_files(made, weights=weights))
    manifest = release.manifest
    golden = manifest.golden.model_copy(update={"scores": golden_scores(manifest.task, weights)})
    return Release(manifest.model_copy(update={"golden": golden}), release.weights, release.graph)


def always(made: Made, column: int) -> Release:
    """Hears one label whatever it hears."""
    bias = made.release.weights["classify.bias"]
    return with_weights(made, {"classify.bias": 100 * np.eye(len(bias), dtype=np.float32)[column]})


def mistaken(made: Made) -> Release:
    """Says the next label for each that `made` says."""
    weights = made.release.weights
    names = ("classify.weight", "classify.bias")
    return with_weights(made, {name: np.roll(weights[name], 1, axis=0) for name in names})


def _scalar(value: float) -> onnx.TensorProto:
    return helper.make_tensor("value", TensorProto.FLOAT, [], [value])


def _branch(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "branch", [], [out])


def _same() -> list[onnx.NodeProto]:
    return [helper.make_node("Identity", ["calm"], ["out"])]


def _bad(fault: Fault) -> list[onnx.NodeProto]:
    match fault:
        case "not numbers":
            return [
                helper.make_node("Constant", [], ["nan"], value=_scalar(float("nan"))),
                helper.make_node("Mul", ["calm", "nan"], ["out"]),
            ]
        case "misshapen":
            return [helper.make_node("ReduceSum", ["calm"], ["out"], keepdims=0)]
        case "hangs":
            return _endless()
        case "fails":
            far = helper.make_tensor("value", TensorProto.INT64, [], [10**6])
            # The index is computed from the input, so that nothing notices before it is used.
            return [
                helper.make_node("Constant", [], ["far"], value=far),
                helper.make_node("Shape", ["calm"], ["sizes"]),
                helper.make_node("Mul", ["sizes", "far"], ["beyond"]),
                helper.make_node("Gather", ["calm", "beyond"], ["taken"], axis=2),
                helper.make_node("ReduceSum", ["taken"], ["sum"], keepdims=0),
                helper.make_node("Add", ["calm", "sum"], ["out"]),
            ]
        case "slow":
            size = helper.make_tensor("value", TensorProto.INT64, [2], [1200, 1200])
            steps = [helper.make_node("Constant", [], ["size"], value=size)]
            # Grown from the input, or it would be computed once, when the graph is loaded.
            steps.append(helper.make_node("ReduceMax", ["frames"], ["seed"], keepdims=0))
            steps.append(helper.make_node("Expand", ["seed", "size"], ["m0"]))
            for at in range(2):
                steps.append(helper.make_node("MatMul", [f"m{at}", f"m{at}"], [f"p{at}"]))
                steps.append(helper.make_node("Tanh", [f"p{at}"], [f"m{at + 1}"]))
            zero = helper.make_node("Constant", [], ["zero"], value=_scalar(0.0))
            return [
                *steps,
                zero,
                helper.make_node("ReduceMax", ["m2"], ["most"], keepdims=0),
                helper.make_node("Mul", ["most", "zero"], ["nothing"]),
                helper.make_node("Add", ["calm", "nothing"], ["out"]),
            ]


def _endless() -> list[onnx.NodeProto]:
    """A loop of 2^62 trips."""
    trips = helper.make_tensor("value", TensorProto.INT64, [], [2**62])
    go_on = helper.make_tensor("value", TensorProto.BOOL, [], [True])
    turn = [
        helper.make_node("Identity", ["go_on_in"], ["go_on_out"]),
        helper.make_node("Tanh", ["before"], ["after"]),
    ]
    body = helper.make_graph(
        turn,
        "turn",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    return [
        helper.make_node("Constant", [], ["trips"], value=trips),
        helper.make_node("Constant", [], ["go_on"], value=go_on),
        helper.make_node("Loop", ["trips", "go_on", "calm"], ["out"], body=body),
    ]
