"""What a reservation in a device's ledger costs, and whether kill -9 can make it overspend or unreadable.

    python -m benchmarks.ledger [--trials 10000] [--cuts 10000] [--json]

A trial: processes that reserve a step, and take it only when `Ledger.write` has returned, work on one ledger
at once and are killed at random moments. Then the ledger must open, hold every step that was taken, and never
more than the budget.

A cut: the files of a ledger as a power cut in the middle of a reservation may leave them, each sector of what
was being written old, new or spoiled. Then the ledger must open, hold every step that was reserved before and
at most that one more, and take the next. TMPDIR says on which disk.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import platform
import random
import signal
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.errors import FedAudioError
from common.files import write_atomic
from fl_client.account import Account, Cost, Entry
from fl_client.ledger import Ledger
from fl_client.marks import MARKS

BUDGET, AT_ONCE = 500, 2
"""Steps that one ledger allows for, and processes that spend them."""

LONGEST = 1000
"""Reservations in a ledger that the power is cut of: so many that its log is copied and begins anew."""

SECTOR, HEADER = 512, 32
"""Bytes that a disk writes at once, and that a log begins with."""

ROUNDS = 300
KEY = bytes(32)
FILE, LOG, WITNESS = "ledger.db", "ledger.db-wal", "witness/ledger.json"
COST = Cost(unit="clip", noise_multiplier=1.0, sampling_rate=0.1, steps=1, delta=1e-5)
STEP = Entry(state="reserved", time=datetime.now(UTC), run="00" * 8, plan="ab" * 32, cost=COST)


@dataclass
class Trials:
    """What became of the trials, or of the cuts, so far.

    Args:
        taken: steps that were taken, in all.
        overspent: after which a ledger held more than it may, or less than was taken.
        unreadable: after which one did not open.
    """

    done: int = 0
    ledgers: int = 0
    taken: int = 0
    overspent: int = 0
    unreadable: int = 0


class Subject:
    """One ledger with a budget."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder, self._chance = folder, chance
        self.taken = 0

    def spent(self) -> int:
        """What is in it.

        Raises:
            FedAudioError: it cannot be read.
        """
        with ledger_in(self._folder) as ledger:
            return total(ledger.account())

    def kill_spenders(self, seconds: float) -> None:
        """Let `AT_ONCE` processes spend, and kill each in turn within `seconds`."""
        reading, writing = os.pipe()
        started = [self._start(writing) for _ in range(AT_ONCE)]
        os.close(writing)
        for process in started:
            time.sleep(self._chance.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
        for process in started:
            os.waitpid(process, 0)
        with os.fdopen(reading, "rb") as pipe:
            self.taken += len(pipe.read())

    def _start(self, pipe: int) -> int:
        process = os.fork()
        if process == 0:
            try:
                self._spend(pipe)
            finally:
                os._exit(0)
        return process

    def _spend(self, pipe: int) -> None:
        """Reserve and take steps as long as there are any; say so of each that is taken."""
        with ledger_in(self._folder) as ledger:
            while True:
                ledger.write(within_budget)
                os.write(pipe, b"S")


class PowerCuts:
    """One ledger, and what is on the disk before and after its last reservation."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder, self._chance, self.reserved = folder, chance, 0
        self._ledger = ledger_in(folder)
        self.reserve()

    def reserve(self) -> None:
        """One step more."""
        self._before = self._files()
        self._ledger.write(lambda account: STEP)
        self._after = self._files()
        self.reserved += 1

    @property
    def rare(self) -> bool:
        """Whether it copied the log into the file, or began the log anew."""
        before, after = self._before, self._after
        return before[FILE] != after[FILE] or before[LOG][:HEADER] != after[LOG][:HEADER]

    def cut(self, place: Path) -> None:
        """Leave in `place` what a power cut before the end of the last reservation may leave."""
        files = dict(self._before)
        if self._before[FILE] != self._after[FILE] and self._chance.random() < 0.5:
            # SQLite syncs its log before it copies it into the file.
            files[LOG] = self._after[LOG]
            files[FILE] = self._torn(FILE)
        else:
            # One that begins anew has its header synced before anything else.
            files[LOG] = self._after[LOG][:HEADER] + self._torn(LOG)[HEADER:]
        for name, data in files.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(data)

    def close(self) -> None:
        """Let go of the file."""
        self._ledger.close()

    def _torn(self, name: str) -> bytes:
        """Each sector as it was, as it was to be, or spoiled as far as it was written; perhaps no end."""
        old, new = self._before[name], self._after[name]
        torn, spoils = bytearray(new), self._chance.random() < 0.5
        for at in range(0, len(new), SECTOR):
            end = min(at + SECTOR, len(new))
            fate = self._chance.randrange(3 if spoils else 2)
            if old[at:end] == new[at:end] or fate == 0:
                continue
            # What lies before, in the same sector, was not touched.
            written = next(byte for byte in range(at, end) if old[byte : byte + 1] != new[byte : byte + 1])
            torn[written:end] = (
                old[written:end].ljust(end - written, b"\0")
                if fate == 1
                else self._chance.randbytes(end - written)
            )
        if len(new) > len(old) and self._chance.random() < 0.3:
            del torn[self._chance.randrange(len(old), len(new)) :]
        return bytes(torn)

    def _files(self) -> dict[str, bytes]:
        return {
            name: (self._folder / name).read_bytes() if (self._folder / name).exists() else b""
            for name in (FILE, LOG, WITNESS, MARKS)
        }


def ledger_in(folder: Path) -> Ledger:
    """The ledger in `folder`, with its witness beside it."""
    return Ledger(folder / FILE, folder / WITNESS, KEY)


def within_budget(account: Account) -> Entry:
    """One step more, if the budget has it."""
    if total(account) + COST.steps > BUDGET:
        os._exit(0)
    return STEP


def total(account: Account) -> int:
    """Steps in all."""
    return sum(steps.total() for steps in account.steps.values())


def run_trials(count: int, folder: Path, seed: int, seconds: float) -> Trials:
    """`count` trials in `folder`.

    Args:
        seconds: within which processes are killed: what it takes to open a ledger and reserve a little.
    """
    trials, chance, subject = Trials(), random.Random(seed), None
    for number in range(count):
        if subject is None:
            trials.ledgers += 1
            home = folder / str(trials.ledgers)
            home.mkdir()
            subject = Subject(home, chance)
        before = subject.taken
        subject.kill_spenders(seconds)
        trials.taken += subject.taken - before
        trials.done += 1
        try:
            spent = subject.spent()
        except FedAudioError as error:
            print(f"trial {number}: {error}")
            trials.unreadable += 1
            subject = None
            continue
        trials.overspent += not subject.taken <= spent <= BUDGET
        if spent >= BUDGET:
            subject = None
    return trials


def run_cuts(count: int, folder: Path, seed: int) -> Trials:
    """`count` power cuts, or a few more, of ledgers in `folder`."""
    cuts, chance = Trials(), random.Random(seed)
    while cuts.done < count:
        cuts.ledgers += 1
        home = folder / str(cuts.ledgers)
        home.mkdir()
        power = PowerCuts(home, chance)
        while power.reserved < LONGEST and cuts.done < count:
            power.reserve()
            cuts.taken += 1
            for _ in range(200 if power.rare else 4):
                with tempfile.TemporaryDirectory(dir=folder) as name:
                    cut_once(power, Path(name), cuts)
        power.close()
    return cuts


def cut_once(power: PowerCuts, place: Path, cuts: Trials) -> None:
    """Look at what is left in `place` after a power cut."""
    power.cut(place)
    cuts.done += 1
    try:
        with ledger_in(place) as ledger:
            found = total(ledger.account())
            ledger.write(lambda account: STEP)
        with ledger_in(place) as ledger:
            gone_on = total(ledger.account())
    except FedAudioError as error:
        print(f"cut {cuts.done}: {error}")
        cuts.unreadable += 1
        return
    cuts.overspent += not power.reserved - 1 <= found <= power.reserved or gone_on != found + 1


def bare(path: Path) -> Callable[[], object]:
    """One row into SQLite, in the same mode, and nothing else."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE lines (seq INTEGER PRIMARY KEY, text TEXT)")
    text = "x" * 300
    return lambda: database.execute("INSERT INTO lines (text) VALUES (?)", (text,))


def measure(folder: Path) -> dict[str, list[float]]:
    """Seconds of each call, the contenders in turn."""
    ledger = ledger_in(folder)
    calls: dict[str, Callable[[], object]] = {
        "bare commit": bare(folder / "bare.db"),
        "bare file, synced and renamed": lambda: write_atomic(folder / "file", bytes(160)),
        "reservation": lambda: ledger.write(lambda account: STEP),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    ledger.close()

    def opened() -> None:
        with ledger_in(folder) as again:
            again.account()

    times[f"open and check {ROUNDS} lines"] = []
    for _ in range(11):
        begin = time.perf_counter()
        opened()
        times[f"open and check {ROUNDS} lines"].append(time.perf_counter() - begin)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--cuts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        times = measure(Path(name))
    medians = {what: statistics.median(values) for what, values in times.items()}
    p95s = {what: sorted(values)[int(0.95 * len(values))] for what, values in times.items()}
    print(f"{'':34} {'median ms':>10} {'p95 ms':>8} {'x bare':>7}")
    for what, median in medians.items():
        ratio = median / medians["bare commit"]
        print(f"{what:34} {median * 1e3:10.2f} {p95s[what] * 1e3:8.2f} {ratio:7.2f}")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        trials = run_trials(options.trials, Path(name), options.seed, 2 * sum(p95s.values()))
    tell("kill -9", trials, time.monotonic() - begin)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        cuts = run_cuts(options.cuts, Path(name), options.seed)
    tell("power cuts", cuts, time.monotonic() - begin)
    if options.json:
        versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
        rows = {what: round(value * 1e3, 3) for what, value in medians.items()}
        found = {"trials": asdict(trials), "cuts": asdict(cuts)}
        print(json.dumps({"benchmark": "ledger", "versions": versions, "ms": rows, **found}))


def tell(what: str, trials: Trials, seconds: float) -> None:
    """One line of what became of them."""
    print(
        f"{what}: {trials.done} on {trials.ledgers} ledgers in {seconds:.0f} s, {trials.taken} steps taken; "
        f"{trials.overspent} wrong sums, {trials.unreadable} unreadable ledgers"
    )


if __name__ == "__main__":
    main()
