"""FedPer (Arivazhagan et al. 2019, "Federated Learning with Personalization Layers", arXiv:1912.00818).

The body is everybody's, the head each device's own: it is trained with the body and never leaves the device.
The shared model keeps the head that it was made with, from which a device starts in its first round.
"""

from __future__ import annotations

from common.algorithms.algorithm import Algorithm, Part
from common.models.acoustic import trained_part, without_head
from common.models.weights import get_weights
from common.protocol.tensors import Schema, Weights


class PersonalPart(Part):
    """Answers with the body and keeps the head."""

    def answer(self, steps: int) -> tuple[Weights, Weights]:
        return without_head(self.delta()), trained_part("head", get_weights(self.model))


class FedPer(Algorithm):
    """The body is averaged; what a device keeps takes the head's place before it trains or is tried."""

    part: type[Part] = PersonalPart
    personal = True

    def answer_schema(self, schema: Schema) -> Schema:
        return without_head(schema)

    def kept_schema(self, schema: Schema) -> Schema:
        return trained_part("head", schema)

    def start(self, order: Weights, kept: Weights) -> Weights:
        return order | kept
