"""Answering one order: the bytes of a plan and of weights in, the bytes of an answer out."""

from __future__ import annotations

import logging

import torch

from common.data.clips import Clips
from common.data.features import load_background, load_features
from common.data.splits import holdout_indices
from common.errors import FedAudioError, ProtocolError
from common.files import sha256
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.answer import Refusal, encode_answer, encode_refusal
from common.protocol.plan import parse_plan
from common.protocol.tensors import decode_weights, schema_of
from common.training.local import answer_plan
from fl_client.home import DeviceHome

log = logging.getLogger(__name__)


def answer_order(plan_data: bytes, weights_data: bytes, home: DeviceHome, device: str) -> bytes:
    """Do what a plan asks with the clips in `home`; what cannot be done is refused with its reason."""
    try:
        plan = parse_plan(plan_data)
        if sha256(weights_data) != plan.base:
            raise ProtocolError(
                "FA-3010", "The weights are not those the plan names.", "Send the order again."
            )
        weights = decode_weights(
            weights_data, schema_of(get_weights(build_model(plan.task, torch.Generator())))
        )
        clips = Clips.load(home.clips)
        features = load_features(clips, plan.task, home.cache)
        for file, reason in features.skipped:
            log.warning("%s is not used: %s", file, reason)
        noise = load_background(home.clips, plan.task, home.cache / "background")
        held_out = holdout_indices(clips, plan.holdout)
        return encode_answer(*answer_plan(plan, weights, features, held_out, device, noise=noise))
    except FedAudioError as error:
        log.warning("an order is refused: %s", error)
        return encode_refusal(Refusal(code=error.code, reason=error.happened[:500]))
