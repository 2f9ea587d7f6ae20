"""The coordinator's life: hold the front up, take orders, run rounds, release. Crash-only."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

from common.data.clips import Clips
from common.data.features import load_features
from common.errors import CoordinatorError, FedAudioError
from common.files import StorageError, locked, make_folder
from common.privacy.accounting import compose
from common.protocol.answer import PrivacySpent, Report
from common.protocol.plan import sign_plan
from common.protocol.release import Metrics, Release
from common.protocol.tensors import Schema, Weights, encode_weights, schema_of
from common.security.canonical import canonical
from fl_server import evidence
from fl_server.alone import alone
from fl_server.app import hold_fleet
from fl_server.candidate import train_candidate, try_on_devices
from fl_server.fleet import Fleet, FleetLostError, Kind
from fl_server.front_process import FrontProcess
from fl_server.home import CoordinatorHome
from fl_server.intake import BareIntake, SealedIntake
from fl_server.keyring import ServerKeys
from fl_server.memory import decode_memory, made_by
from fl_server.own_clips import OwnClips
from fl_server.registry import Registry
from fl_server.release_gate import REFUSALS
from fl_server.round_record import INTERRUPTED, begin_round, finish_round, note_exchange, settle_interrupted
from fl_server.rounds import Collected, Exchange, draw_cohort, make_plan
from fl_server.rules.registry import withstands_nobody
from fl_server.senders import Senders
from fl_server.settings import ServerSettings
from fl_server.tables import Order, Round
from fl_server.versions import Versions

log = logging.getLogger(__name__)

TRIES = 3
"""Void rounds in a row after which an order is given up."""

TRY_AGAIN = {"FA-5004", "FA-5114", "FA-5115", *REFUSALS}
"""What makes a round void and may not happen again in the next: too few answers, and what attackers do."""

NOBODYS_FAULT = {"FA-5034", "FA-5100"}
"""What makes a round void and says nothing against its order: a rollback or a revocation meanwhile."""

FRONT_MEMORY = 2 << 30
"""Flower never forgets what devices were sent and did not fetch, so now and then its process must go."""


class Coordinator:
    """Owns a coordinator's folder while it runs.

    Args:
        password: of the key folder, as `fl_server.keyring.unlock` returns it.
        insecure: no TLS, no signatures on plans and answers, no proof of who a node is; on this machine only.

    Raises:
        ConfigError, CoordinatorError, ProtocolError: as `ServerKeys.load`.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        settings: ServerSettings,
        password: bytes | None = None,
        insecure: bool = False,
    ) -> None:
        self._home = home
        self._settings = settings
        self._password, self._insecure = password, insecure
        self._registry = Registry(home.database)
        self._senders = Senders(self._registry)
        make_folder(home.releases)
        self._load_keys()
        clips = settings.validation and Clips.load(settings.validation)
        features = load_features(clips, settings.task, home.root / "cache") if clips else None
        self._own_clips = OwnClips(settings, features)
        self._port = settings.port
        self._voids = 0
        self._unguarded = False
        self._noted: tuple[int, int] | None = None

    def serve(self, stop: threading.Event, rounds: int | None = None) -> None:
        """Serve until `stop`; with `rounds`, order so many first, unless an earlier order is still open.

        Raises:
            CoordinatorError: FA-5002, FA-5003, FA-5008, FA-5012, FA-5013.
        """
        opened = self._home.open_lock
        with alone(self._home):
            self._versions.repair()
            settle_interrupted(self._registry)
            self._check_task(self._versions.current())
            if self._insecure:
                with self._registry.session() as session:
                    evidence.append(session, "insecure-start")
            if rounds is not None:
                self._order(rounds)
            while not stop.is_set():
                self._load_keys()
                # A port that was drawn is kept: devices know no other.
                settings = self._settings.model_copy(update={"port": self._port})
                with FrontProcess(self._home, settings, self._password, self._insecure) as front:
                    self._port = front.port
                    log.info("listening on %s:%d", self._settings.host, front.port)
                    self._note_absence()  # what was noted last was of another front
                    try:
                        with hold_fleet(front.private_address, front.secret) as fleet, locked(opened):
                            self._take_orders(fleet, front, stop)
                    except FleetLostError as error:
                        log.warning("the front is gone, starting another: %s", error)
                        stop.wait(1.0)

    def _load_keys(self) -> None:
        self._keys_stamp = self._stamp_keys()
        self._keys = ServerKeys.load(self._home, self._password)
        self._versions = Versions(self._home, self._settings, self._registry, self._keys)

    def _stamp_keys(self) -> tuple[int, int] | None:
        """Changes with every rotation: whichever keys it replaces, the trust statement is replaced last."""
        try:
            status = self._home.trust.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _take_orders(self, fleet: Fleet, front: FrontProcess, stop: threading.Event) -> None:
        """Run rounds while there are orders, until `stop` or until there is reason to start another front."""
        while not stop.is_set():
            self._note_presence(self._members(fleet))
            if front.memory() > FRONT_MEMORY:
                log.info("the front keeps what silent devices did not fetch; starting another")
                return
            if self._stamp_keys() != self._keys_stamp:
                log.info("keys were rotated; starting another front")
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
                self._count_void(order, error, final=error.code not in TRY_AGAIN)
            except FleetLostError:
                lost = "The front was lost in the middle of a round."
                self._count_void(order, CoordinatorError("FA-5014", lost, "Read the log."), final=False)
                raise
            except Exception as error:
                # Whatever a device has sent: it must cost a round, and not the coordinator.
                log.exception("a round has failed")
                what = f"The round failed in a way that nobody foresaw ({type(error).__name__})."
                defect = CoordinatorError("FA-5102", what, "Read the log, and report a defect.")
                self._count_void(order, defect, final=False)

    def _count_void(self, order: Order, error: FedAudioError, *, final: bool) -> None:
        log.warning("%s", error)
        if error.code in NOBODYS_FAULT:
            return
        self._voids += 1
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

    def _members(self, fleet: Fleet) -> Mapping[int, str]:
        """Nodes that may be asked: those of enrolled devices, or all, where none can prove who it is."""
        online = fleet.online()
        if self._insecure:
            return online
        return {node: device for node, device in online.items() if self._senders.may_take_part(device)}

    def _note_presence(self, members: Mapping[int, str]) -> None:
        if (self._port, len(members)) != self._noted:
            self._registry.note_presence(os.getpid(), self._port, len(members))
            self._noted = (self._port, len(members))

    def _note_absence(self) -> None:
        self._registry.note_absence()
        self._noted = None

    def _wait_for_devices(self, fleet: Fleet, stop: threading.Event) -> bool:
        """Wait for the smallest number of devices; False if asked to stop.

        Raises:
            CoordinatorError: FA-5001 they did not come in time.
        """
        wanted, patience = self._settings.rounds.min_devices, self._settings.rounds.wait_seconds
        deadline = time.monotonic() + patience
        while len(members := self._members(fleet)) < wanted:
            self._note_presence(members)
            if time.monotonic() > deadline:
                raise CoordinatorError(
                    "FA-5001",
                    f"{len(members)} of {wanted} devices came within {patience:.0f} s.",
                    "Start devices with `fedaudio client start`, or lower rounds.min_devices in server.toml.",
                )
            if stop.wait(0.2):
                return False
        self._note_presence(members)
        return True

    def _note_attackers(self, cohort: int) -> None:
        """Say that the rule protects from nobody, when that begins, and when it ends."""
        unguarded = withstands_nobody(self._settings.aggregation, cohort)
        if unguarded and not self._unguarded:
            log.warning(
                "%d devices are so few that aggregation.attackers = %g is less than one: nothing but norm "
                "clipping and the gate protects from attackers",
                cohort,
                self._settings.aggregation.attackers,
            )
        elif self._unguarded and not unguarded:
            log.info("%d devices are enough for the rule to withstand attackers", cohort)
        self._unguarded = unguarded

    def _run_round(self, fleet: Fleet, order: Order) -> None:
        """Hold one round and release its result; if anything goes wrong it is void and its number used up."""
        started = time.monotonic()
        number, base = self._registry.next_round(), self._versions.current()
        cohort = draw_cohort(self._members(fleet), self._settings.rounds.cohort, self._settings.seed, number)
        row = Round(
            round=number,
            order=order.id,
            base=base.version,
            state="running",
            started=datetime.now(UTC),
            cohort=len(cohort),
        )
        begin_round(self._registry, row)
        self._note_attackers(len(cohort))
        try:
            self._train_and_release(fleet, row, base, cohort)
            row.state = "done"
        except BaseException as error:
            row.state, row.code = "void", _code_of(error)
            row.happened = error.happened if isinstance(error, FedAudioError) else None
            raise
        finally:
            row.seconds = time.monotonic() - started
            row.overhead_seconds += row.seconds
            finish_round(self._registry, row)
        log.info(
            "round %d: version %s, %d devices, %.1f s", number, row.version, row.participants, row.seconds
        )

    def _train_and_release(self, fleet: Fleet, row: Round, base: Release, cohort: Mapping[int, str]) -> None:
        settings, trained = self._settings, Collected()
        draft = partial(self._exchange, row.round)
        made = made_by(settings.recipe, settings.optimizer, schema_of(base.weights))
        memory = decode_memory(self._versions.memory(base.version), made)
        try:
            candidate = train_candidate(
                fleet,
                settings,
                base.weights,
                memory,
                cohort,
                enrolled=self._registry.active_devices(),
                draft=draft,
                collected=trained,
                book=partial(self._book, row.round),
                reference=self._own_clips.reference(base.weights, memory, row.round),
            )
        finally:
            note_exchange(self._registry, row, trained)
        self._check_not_revoked(row, trained)
        # Before anybody else is asked about it: a poisoned candidate never leaves this machine.
        self._own_clips.check(candidate.weights, base.weights, memory)

        metrics = Metrics()
        if settings.devices_evaluate:
            evaluated = Collected()
            try:
                metrics = try_on_devices(
                    fleet, settings, candidate, trained.nodes, draft=draft, collected=evaluated
                )
            finally:
                note_exchange(self._registry, row, evaluated)
        own = self._own_clips.metrics(candidate.weights)
        metrics = metrics.model_copy(update=own.model_dump(exclude_none=True))

        row.participants = len(trained.parts)
        if settings.privacy is None:  # devices keep their loss to themselves otherwise
            row.loss = sum(report.loss for report in trained.reports) / len(trained.parts)
        row.version = self._versions.publish(
            candidate.weights,
            base,
            metrics=metrics,
            participants=row.participants,
            privacy=self._largest_spending(base),
            memory=candidate.memory.encode(),
            check=partial(self._check_not_revoked, row, trained),
        )

    def _exchange(
        self, number: int, kind: Kind, order: Weights, schema: Schema, cohort: Mapping[int, str]
    ) -> Exchange:
        """A plan for `cohort`, signed now, and who takes the answers to it in; see `Draft`."""
        keys, key, weights = self._keys, self._keys.opening, encode_weights(order)
        plan = make_plan(
            self._settings,
            kind,
            number,
            weights,
            coordinator=keys.coordinator,
            run=self._registry.run_name(),
            cohort=len(cohort),
            recipient=key.public.id.hex(),
        )
        signed = canonical(plan) if self._insecure else sign_plan(plan, keys.plan)
        intake = (
            BareIntake(self._senders, plan, schema)
            if self._insecure
            else SealedIntake(self._senders, key, plan, signed, schema)
        )
        return Exchange(plan, signed, weights, schema, cohort, intake, self._senders.name)

    def _check_not_revoked(self, row: Round, trained: Collected) -> None:
        """Return if all whose updates are in the sum may still be in it: one cannot be taken out again.

        Raises:
            CoordinatorError: FA-5100.
        """
        for part in trained.parts:
            if self._senders.is_revoked(part.device):
                name = self._senders.name(part.device)
                raise CoordinatorError(
                    "FA-5100",
                    f"The device {name} was revoked while its update was in round {row.round}.",
                    "Nothing is to be done: the round is void and is held again without it.",
                )

    def _book(self, number: int, report: Report) -> None:
        if report.privacy is not None:
            self._registry.note_spending(number, report.device, report.privacy)

    def _largest_spending(self, base: Release) -> PrivacySpent | None:
        """What the device that has spent most has spent over all rounds, by composition.

        Nothing is said of a model one of whose ancestors was trained without privacy, nor of trainings whose
        epsilons protect different units.
        """
        if self._settings.privacy is None:
            return None
        if base.version > 0 and base.manifest.privacy is None:
            log.warning("version %d was not trained privately, so no epsilon is stated", base.version)
            return None
        spendings = self._registry.spendings().values()
        if len({one.unit for spent in spendings for one in spent}) > 1:
            log.warning("rounds have protected different units, so no epsilon is stated")
            return None
        totals = [compose(spent, self._settings.privacy.delta) for spent in spendings]
        return max(totals, key=lambda total: total.epsilon, default=None)

    def _fail(self, order: Order, error: FedAudioError) -> None:
        with self._registry.session() as session:
            current = session.get_one(Order, order.id)
            current.state = "failed"
            current.code, current.happened, current.remedy = error.code, error.happened, error.remedy


def _code_of(error: BaseException) -> str:
    """What the evidence says of why a round is void."""
    if isinstance(error, FedAudioError):
        return error.code
    return "FA-5014" if isinstance(error, FleetLostError) else INTERRUPTED
