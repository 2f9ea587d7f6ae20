"""What the coordinator must not forget: devices, versions, rounds, orders, who contributed. SQLite, WAL.

The coordinator, its front and the command line write to one database. A transaction that may write takes the
write lock at its beginning, so what it read is still so when it writes.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, delete, event, func, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from common.errors import CoordinatorError
from common.files import StorageError, make_folder
from common.log import printable
from common.protocol.answer import PrivacySpent
from fl_server.tables import (
    Base,
    Contribution,
    Device,
    DeviceKey,
    EvidenceLine,
    Identity,
    Model,
    Order,
    Presence,
    RefusalNoted,
    Round,
    Spending,
    Token,
    TokenUse,
    failures_of,
    utc,
)

__all__ = [
    "Contribution",
    "Device",
    "DeviceKey",
    "EvidenceLine",
    "Identity",
    "Model",
    "Order",
    "Presence",
    "RefusalNoted",
    "Registry",
    "Round",
    "Spending",
    "Token",
    "TokenUse",
    "after_commit",
    "failures_of",
    "utc",
]

SHORTEST_ID = 4
"""Digits of an id that an operator must type."""

LOCK_SECONDS = 30.0
"""Longest wait for another process's transaction; they take milliseconds."""

_OPEN_ORDER = select(Order).where(Order.state == "open").order_by(Order.id).limit(1)


class Registry:
    """The coordinator's database.

    Args:
        path: coordinator.db; made if it is not there.

    Raises:
        StorageError: FA-8001, the folder is full, read-only or missing.
        CoordinatorError: FA-5040, the database is of another version of fedaudio.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self.path = path
        self._engine: Engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": LOCK_SECONDS})
        event.listen(self._engine, "connect", _use_wal)
        event.listen(self._engine, "begin", _begin)
        # Threads wait for each other here, in turn; SQLite would have each try again after a while.
        self._turn = threading.RLock()
        self._for_reading = self._engine.execution_options(reading=True)
        with self._guarded():
            self._check_tables()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end, rolled back on error.

        What is in `after_commit(session)` is called once it is on the disk.
        """
        with self._guarded(), Session(self._engine, expire_on_commit=False) as session:
            with self._turn, session.begin():
                yield session
            for act in after_commit(session).values():
                act()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one state of the database and waits for no writer."""
        with self._guarded(), Session(self._for_reading, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StorageError(
                "FA-8001",
                f"{self.path} could not be used: {getattr(error, 'orig', None) or type(error).__name__}.",
                "Free some space or make the folder writable, then try again.",
            ) from error

    def _check_tables(self) -> None:
        """Make the tables that are missing; whoever finds them all there waits for no writer."""
        if Base.metadata.tables.keys() - set(inspect(self._for_reading).get_table_names()):
            Base.metadata.create_all(self._engine)
        there = inspect(self._for_reading)
        for name, table in Base.metadata.tables.items():
            columns = {column["name"] for column in there.get_columns(name)}
            if missing := [column.name for column in table.columns if column.name not in columns]:
                raise CoordinatorError(
                    "FA-5040",
                    f"{self.path} has no column {name}.{missing[0]}; another version of fedaudio made it.",
                    "Use that version, or start anew in another folder with --home.",
                )

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def run_name(self) -> str:
        """The run's name, drawn at its first use."""
        with self.session() as session:
            identity = session.scalar(select(Identity))
            if identity is None:
                identity = Identity(run=secrets.token_hex(8))
                session.add(identity)
            return identity.run

    def models(self) -> Sequence[Model]:
        """All versions, oldest first."""
        with self.reading() as session:
            return session.scalars(select(Model).order_by(Model.version)).all()

    def model(self, version: int | None = None) -> Model | None:
        """One version, by default the newest."""
        with self.reading() as session:
            if version is not None:
                return session.get(Model, version)
            return session.scalar(select(Model).order_by(Model.version.desc()).limit(1))

    def rounds(self, order: int | None = None) -> Sequence[Round]:
        """All rounds, or those of one order, oldest first."""
        query = select(Round).order_by(Round.round)
        with self.reading() as session:
            return session.scalars(query if order is None else query.where(Round.order == order)).all()

    def next_round(self) -> int:
        """Round numbers only ever grow, also over rounds that came to nothing."""
        with self.reading() as session:
            return (session.scalar(select(func.max(Round.round))) or 0) + 1

    def open_order(self) -> Order | None:
        """The oldest order that still has rounds to run."""
        with self.reading() as session:
            return session.scalar(_OPEN_ORDER)

    def order(self, number: int) -> Order:
        """One order."""
        with self.reading() as session:
            return session.get_one(Order, number)

    def place_order(self, rounds: int) -> Order:
        """Ask for `rounds` rounds.

        Raises:
            CoordinatorError: FA-5006 there is an open order already.
        """
        with self.session() as session:
            if session.scalar(_OPEN_ORDER) is not None:
                raise CoordinatorError(
                    "FA-5006",
                    "The coordinator is already training.",
                    "Wait for it (`fedaudio server status`), then ask again.",
                )
            order = Order(rounds=rounds, created=datetime.now(UTC))
            session.add(order)
        return order

    def note_spending(self, number: int, device: str, privacy: PrivacySpent) -> None:
        """Book what `device` spent in round `number`."""
        with self.session() as session:
            session.add(Spending(round=number, device=device, privacy=privacy.model_dump_json()))

    def spendings(self) -> dict[str, list[PrivacySpent]]:
        """All that every device has spent so far."""
        spent: dict[str, list[PrivacySpent]] = {}
        with self.reading() as session:
            for row in session.scalars(select(Spending).order_by(Spending.id)):
                spent.setdefault(row.device, []).append(PrivacySpent.model_validate_json(row.privacy))
        return spent

    def contributors(self) -> dict[str, tuple[int, datetime]]:
        """Rounds contributed to and the time of the last, by device, for every device that ever did."""
        query = (
            select(Contribution.device, func.count(), func.max(Round.started))
            .join(Round, Round.round == Contribution.round)
            .group_by(Contribution.device)
            .order_by(Contribution.device)
        )
        with self.reading() as session:
            return {device: (count, last) for device, count, last in session.execute(query)}

    def devices(self) -> Sequence[Device]:
        """All devices that were ever enrolled, in the order of their enrolment."""
        with self.reading() as session:
            return session.scalars(select(Device).order_by(Device.enrolled, Device.id)).all()

    def active_devices(self) -> int:
        """How many devices may take part, whether or not they are online."""
        query = select(func.count()).where(Device.state == "active", Device.expires >= datetime.now(UTC))
        with self.reading() as session:
            return session.scalar(query) or 0

    def device(self, device: str) -> Device | None:
        """The device with this id, whatever its state."""
        with self.reading() as session:
            return session.get(Device, device)

    def device_named(self, text: str) -> Device:
        """The device that an operator means by `text`: its id, the beginning of it (4 digits), or its name.

        Devices choose their names, so a name never goes before the beginning of another's id.

        Raises:
            CoordinatorError: FA-5050 there is none, FA-5057 there is more than one.
        """
        text = printable(text)  # what a shell passes on may be no Unicode
        with self.reading() as session:
            whole = session.get(Device, text)
            named = session.scalars(select(Device).where(Device.name == text)).all()
            begun = session.scalars(select(Device).where(Device.id.startswith(text, autoescape=True))).all()
        if whole:
            return whole
        # Only a name that was freed by a revocation is there twice; the one that has it now is meant.
        meant = [one for one in named if one.state != "revoked"] or list(named)
        meant += begun if len(text) >= SHORTEST_ID else []
        found = {device.id: device for device in meant}
        if len(found) == 1:
            return found.popitem()[1]
        if found:
            raise CoordinatorError(
                "FA-5057",
                f"More than one device is called {text[:80]!r}: {', '.join(sorted(found)[:4])}.",
                "Name the one that you mean by its whole id; see `fedaudio server devices list --json`.",
            )
        raise CoordinatorError(
            "FA-5050",
            f"No device is called {text[:80]!r}.",
            "See `fedaudio server devices list` for their ids.",
        )

    def active_device(self, device: str, now: datetime | None = None) -> Device:
        """The device with this id, if it may take part now.

        Raises:
            CoordinatorError: FA-5050 unknown, FA-5053 not yet approved, FA-5048 revoked, FA-5052 its
                certificate has expired.
        """
        row = self.device(device)
        if row is None:
            raise unknown()
        if row.state == "revoked":
            raise revoked(row)
        if row.state != "active" or row.expires is None:
            raise pending(row)
        if utc(row.expires) < (now or datetime.now(UTC)):
            raise expired(row)
        return row

    def was_used(self) -> bool:
        """Whether a token was ever made or a device enrolled."""
        with self.reading() as session:
            return any(session.scalar(select(table).limit(1)) is not None for table in (Token, Device))

    def note_presence(self, pid: int, port: int, online: int) -> None:
        """Say that the coordinator lives and how many devices it sees."""
        with self.session() as session:
            session.merge(Presence(id=1, pid=pid, port=port, seen=datetime.now(UTC), online=online))

    def note_absence(self) -> None:
        """Take back what was said last."""
        with self.session() as session:
            session.execute(delete(Presence))

    def presence(self) -> Presence | None:
        """The last word of the coordinator about itself."""
        with self.reading() as session:
            return session.get(Presence, 1)


def after_commit(session: Session) -> dict[str, Callable[[], None]]:
    """What is to be done by name when this transaction has been committed."""
    acts: dict[str, Callable[[], None]] = session.info.setdefault("after_commit", {})
    return acts


def revoked(device: Device) -> CoordinatorError:
    """The refusal of a device that was put out."""
    return CoordinatorError(
        "FA-5048",
        f"The device {device.name} ({device.id[:8]}) was revoked.",
        "If that was a mistake, ask the operator for a new invitation and enrol in another folder.",
    )


def pending(device: Device) -> CoordinatorError:
    """The refusal of a device that was not let in yet."""
    return CoordinatorError(
        "FA-5053",
        f"The device {device.name} ({device.id[:8]}) waits for approval.",
        f"The operator approves it: fedaudio server devices approve {device.name}",
    )


def expired(device: Device) -> CoordinatorError:
    """The refusal of a device that did not renew its certificate in time."""
    return CoordinatorError(
        "FA-5052",
        f"The certificate of the device {device.name} ({device.id[:8]}) has expired.",
        "Ask the operator for a new invitation, and enrol again: fedaudio client enroll",
    )


def unknown() -> CoordinatorError:
    """The refusal of a device that never enrolled here."""
    return CoordinatorError(
        "FA-5050", "This device is not enrolled here.", "Enrol it: fedaudio client enroll"
    )


def _use_wal(connection: object, record: object) -> None:
    # SQLAlchemy begins transactions, with `_begin`; sqlite3 would begin them only at the first write.
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
