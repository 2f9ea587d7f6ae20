"""Answering one order: the bytes of a plan and of weights in, the bytes of an answer out."""

from __future__ import annotations

import logging

import torch

from common.data.clips import Clips
from common.data.energy_cache import forget_older
from common.data.features import load_background, load_features
from common.data.splits import holdout_indices
from common.errors import DeviceError, FedAudioError, ProtocolError, TrainingError
from common.files import sha256
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.answer import Refusal, encode_answer, encode_refusal
from common.protocol.plan import parse_plan
from common.protocol.tensors import decode_weights, schema_of
from common.training.local import answer_plan
from fl_client.consent import check_plan
from fl_client.home import DeviceHome
from fl_client.settings import DeviceSettings

log = logging.getLogger(__name__)

KEPT_FRONT_ENDS = 2
"""Front ends and clip lengths whose energies stay on the disk; a device takes part in one task at a time."""

NO_CLIPS = "The device has no usable clips."
PUBLIC_REASONS = {
    "FA-1008": "The plan's mel bands are too narrow.",
    "FA-2001": NO_CLIPS,
    "FA-2002": NO_CLIPS,
    "FA-2007": NO_CLIPS,
    "FA-8001": "The device could not write to its disk.",
}
"""What the coordinator is told of errors whose own words name files, and so people."""


def answer_order(plan_data: bytes, weights_data: bytes, home: DeviceHome, settings: DeviceSettings) -> bytes:
    """Do what a plan asks with the clips in `home`; what cannot or must not be done is refused."""
    try:
        plan = parse_plan(plan_data)
        check_plan(plan, settings)
        if sha256(weights_data) != plan.base:
            raise ProtocolError(
                "FA-3010", "The weights are not those the plan names.", "Send the order again."
            )
        weights = decode_weights(
            weights_data, schema_of(get_weights(build_model(plan.task, torch.Generator())))
        )
        background = home.cache / "background"
        for cache in (home.cache, background):
            forget_older(cache, keep=KEPT_FRONT_ENDS)
        clips = Clips.load(home.clips)
        features = load_features(clips, plan.task, home.cache)
        for file, reason in features.skipped:
            log.warning("%s is not used: %s", file, reason)
        noise = load_background(home.clips, plan.task, background)
        held_out = holdout_indices(clips, plan.holdout)
        return encode_answer(*answer_plan(plan, weights, features, held_out, settings.name, noise=noise))
    except FedAudioError as error:
        log.warning("an order is refused: %s", error)
        return encode_refusal(Refusal(code=error.code, reason=public_reason(error)))


def public_reason(error: FedAudioError) -> str:
    """What the coordinator may know of why an order is refused; the rest is in the device's log."""
    if isinstance(error, ProtocolError | TrainingError | DeviceError):
        return error.happened[:500]
    return PUBLIC_REASONS.get(error.code, "The device's log says why.")
