"""Answering one order in the worker: the body of a plan and weights in, the bytes of an answer out."""

from __future__ import annotations

import logging
from functools import lru_cache

from common.algorithms.registry import ALGORITHMS
from common.data.clips import Clips
from common.data.energy_cache import forget_older
from common.data.features import load_background, load_features
from common.data.splits import holdout_indices
from common.errors import FedAudioError
from common.protocol.answer import PrivacySpent, encode_answer
from common.protocol.plan import parse_plan
from common.protocol.tensors import decode_weights
from common.task import Task
from common.training.local import LocalTrainer
from fl_client.home import DeviceHome
from fl_client.kept import load_kept, save_kept
from fl_client.ledger import Ledger, change_ledger
from fl_client.policy import Policy, load_policy
from fl_client.refusing import refuse

log = logging.getLogger(__name__)

KEPT_FRONT_ENDS = 2
"""Front ends and clip lengths whose energies stay on the disk; a device takes part in one task at a time."""


def answer_order(plan_data: bytes, weights_data: bytes, home: DeviceHome, device: str) -> bytes:
    """Do what a plan asks with the clips in `home`; what cannot or must not be done is refused.

    Who signed the plan, and whether the owner agrees to it in general, was checked by whoever handed it over.

    Args:
        device: id of the device.
    """
    try:
        plan, policy = parse_plan(plan_data), load_policy(home.policy)
        algorithm, trainer = ALGORITHMS[plan.recipe.algorithm], _trainer(plan.task)
        order = decode_weights(weights_data, algorithm.order_schema(trainer.schema))
        background = home.cache / "background"
        for cache in (home.cache, background):
            forget_older(cache, keep=KEPT_FRONT_ENDS)
        clips = Clips.load(home.clips)
        features = load_features(clips, plan.task, home.cache)
        for file, reason in features.skipped:
            log.warning("%s is not used: %s", file, reason)
        private = plan.privacy is not None
        if plan.kind == "evaluate" or not private:
            change_ledger(home.ledger, Ledger.with_exact)
        done = trainer.answer(
            plan,
            order,
            features,
            holdout_indices(clips, plan.holdout),
            device,
            kept=load_kept(
                home.kept, plan.coordinator, algorithm.kept_schema(trainer.schema), private=private
            ),
            noise=load_background(home.clips, plan.task, background),
            before_spending=lambda cost: book(home, policy, cost),
        )
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


def book(home: DeviceHome, policy: Policy, cost: PrivacySpent) -> None:
    """Put the cost of a training into the ledger, on disk, if the owner agrees to it.

    Raises:
        DeviceError: FA-4033, FA-4034 it is too much, FA-4043 the ledger is damaged, FA-4045 it is full.
        StorageError: FA-8001.
    """

    def spend(ledger: Ledger) -> Ledger:
        policy.check_cost(ledger, cost)
        return ledger.with_cost(cost)

    change_ledger(home.ledger, spend)
