"""Answering one order in the worker: the body of a plan and weights in, the bytes of an answer out."""

from __future__ import annotations

import logging
from functools import lru_cache

from common.algorithms.registry import ALGORITHMS
from common.data.clips import Clips
from common.data.energy_cache import forget_gone, forget_older
from common.data.features import load_background, load_features
from common.data.splits import holdout_indices
from common.errors import FedAudioError
from common.files import locked, sha256
from common.protocol.answer import encode_answer
from common.protocol.plan import parse_plan
from common.protocol.tensors import decode_weights
from common.task import Task
from common.training.local import LocalTrainer
from fl_client.books import Books
from fl_client.home import DeviceHome
from fl_client.kept import load_kept, save_kept
from fl_client.ledger import Ledger
from fl_client.material import labelled_clips, self_labelled_clips
from fl_client.policy import load_policy
from fl_client.refusing import refuse

log = logging.getLogger(__name__)

KEPT_FRONT_ENDS = 2
"""Front ends and clip lengths whose energies stay on the disk; a device takes part in one task at a time."""


def answer_order(
    plan_data: bytes, weights_data: bytes, home: DeviceHome, device: str, ledger: Ledger
) -> bytes:
    """Do what a plan asks with the clips in `home`; what cannot or must not be done is refused.

    Who signed the plan, and whether the owner agrees to it in general, was checked by whoever handed it over.

    Args:
        device: id of the device.
        ledger: that is told of all that its clips are used for, before they are.
    """
    try:
        plan, policy = parse_plan(plan_data), load_policy(home.policy)
        algorithm, trainer = ALGORITHMS[plan.recipe.algorithm], _trainer(plan.task)
        order = decode_weights(weights_data, algorithm.order_schema(trainer.schema))
        background = home.cache / "background"
        # Else the features of a clip that is deleted now could be stored after those of all clips were.
        with locked(home.clips_lock):
            for cache in (home.cache, background):
                forget_older(cache, keep=KEPT_FRONT_ENDS)
            labelled = labelled_clips(home, plan)
            clips = Clips([*labelled, *self_labelled_clips(home, plan, labelled)])
            features = load_features(clips, plan.task, home.cache)
            noise = load_background(home.clips, plan.task, background)
            # Only now: what could be taken over from them was.
            for cache in (home.cache, background):
                forget_gone(cache)
        for file, reason in features.skipped:
            log.warning("%s is not used: %s", file, reason)
        private = plan.privacy is not None
        books = Books(ledger, home.policy, policy, plan, sha256(plan_data), clips)
        if plan.kind == "evaluate" or not private:
            books.note_exact()
        done = trainer.answer(
            plan,
            order,
            features,
            holdout_indices(labelled, plan.holdout),
            device,
            kept=load_kept(
                home.kept, plan.coordinator, algorithm.kept_schema(trainer.schema), private=private
            ),
            noise=noise,
            before_spending=books.reserve,
        )
        books.settle()
        if plan.kind == "train":
            # Before the answer exists: the coordinator must never know of more than the device remembers.
            save_kept(home.kept, plan.coordinator, done.kept, private=private)
        return encode_answer(done.report, done.answer)
    except FedAudioError as error:
        log.warning("an order is refused: %s", error)
        return refuse(error)


@lru_cache(maxsize=1)
def _trainer(task: Task) -> LocalTrainer:
    """The one of the last task: a worker stays for more than one order."""
    return LocalTrainer(task)
