"""A ledger in the hands of Hypothesis: shared, crashed, opened again, put back. It never forgets."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from benchmarks.ledger import run_cuts, run_trials
from common.errors import DeviceError
from common.privacy.accounting import epsilon_of
from fl_client import ledger as ledger_module
from fl_client.account import Account, Cost, Entry
from fl_client.ledger import Ledger
from fl_client.policy import Policy
from tests.fl_client.power_cut import PowerCut

KEY, START = bytes(32), datetime(2026, 6, 1, 12, tzinfo=UTC)
POLICY = Policy(maximum_epsilon=4.0)
COSTS = [
    Cost(unit="clip", noise_multiplier=noise, sampling_rate=rate, steps=steps, delta=1e-5)
    for noise, rate, steps in ((1.0, 0.1, 20), (2.0, 0.1, 50), (0.7, 0.25, 1), (1.0, 1.0, 1))
]


class Device(RuleBasedStateMachine):
    """Two processes of one device. What its clips have truly told is `told`, which nothing can take back."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.home, self.copies = self.folder / "home", 0
        self.home.mkdir()
        self.told = Account()
        self.lines = 0
        self.processes: list[Ledger] = []

    @initialize()
    def starts(self) -> None:
        self.processes = [self.opened(), self.opened()]

    def teardown(self) -> None:
        self.close()
        shutil.rmtree(self.folder)

    def opened(self) -> Ledger:
        return Ledger(self.home / "ledger.db", self.folder / "elsewhere" / "witness", KEY)

    def close(self) -> None:
        for ledger in self.processes:
            ledger.close()

    def write(self, which: int, entry: Entry) -> bool:
        def agreed(account: Account) -> Entry:
            if entry.cost is not None:
                POLICY.check_cost(account, entry.cost)
            return entry

        try:
            self.processes[which].write(agreed)
        except DeviceError as error:
            if error.code != "FA-4034":
                raise
            return False
        self.told.add(entry)
        self.lines += 1
        return True

    @rule(which=st.integers(0, 1), cost=st.sampled_from(COSTS), ends=st.booleans())
    def trains(self, which: int, cost: Cost, ends: bool) -> None:
        if self.write(which, Entry(state="reserved", time=START, plan="ab" * 32, cost=cost)) and ends:
            self.write(which, Entry(state="spent", time=START, plan="ab" * 32))

    @rule(which=st.integers(0, 1), days=st.integers(0, 2), number=st.integers(0, 5))
    def takes_a_round_on(self, which: int, days: int, number: int) -> None:
        self.write(which, Entry(state="round", time=START + timedelta(days=days), run="r", round=number))

    @rule(which=st.integers(0, 1), cost=st.sampled_from(COSTS), after=st.booleans())
    def loses_its_power_at_the_line(self, which: int, cost: Cost, after: bool) -> None:
        """Before the line is promised to be there, or after that and before its witness is."""

        def cut(*_: object) -> None:
            raise PowerCut

        def decide(account: Account) -> Entry:
            POLICY.check_cost(account, cost)
            if not after:
                raise PowerCut
            return entry

        entry = Entry(state="reserved", time=START, cost=cost)
        real = ledger_module.raise_witness  # type: ignore[attr-defined]
        ledger_module.raise_witness = cut  # type: ignore[attr-defined]
        try:
            self.processes[which].write(decide)
        except PowerCut:
            if after:
                self.told.add(entry)
                self.lines += 1
        except DeviceError as error:
            if error.code != "FA-4034":
                raise
        finally:
            ledger_module.raise_witness = real  # type: ignore[attr-defined]
        self.starts_again()

    @rule()
    def starts_again(self) -> None:
        self.close()
        self.processes = [self.opened(), self.opened()]

    @rule()
    def is_copied(self) -> None:
        self.close()
        self.copies += 1
        shutil.copytree(self.home, self.folder / f"{self.copies:03}-{self.lines}")
        self.processes = [self.opened(), self.opened()]

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def is_put_back(self, data: st.DataObject) -> None:
        """Which is refused, unless nothing was written since but what a power cut kept from the witness."""
        copy = data.draw(st.sampled_from(sorted(path for path in self.folder.glob("*-*"))))
        self.close()
        newest = self.home.rename(self.folder / "newest")
        shutil.copytree(copy, self.home)
        lines = int(copy.name.split("-")[1])
        witnessed = self.opened()
        behind = lines < witnessed.witnessed
        if behind:
            with pytest.raises(DeviceError, match=r"FA-4062|FA-4043"):
                witnessed.account()
        witnessed.close()
        shutil.rmtree(self.home)
        newest.rename(self.home)
        self.processes = [self.opened(), self.opened()]

    @invariant()
    def knows_all_and_has_spent_no_more_than_it_may(self) -> None:
        for ledger in self.processes:
            account = ledger.account()
            assert account.steps == self.told.steps
            assert account.last == self.told.last
            assert len(ledger.entries()) == self.lines
        assert epsilon_of(self.told.steps.get("clip", {}), POLICY.delta) <= 4.0

    @invariant()
    def its_witness_is_one_line_behind_at_most(self) -> None:
        if self.processes:
            assert self.lines - 1 <= self.processes[0].witnessed <= self.lines


TestDevice = Device.TestCase
TestDevice.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)


def test_kill_9_at_random_points(tmp_path: Path) -> None:
    """`python -m benchmarks.ledger` does it ten thousand times."""
    trials = run_trials(25, tmp_path, seed=1, seconds=0.08)
    assert trials.done == 25
    assert trials.taken > 0
    assert (trials.overspent, trials.unreadable) == (0, 0)


def test_power_cuts_at_random_points(tmp_path: Path) -> None:
    cuts = run_cuts(100, tmp_path, seed=1)
    assert cuts.done >= 100
    assert (cuts.overspent, cuts.unreadable) == (0, 0)
