"""What a reservation in a device's ledger costs, and whether kill -9 can make it overspend or unreadable.

    python -m benchmarks.ledger [--trials 10000] [--json]

A trial: processes that reserve a step, and take it only when `Ledger.write` has returned, work on one ledger
at once and are killed at random moments. After every second trial the end of SQLite's log, as far as it was
never promised to be on the disk, is torn off or overwritten as a power cut may do. Then the ledger must open,
hold every step that was taken, and never more than the budget. TMPDIR says on which disk.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import platform
import random
import re
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
from fl_client import ledger as ledger_module
from fl_client.account import Account, Cost, Entry
from fl_client.chain import Place
from fl_client.ledger import Ledger
from fl_client.witness import raise_witness

BUDGET, AT_ONCE = 500, 2
"""Steps that one ledger allows for, and processes that spend them."""

ROUNDS = 300
KEY = bytes(32)
COMMITTED, TAKEN = re.compile(rb"C(\d+);"), re.compile(rb"S;")
COST = Cost(unit="clip", noise_multiplier=1.0, sampling_rate=0.1, steps=1, delta=1e-5)


@dataclass
class Trials:
    """What became of the trials so far.

    Args:
        taken: steps that were taken, in all.
        torn: trials after which a part of the log was torn.
        overspent: trials after which a ledger held more than its budget, or less than was taken.
        unreadable: trials after which one did not open.
    """

    done: int = 0
    ledgers: int = 0
    taken: int = 0
    torn: int = 0
    overspent: int = 0
    unreadable: int = 0


class Subject:
    """One ledger with a budget."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._file, self._witness = folder / "ledger.db", folder / "witness" / "ledger.json"
        self._log, self._chance = folder / "ledger.db-wal", chance
        self.taken = 0

    def spent(self) -> int:
        """What is in it.

        Raises:
            FedAudioError: it cannot be read.
        """
        with self._ledger() as ledger:
            return total(ledger.account())

    def kill_spenders(self, seconds: float) -> bytes:
        """Let `AT_ONCE` processes spend, kill each in turn within `seconds`, and return what they said."""
        reading, writing = os.pipe()
        started = [self._start(writing) for _ in range(AT_ONCE)]
        os.close(writing)
        for process in started:
            time.sleep(self._chance.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
        for process in started:
            os.waitpid(process, 0)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        self.taken += len(TAKEN.findall(said))
        return said

    def tear(self, said: bytes) -> bool:
        """Spoil a random part of the log's end that no commit had promised; whether there was any."""
        promised = max((int(size) for size in COMMITTED.findall(said)), default=0)
        size = self._log.stat().st_size if self._log.exists() else 0
        if size <= promised:
            return False
        at = self._chance.randrange(promised, size)
        with self._log.open("r+b") as log:
            log.seek(at)
            if self._chance.random() < 0.5:
                log.truncate()
            else:
                log.write(self._chance.randbytes(size - at))
        return True

    def _ledger(self) -> Ledger:
        return Ledger(self._file, self._witness, KEY)

    def _start(self, pipe: int) -> int:
        process = os.fork()
        if process == 0:
            try:
                self._spend(pipe)
            finally:
                os._exit(0)
        return process

    def _spend(self, pipe: int) -> None:
        """Reserve and take steps as long as there are any; say so of each commit and of each step."""

        def committed(path: Path, key: bytes, place: Place) -> None:
            os.write(pipe, b"C%d;" % self._log.stat().st_size)
            real(path, key, place)

        real = raise_witness
        setattr(ledger_module, "raise_witness", committed)  # noqa: B010 - it is another module's import
        with self._ledger() as ledger:
            while True:
                ledger.write(reserve)
                os.write(pipe, b"S;")


def reserve(account: Account) -> Entry:
    """One step more, if the budget has it."""
    if total(account) + COST.steps > BUDGET:
        os._exit(0)
    return Entry(state="reserved", time=datetime.now(UTC), run="00" * 8, plan="ab" * 32, cost=COST)


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
        said = subject.kill_spenders(seconds)
        trials.taken += subject.taken - before
        trials.torn += number % 2 and subject.tear(said)
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
    ledger = Ledger(folder / "ledger.db", folder / "witness" / "ledger.json", KEY)
    entry = Entry(state="reserved", time=datetime.now(UTC), run="00" * 8, plan="ab" * 32, cost=COST)
    calls: dict[str, Callable[[], object]] = {
        "bare commit": bare(folder / "bare.db"),
        "bare file, synced and renamed": lambda: write_atomic(folder / "file", bytes(160)),
        "reservation": lambda: ledger.write(lambda account: entry),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    ledger.close()

    def opened() -> None:
        with Ledger(folder / "ledger.db", folder / "witness" / "ledger.json", KEY) as again:
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        times = measure(Path(name))
    medians = {what: statistics.median(values) for what, values in times.items()}
    print(f"{'':34} {'median ms':>10} {'p95 ms':>8} {'x bare':>7}")
    for what, values in times.items():
        p95 = sorted(values)[int(0.95 * len(values))]
        ratio = medians[what] / medians["bare commit"]
        print(f"{what:34} {medians[what] * 1e3:10.2f} {p95 * 1e3:8.2f} {ratio:7.2f}")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        trials = run_trials(options.trials, Path(name), options.seed, 2 * sum(medians.values()))
    print(
        f"{trials.done} trials on {trials.ledgers} ledgers in {time.monotonic() - begin:.0f} s: "
        f"{trials.taken} steps taken, {trials.torn} logs torn; "
        f"{trials.overspent} overspends, {trials.unreadable} unreadable ledgers"
    )
    if options.json:
        versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
        rows = {what: round(value * 1e3, 3) for what, value in medians.items()}
        print(json.dumps({"benchmark": "ledger", "versions": versions, "ms": rows, "trials": asdict(trials)}))


if __name__ == "__main__":
    main()
