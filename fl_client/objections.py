"""What the owner's policy says at this moment, for work that has begun and for downloads."""

from __future__ import annotations

from dataclasses import replace

from common.errors import FedAudioError
from fl_client.conditions import Conditions, share_of_one
from fl_client.home import DeviceHome
from fl_client.ledger import Ledger
from fl_client.policy import load_policy


def standing_objection(home: DeviceHome, ledger: Ledger) -> FedAudioError | None:
    """Why the work that was agreed to must end now; None if it may go on. Its round is counted already."""
    now = Conditions.now()
    if now.load is not None:
        # The worker itself is one busy process, and no reason to end it.
        now = replace(now, load=max(0.0, now.load - share_of_one()))
    try:
        return next(load_policy(home.policy).objections(now, ledger.account(), another_round=False), None)
    except FedAudioError as error:
        return error


def download_objection(home: DeviceHome) -> FedAudioError | None:
    """Why no release may be downloaded now; None if one may."""
    try:
        return next(load_policy(home.policy).objections_to_a_download(Conditions.now()), None)
    except FedAudioError as error:
        return error
