"""FedPer (Arivazhagan et al. 2019, "Federated Learning with Personalization Layers", arXiv:1912.00818).

The body is everybody's, the head each device's own: it is trained with the body and never leaves the device.
The shared model keeps the head that it was made with, from which a device starts in its first round.
"""

from __future__ import annotations

from common.algorithms.algorithm import Algorithm, Part
from common.models.acoustic import HEAD
from common.models.weights import get_weights
from common.protocol.tensors import Schema, Weights


class PersonalPart(Part):
    """Answers with the body and keeps the head."""

    def answer(self, steps: int) -> tuple[Weights, Weights]:
        body = {name: value for name, value in self.delta().items() if not name.startswith(HEAD)}
        head = {name: value for name, value in get_weights(self.model).items() if name.startswith(HEAD)}
        return body, head


class FedPer(Algorithm):
    """The body is averaged; what a device keeps takes the head's place before it trains or is tried."""

    part: type[Part] = PersonalPart
    personal = True

    def answer_schema(self, schema: Schema) -> Schema:
        return {name: shape for name, shape in schema.items() if not name.startswith(HEAD)}

    def kept_schema(self, schema: Schema) -> Schema:
        return {name: shape for name, shape in schema.items() if name.startswith(HEAD)}

    def start(self, order: Weights, kept: Weights) -> Weights:
        return order | kept
