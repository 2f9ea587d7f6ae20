"""The coordinator's life: hold the front up, take orders, run rounds, release. Crash-only."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import IO

from common.data.clips import Clips
from common.errors import CoordinatorError, FedAudioError
from common.files import StorageError, make_folder
from common.privacy.accounting import compose
from common.protocol.answer import PrivacySpent, Report
from common.protocol.release import Metrics, Release
from fl_server.app import hold_fleet
from fl_server.fleet import Fleet, FleetLostError
from fl_server.front_process import FrontProcess
from fl_server.home import CoordinatorHome
from fl_server.registry import Contribution, Order, Registry, Round, failures_of
from fl_server.rounds import Collected, draw_cohort, evaluate_cohort, make_plan, train_cohort
from fl_server.server_optimizer import ServerOptimizer
from fl_server.settings import ServerSettings
from fl_server.validation import Validation
from fl_server.versions import Versions

log = logging.getLogger(__name__)

TRIES = 3
"""Void rounds in a row after which an order is given up."""

FRONT_MEMORY = 2 << 30
"""Flower never forgets what devices were sent and did not fetch, so now and then its process must go."""

LOCK_TRIES = 20
"""Over a second, for whoever asks whether a coordinator runs holds the lock for a moment."""


class Coordinator:
    """Owns a coordinator's folder while it runs."""

    def __init__(self, home: CoordinatorHome, settings: ServerSettings) -> None:
        self._home = home
        self._settings = settings
        self._registry = Registry(home.database)
        make_folder(home.releases)
        self._versions = Versions(home, settings, self._registry)
        self._validation = (
            Validation(Clips.load(settings.validation), settings.task, home.root / "cache")
            if settings.validation
            else None
        )
        self._port = settings.port
        self._voids = 0
        self._noted: tuple[int, int] | None = None

    def serve(self, stop: threading.Event, rounds: int | None = None) -> None:
        """Serve until `stop`; with `rounds`, order so many first, unless an earlier order is still open.

        Raises:
            CoordinatorError: FA-5002, FA-5003, FA-5008, FA-5012, FA-5013.
        """
        with self._alone():
            self._versions.repair()
            self._settle_interrupted()
            self._check_task(self._versions.current())
            if rounds is not None:
                self._order(rounds)
            while not stop.is_set():
                # A port that was drawn is kept: devices know no other.
                settings = self._settings.model_copy(update={"port": self._port})
                with FrontProcess(self._home, settings) as front:
                    self._port = front.port
                    log.info("listening on %s:%d", self._settings.host, front.port)
                    try:
                        with hold_fleet(front.private_address, front.secret) as fleet:
                            self._take_orders(fleet, front, stop)
                    except FleetLostError as error:
                        log.warning("the front is gone, starting another: %s", error)
                        stop.wait(1.0)

    def _take_orders(self, fleet: Fleet, front: FrontProcess, stop: threading.Event) -> None:
        """Run rounds while there are orders, until `stop` or until the front has grown too large."""
        while not stop.is_set():
            self._note_presence(fleet)
            if front.memory() > FRONT_MEMORY:
                log.info("the front keeps what silent devices did not fetch; starting another")
                return
            order = self._registry.open_order()
            if order is None:
                stop.wait(0.5)
                continue
            try:
                if not self._wait_for_devices(fleet, stop):
                    return
                self._run_round(fleet, order)
                self._voids = 0
            except StorageError:
                raise
            except FedAudioError as error:
                self._count_void(order, error, final=error.code != "FA-5004")
            except FleetLostError:
                lost = "The front was lost in the middle of a round."
                self._count_void(order, CoordinatorError("FA-5014", lost, "Read the log."), final=False)
                raise

    def _count_void(self, order: Order, error: FedAudioError, *, final: bool) -> None:
        self._voids += 1
        log.warning("%s", error)
        if final or self._voids >= TRIES:
            self._fail(order, error)
            self._voids = 0

    def _order(self, rounds: int) -> None:
        if (earlier := self._registry.open_order()) is None:
            self._registry.place_order(rounds)
        else:
            log.info("an earlier order has %d rounds left; they come first", earlier.rounds - earlier.done)

    def _check_task(self, newest: Release) -> None:
        """Refuse to go on with a model that was made for another task; only the trigger may change.

        Raises:
            CoordinatorError: FA-5012.
        """
        ours, its = self._settings.task, newest.manifest.task
        if ours.model_copy(update={"trigger": its.trigger}) != its:
            raise CoordinatorError(
                "FA-5012",
                f"The task in server.toml is not that of version {newest.version}.",
                "Undo the change, or start anew in another folder with --home.",
            )

    def _note_presence(self, fleet: Fleet) -> int:
        online = len(fleet.online())
        if (self._port, online) != self._noted:
            self._registry.note_presence(os.getpid(), self._port, online)
            self._noted = (self._port, online)
        return online

    def _wait_for_devices(self, fleet: Fleet, stop: threading.Event) -> bool:
        """Wait for the smallest number of devices; False if asked to stop.

        Raises:
            CoordinatorError: FA-5001 they did not come in time.
        """
        wanted, patience = self._settings.rounds.min_devices, self._settings.rounds.wait_seconds
        deadline = time.monotonic() + patience
        while (online := self._note_presence(fleet)) < wanted:
            if time.monotonic() > deadline:
                raise CoordinatorError(
                    "FA-5001",
                    f"{online} of {wanted} devices came within {patience:.0f} s.",
                    "Start devices with `fedaudio client start`, or lower rounds.min_devices in server.toml.",
                )
            if stop.wait(0.2):
                return False
        return True

    def _run_round(self, fleet: Fleet, order: Order) -> None:
        """Hold one round and release its result; if anything goes wrong it is void and its number used up."""
        started = time.monotonic()
        number, base = self._registry.next_round(), self._versions.current()
        cohort = draw_cohort(fleet.online(), self._settings.rounds.cohort, self._settings.seed, number)
        row = Round(
            round=number,
            order=order.id,
            base=base.version,
            state="running",
            started=datetime.now(UTC),
            cohort=len(cohort),
        )
        self._save(row)
        try:
            self._train_and_release(fleet, row, base, cohort)
            row.state = "done"
        except BaseException:
            row.state = "void"
            raise
        finally:
            row.seconds = time.monotonic() - started
            row.overhead_seconds += row.seconds
            self._save(row)
        log.info(
            "round %d: version %s, %d devices, %.1f s", number, row.version, row.participants, row.seconds
        )

    def _train_and_release(self, fleet: Fleet, row: Round, base: Release, cohort: list[int]) -> None:
        settings, schema = self._settings, base.manifest.schema_
        data = self._versions.weights_bytes(base.version)
        plan = make_plan(settings, self._registry.run_name(), row.round, data)
        trained = Collected()
        try:
            mean_delta = train_cohort(
                fleet, settings, plan, data, schema, cohort, trained, partial(self._book, row.round)
            )
        finally:
            _describe(row, trained)
        self._note_contributions(row.round, trained)

        optimizer = ServerOptimizer(base.weights, settings.optimizer)
        if memory := self._versions.optimizer_memory(base.version):
            optimizer.recall(memory)
        candidate = optimizer.step(mean_delta)

        metrics = Metrics()
        if settings.devices_evaluate:
            evaluated = Collected()
            metrics = evaluate_cohort(fleet, plan, candidate, schema, trained.nodes, evaluated)
            _describe(row, evaluated)
        if self._validation:
            own = self._validation.metrics(candidate)
            metrics = metrics.model_copy(update=own.model_dump(exclude_none=True))

        row.participants = len(trained.reports)
        if settings.privacy is None:  # devices keep their loss to themselves otherwise
            row.loss = sum(report.loss for report in trained.reports) / len(trained.reports)
        row.version = self._versions.publish(
            candidate,
            base,
            metrics=metrics,
            participants=row.participants,
            privacy=self._largest_spending(base),
            optimizer_memory=optimizer.memory(),
        )

    def _note_contributions(self, number: int, trained: Collected) -> None:
        with self._registry.session() as session:
            for report in trained.reports:
                session.merge(
                    Contribution(
                        round=number,
                        device=report.device,
                        clips=report.clips,
                        skipped=report.skipped,
                        loss=report.loss,
                        seconds=report.seconds,
                    )
                )

    def _book(self, number: int, report: Report) -> None:
        if report.privacy is not None:
            self._registry.note_spending(number, report.device, report.privacy)

    def _largest_spending(self, base: Release) -> PrivacySpent | None:
        """What the device that has spent most has spent over all rounds, by composition.

        Nothing is said of a model one of whose ancestors was trained without privacy.
        """
        if self._settings.privacy is None:
            return None
        if base.version > 0 and base.manifest.privacy is None:
            log.warning("version %d was not trained privately, so no epsilon is stated", base.version)
            return None
        delta = self._settings.privacy.delta
        totals = [compose(spent, delta) for spent in self._registry.spendings().values()]
        return max(totals, key=lambda total: total.epsilon, default=None)

    def _save(self, row: Round) -> None:
        """Write `row`; when it is done it counts for its order."""
        with self._registry.session() as session:
            session.merge(row)
            if row.state == "done":
                order = session.get_one(Order, row.order)
                order.done += 1
                if order.done >= order.rounds:
                    order.state = "done"

    def _settle_interrupted(self) -> None:
        """After a crash, a round that had released its version is done and any other is void."""
        newest = self._registry.model()
        for row in self._registry.rounds():
            if row.state != "running":
                continue
            if newest is not None and newest.version > row.base:
                row.state, row.version, row.participants = "done", newest.version, newest.participants
            else:
                row.state = "void"
            self._save(row)

    def _fail(self, order: Order, error: FedAudioError) -> None:
        with self._registry.session() as session:
            current = session.get_one(Order, order.id)
            current.state = "failed"
            current.code, current.happened, current.remedy = error.code, error.happened, error.remedy

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock; the system lets go of it when the process dies, however it dies."""
        with self._home.lock.open("w") as file:
            if not any(_locks(file) for _ in range(LOCK_TRIES)):
                raise CoordinatorError(
                    "FA-5003",
                    f"Another coordinator is running on {self._home.root}.",
                    "Use it, stop it, or give this one another folder with --home.",
                )
            yield


def _locks(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.05)
        return False
    return True


def _describe(row: Round, collected: Collected) -> None:
    """Add what one exchange with the cohort cost to its round."""
    row.bytes_up += collected.bytes_up
    row.bytes_down += collected.bytes_down
    row.overhead_seconds -= collected.slowest_seconds
    failures = failures_of(row) + [asdict(failure) for failure in collected.failures]
    row.failed, row.failures = len(failures), json.dumps(failures)
