"""One order in the link: is it trusted, is it new, does the owner agree; then the work, then the answer.

Whatever comes of it, the answer is on the disk before it is sent; the same plan gets the same bytes again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from common.errors import DeviceError, FedAudioError, ProtocolError
from common.files import make_folder, read_if_there, sha256, write_atomic
from common.protocol.plan import Plan
from common.security.canonical import canonical
from common.security.envelope import LARGEST_OVERHEAD
from fl_client.account import Account, Entry
from fl_client.conditions import Conditions
from fl_client.home import DeviceHome
from fl_client.ledger import Ledger
from fl_client.marks import Marks, raise_marks
from fl_client.policy import load_policy
from fl_client.refusing import refuse
from fl_client.sealing import Outlet

log = logging.getLogger(__name__)

KEPT_ANSWERS = 4
KEPT_RUNS = 256
"""Runs whose rounds are remembered. Plans are good for a day at most, so an old one gets in again only if its
coordinator has begun so many within a day."""

NOTE_BYTES = 2048
"""More than the report in an answer ever has."""

Work = Callable[[bytes, bytes], bytes]
"""(body of a plan, bytes of weights) -> an answer, not sealed."""


class Answering:
    """Answers orders.

    Args:
        ledger: that rounds are counted in.
        work: what trains; it is asked only for plans that may be obeyed.
        conditions: of the machine.
    """

    def __init__(
        self,
        home: DeviceHome,
        outlet: Outlet,
        ledger: Ledger,
        work: Work,
        conditions: Callable[[], Conditions] = Conditions.now,
    ) -> None:
        self._home, self._outlet, self._ledger = home, outlet, ledger
        self._work, self._conditions = work, conditions

    def answer(self, data: bytes, weights: bytes) -> bytes:
        """What is to be sent back for a plan as received and the weights it came with.

        Raises:
            DeviceError: FA-4008, the marks are damaged: nothing can be sealed without a counter.
            StorageError: FA-8001, the disk does not take what must be on it first.
        """
        kept = self._home.answers / sha256(self._outlet.signer() + data)
        answer = read_if_there(kept)
        if answer is not None:
            log.info("a plan came again and gets the same answer")
            return answer
        try:
            plan = self._outlet.open(data)
            counter = self._take_on(plan)
        except (ProtocolError, DeviceError) as error:
            log.warning("a plan is not trusted: %s", error)
            return self._outlet.seal(refuse(error), data, None, self._next_counter())
        sealed = self._outlet.seal(self._outcome(plan, data, weights), data, plan, counter)
        self._keep(kept, sealed)
        return sealed

    def _outcome(self, plan: Plan, data: bytes, weights: bytes) -> bytes:
        try:
            if sha256(weights) != plan.base:
                raise ProtocolError(
                    "FA-3010", "The weights are not those the plan names.", "Send the order again."
                )
            self._agree(plan, len(data) + len(weights), len(weights))
            return self._work(canonical(plan), weights)
        except FedAudioError as error:
            log.warning("an order is refused: %s", error)
            return refuse(error)

    def _agree(self, plan: Plan, bytes_down: int, tensors: int) -> None:
        """Return if the owner's policy allows the work, which is counted then."""
        policy = load_policy(self._home.policy)
        largest = LARGEST_OVERHEAD + NOTE_BYTES + (tensors if plan.kind == "train" else 0)
        policy.check_plan(plan, bytes_down, largest)
        now = self._conditions()

        def count(account: Account) -> Entry | None:
            entry = Entry(
                state="round", time=now.time, run=plan.run, round=plan.round, plan=sha256(canonical(plan))
            )
            another = account.last != entry.name
            objection = next(policy.objections(now, account, another_round=another), None)
            if objection is not None:
                raise objection
            return None if account.counts(now.time.date(), entry.name) else entry

        self._ledger.write(count)

    def _take_on(self, plan: Plan) -> int:
        """Note that `plan` was taken on, whatever becomes of it, and return the counter for its answer.

        Raises:
            DeviceError: FA-4022, this plan or a later one was taken on before.
        """
        mark = 2 * plan.round + (plan.kind == "evaluate")

        def newer(marks: Marks) -> Marks:
            if mark <= marks.rounds.get(plan.run, -1):
                raise DeviceError(
                    "FA-4022",
                    f"The plan is for round {plan.round}, and this device was given that or a later one.",
                    "Send a new plan with a higher round; else somebody replays an old one.",
                )
            others = {run: known for run, known in marks.rounds.items() if run != plan.run}
            rounds = dict([*others.items()][1 - KEPT_RUNS :]) | {plan.run: mark}
            return marks.model_copy(update={"rounds": rounds, "counter": marks.counter + 1})

        return raise_marks(self._home.marks, newer).counter

    def _next_counter(self) -> int:
        return raise_marks(
            self._home.marks, lambda marks: marks.model_copy(update={"counter": marks.counter + 1})
        ).counter

    def _keep(self, path: Path, sealed: bytes) -> None:
        make_folder(path.parent, mode=0o700)
        write_atomic(path, sealed, mode=0o600)
        oldest_first = sorted(path.parent.glob("[0-9a-f]*"), key=lambda kept: kept.stat().st_mtime_ns)
        for old in oldest_first[:-KEPT_ANSWERS]:
            old.unlink(missing_ok=True)
