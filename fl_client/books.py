"""What one order is written into the ledger as: before its clips are used, and after."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from common.data.clips import Clips
from common.files import sha256
from common.protocol.answer import PrivacySpent
from common.protocol.plan import Plan
from fl_client.account import Account, Cost, Entry, State
from fl_client.ledger import Ledger
from fl_client.policy import Policy, load_policy


class Books:
    """The ledger, for one order.

    Args:
        policy: file of what the owner agrees to. It is read again at the last moment: clips may take long to
            load, and privacy that was asked for meanwhile must be given.
        before: what the owner agreed to when the order came, which holds too: a file that is being written
            anew may say nothing for a moment.
        digest: SHA-256 of the plan's body.
        clips: all that the device has.
    """

    def __init__(
        self, ledger: Ledger, policy: Path, before: Policy, plan: Plan, digest: str, clips: Clips
    ) -> None:
        self._ledger, self._policy, self._plan, self._digest = ledger, policy, plan, digest
        self._before = before
        names = sorted(f"{clip.label}/{clip.path.name}" for clip in clips)
        self._clips = sha256("\n".join(names).encode())
        self._reserved: Cost | None = None

    def note_exact(self) -> None:
        """An exact answer is going to be made, if the owner agrees to one.

        Raises:
            DeviceError: FA-4006 the owner insists on privacy, FA-4043.
            ConfigError: FA-6002, FA-6003, the policy.
            StorageError: FA-8001.
        """

        def agreed(account: Account) -> Entry:
            for policy in (self._before, load_policy(self._policy)):
                policy.check_privacy(self._plan)
            return self._entry("exact")

        self._ledger.write(agreed)

    def reserve(self, spent: PrivacySpent) -> None:
        """The first noisy step is going to be taken, if the owner agrees to the cost of them all.

        Raises:
            DeviceError: FA-4006 it is too little privacy, FA-4033, FA-4034, FA-4044, FA-4045, FA-4060 it
                costs more than the owner gives, FA-4043.
            ConfigError: FA-6002, FA-6003, the policy.
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
            for policy in (self._before, load_policy(self._policy)):
                policy.check_privacy(self._plan)
                policy.check_cost(account, cost)
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
