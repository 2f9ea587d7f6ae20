"""What one order is written into the ledger as: before its clips are used, and after."""

from __future__ import annotations

from datetime import datetime

from common.data.clips import Clips
from common.files import sha256
from common.protocol.answer import PrivacySpent
from common.protocol.plan import Plan
from fl_client.account import Account, Cost, Entry, State
from fl_client.ledger import Ledger
from fl_client.policy import Policy


class Books:
    """The ledger, for one order.

    Args:
        policy: what the owner agrees to spend.
        digest: SHA-256 of the plan's body.
        clips: all that the device has.
    """

    def __init__(self, ledger: Ledger, policy: Policy, plan: Plan, digest: str, clips: Clips) -> None:
        self._ledger, self._policy, self._plan, self._digest = ledger, policy, plan, digest
        names = sorted(f"{clip.label}/{clip.path.name}" for clip in clips)
        self._clips = sha256("\n".join(names).encode())
        self._reserved: Cost | None = None

    def note_exact(self) -> None:
        """An exact answer is going to be made.

        Raises:
            DeviceError: FA-4043.
            StorageError: FA-8001.
        """
        self._ledger.write(lambda account: self._entry("exact"))

    def reserve(self, spent: PrivacySpent) -> None:
        """The first noisy step is going to be taken, if the owner agrees to the cost of them all.

        Raises:
            DeviceError: FA-4033, FA-4034 it is too much, FA-4045 there are too many different costs, FA-4043.
            StorageError: FA-8001.
        """
        cost = Cost(
            unit=spent.unit,
            noise_multiplier=spent.noise_multiplier,
            sampling_rate=spent.sampling_rate,
            steps=spent.steps,
            delta=spent.delta,
        )

        def agreed(account: Account) -> Entry:
            self._policy.check_cost(account, cost)
            return self._entry("reserved", cost)

        self._ledger.write(agreed)
        self._reserved = cost

    def settle(self) -> None:
        """The last step was taken. That changes nothing of what is spent; it shows that it was not in vain.

        Raises:
            DeviceError: FA-4043.
            StorageError: FA-8001.
        """
        if self._reserved is not None:
            self._ledger.write(lambda account: self._entry("spent"))

    def _entry(self, state: State, cost: Cost | None = None) -> Entry:
        return Entry(
            state=state,
            time=datetime.now().astimezone(),
            run=self._plan.run,
            round=self._plan.round,
            plan=self._digest,
            clips=self._clips,
            cost=cost,
        )
