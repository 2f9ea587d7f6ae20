"""What the coordinator must not forget: versions, rounds, orders to train, who contributed. SQLite, WAL."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from common.errors import CoordinatorError
from common.files import StorageError, make_folder
from common.protocol.answer import PrivacySpent


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """Tables of coordinator.db."""


class Identity(Base):
    """One row: the name of this federation's run."""

    __tablename__ = "identity"
    run: Mapped[str] = mapped_column(primary_key=True)


class Model(Base):
    """One version. The row is written after its folder, and makes it official."""

    __tablename__ = "models"
    version: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int | None]
    created: Mapped[datetime]
    weights: Mapped[str]
    metrics: Mapped[str]
    participants: Mapped[int]
    privacy: Mapped[str | None] = mapped_column(default=None)


class Round(Base):
    """One round, from its first message on."""

    __tablename__ = "rounds"
    round: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int]
    base: Mapped[int]
    state: Mapped[str]  # running, done, void
    started: Mapped[datetime]
    version: Mapped[int | None] = mapped_column(default=None)
    seconds: Mapped[float] = mapped_column(default=0.0)
    overhead_seconds: Mapped[float] = mapped_column(default=0.0)
    bytes_up: Mapped[int] = mapped_column(default=0)
    bytes_down: Mapped[int] = mapped_column(default=0)
    cohort: Mapped[int] = mapped_column(default=0)
    participants: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    loss: Mapped[float | None] = mapped_column(default=None)
    failures: Mapped[str] = mapped_column(default="[]")


class Order(Base):
    """A wish to train a number of rounds; it outlives the process that took it."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    rounds: Mapped[int]
    created: Mapped[datetime]
    done: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(default="open")  # open, done, failed
    code: Mapped[str | None] = mapped_column(default=None)
    happened: Mapped[str | None] = mapped_column(default=None)
    remedy: Mapped[str | None] = mapped_column(default=None)


class Contribution(Base):
    """One device's accepted part in one round."""

    __tablename__ = "contributions"
    round: Mapped[int] = mapped_column(primary_key=True)
    device: Mapped[str] = mapped_column(primary_key=True)
    clips: Mapped[int]
    skipped: Mapped[int]
    loss: Mapped[float]
    seconds: Mapped[float]


class Spending(Base):
    """Privacy one device spent in one exchange, whether or not its update was of any use."""

    __tablename__ = "spendings"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    round: Mapped[int]
    device: Mapped[str]
    privacy: Mapped[str]


class Presence(Base):
    """One row: what the coordinator last saw of itself and its fleet."""

    __tablename__ = "presence"
    id: Mapped[int] = mapped_column(primary_key=True)
    pid: Mapped[int]
    port: Mapped[int]
    seen: Mapped[datetime]
    online: Mapped[int]


class Registry:
    """The coordinator's database.

    Args:
        path: coordinator.db; made if it is not there.

    Raises:
        StorageError: FA-8001, the folder is full, read-only or missing.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._engine: Engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10})
        event.listen(self._engine, "connect", _use_wal)
        self._path = path
        with self._guarded():
            Base.metadata.create_all(self._engine)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: committed at the end, rolled back on error."""
        with self._guarded(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StorageError(
                "FA-8001",
                f"{self._path} could not be used: {getattr(error, 'orig', None) or error}.",
                "Free some space or make the folder writable, then try again.",
            ) from error

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
        with self.session() as session:
            return session.scalars(select(Model).order_by(Model.version)).all()

    def model(self, version: int | None = None) -> Model | None:
        """One version, by default the newest."""
        with self.session() as session:
            if version is not None:
                return session.get(Model, version)
            return session.scalar(select(Model).order_by(Model.version.desc()).limit(1))

    def rounds(self, order: int | None = None) -> Sequence[Round]:
        """All rounds, or those of one order, oldest first."""
        query = select(Round).order_by(Round.round)
        with self.session() as session:
            return session.scalars(query if order is None else query.where(Round.order == order)).all()

    def next_round(self) -> int:
        """Round numbers only ever grow, also over rounds that came to nothing."""
        with self.session() as session:
            return (session.scalar(select(func.max(Round.round))) or 0) + 1

    def open_order(self) -> Order | None:
        """The oldest order that still has rounds to run."""
        with self.session() as session:
            return session.scalar(select(Order).where(Order.state == "open").order_by(Order.id).limit(1))

    def order(self, number: int) -> Order:
        """One order."""
        with self.session() as session:
            return session.get_one(Order, number)

    def place_order(self, rounds: int) -> Order:
        """Ask for `rounds` rounds.

        Raises:
            CoordinatorError: FA-5006 there is an open order already.
        """
        if self.open_order() is not None:
            raise CoordinatorError(
                "FA-5006",
                "The coordinator is already training.",
                "Wait for it (`fedaudio server status`), then ask again.",
            )
        with self.session() as session:
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
        with self.session() as session:
            for row in session.scalars(select(Spending).order_by(Spending.id)):
                spent.setdefault(row.device, []).append(PrivacySpent.model_validate_json(row.privacy))
        return spent

    def devices(self) -> list[tuple[str, int, datetime]]:
        """(device, rounds contributed to, time of the last) for every device that ever did."""
        query = (
            select(Contribution.device, func.count(), func.max(Round.started))
            .join(Round, Round.round == Contribution.round)
            .group_by(Contribution.device)
            .order_by(Contribution.device)
        )
        with self.session() as session:
            return [(device, count, last) for device, count, last in session.execute(query)]

    def note_presence(self, pid: int, port: int, online: int) -> None:
        """Say that the coordinator lives and how many devices it sees."""
        with self.session() as session:
            session.merge(Presence(id=1, pid=pid, port=port, seen=datetime.now(UTC), online=online))

    def presence(self) -> Presence | None:
        """The last word of the coordinator about itself."""
        with self.session() as session:
            return session.get(Presence, 1)


def failures_of(row: Round) -> list[dict[str, str]]:
    """Who failed in a round and why: [{"who", "code", "reason"}]."""
    failures: list[dict[str, str]] = json.loads(row.failures)
    return failures


def _use_wal(connection: object, record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
