"""Saying no: what the coordinator may know of why an order is refused. The rest is in the device's log."""

from __future__ import annotations

from common.errors import DeviceError, FedAudioError, ProtocolError, TrainingError
from common.protocol.answer import Refusal, encode_refusal

NO_CLIPS = "The device has no usable clips."
UNKNOWN_COST = "The device does not know what it has spent."
PUBLIC_REASONS = {
    "FA-1008": "The plan's mel bands are too narrow.",
    "FA-2001": NO_CLIPS,
    "FA-2002": NO_CLIPS,
    "FA-2007": NO_CLIPS,
    "FA-4008": "The device does not know what it has seen.",
    "FA-4043": UNKNOWN_COST,
    "FA-4061": UNKNOWN_COST,
    "FA-4062": UNKNOWN_COST,
    "FA-4060": "The device keeps its budget for another unit of privacy.",
    "FA-4044": "The device has answered exactly before, and no epsilon bounds that.",
    "FA-6002": "The device's policy is damaged.",
    "FA-6003": "The device's policy is damaged.",
    "FA-7021": "The device does not know of some clips which unit they belong to.",
    "FA-8001": "The device could not write to its disk.",
}
"""What is said of errors whose own words name files, and so people, or what others have asked for."""


def refuse(error: FedAudioError) -> bytes:
    """`error` as an answer."""
    return encode_refusal(Refusal(code=error.code, reason=public_reason(error)))


def public_reason(error: FedAudioError) -> str:
    """What the coordinator is told."""
    said = PUBLIC_REASONS.get(error.code)
    if said is None and isinstance(error, ProtocolError | TrainingError | DeviceError):
        said = error.happened[:500]
    return said or "The device's log says why."
