"""The tables of coordinator.db. Times are in UTC, and come back without their zone: see `utc`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from sqlalchemy import DDL, event
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column


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
    signed: Mapped[bool] = mapped_column(default=True)
    rollout: Mapped[float] = mapped_column(default=100.0)  # per cent of the devices that are given it
    restores: Mapped[int | None] = mapped_column(default=None)  # the version a rollback went back to


class Device(Base):
    """One device that was ever enrolled."""

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    state: Mapped[str]  # pending, active, revoked
    identity: Mapped[str] = mapped_column(index=True)  # raw Ed25519 key, hexadecimal
    node_key: Mapped[str] = mapped_column(index=True)  # PEM
    token: Mapped[str]  # SHA-256 of the token it came with, hexadecimal
    enrolled: Mapped[datetime]
    certificate: Mapped[str] = mapped_column(default="")  # PEM; empty while pending
    expires: Mapped[datetime | None] = mapped_column(default=None)
    # The certificate before the last renewal: its serial number, and the identity it was renewed with.
    previous_serial: Mapped[str | None] = mapped_column(default=None)
    previous_identity: Mapped[str | None] = mapped_column(default=None)
    counter: Mapped[int] = mapped_column(default=0)  # of the newest envelope that was accepted
    revoked: Mapped[datetime | None] = mapped_column(default=None)
    reason: Mapped[str | None] = mapped_column(default=None)


class DeviceKey(Base):
    """A public key that a device has, or once had: none is ever taken from another, or taken back."""

    __tablename__ = "device_keys"
    key: Mapped[str] = mapped_column(primary_key=True)  # raw identity, or SHA-256 of a node key; hexadecimal
    device: Mapped[str] = mapped_column(index=True)
    added: Mapped[datetime]


class Token(Base):
    """Leave to enrol. The token itself is not kept."""

    __tablename__ = "tokens"
    digest: Mapped[str] = mapped_column(primary_key=True)  # SHA-256, hexadecimal
    created: Mapped[datetime]
    expires: Mapped[datetime]
    uses: Mapped[int]  # that are left


class TokenUse(Base):
    """A token that was used, and by whom: the same request once more is no second use."""

    __tablename__ = "token_uses"
    token: Mapped[str] = mapped_column(primary_key=True)
    identity: Mapped[str] = mapped_column(primary_key=True)


class RefusalNoted(Base):
    """When a refusal was last noted in the evidence, so that nobody can fill it by asking again."""

    __tablename__ = "refusals_noted"
    subject: Mapped[str] = mapped_column(primary_key=True)  # id of a device, or digest of a token
    code: Mapped[str] = mapped_column(primary_key=True)
    noted: Mapped[datetime]


class EvidenceLine(Base):
    """One line of the log that is only ever added to; see `fl_server.evidence`."""

    __tablename__ = "evidence"
    seq: Mapped[int] = mapped_column(primary_key=True)
    line: Mapped[str]
    digest: Mapped[str]


_OUT_OF_LINE = "new.seq != (SELECT coalesce(max(seq), 0) + 1 FROM evidence)"
for _change, _when in (("update", "true"), ("delete", "true"), ("insert", _OUT_OF_LINE)):
    _refuse = DDL(  # type: ignore[no-untyped-call]
        f"CREATE TRIGGER evidence_no_{_change} BEFORE {_change} ON evidence WHEN {_when} "
        "BEGIN SELECT RAISE(ABORT, 'evidence is only ever added to'); END"
    )
    event.listen(EvidenceLine.__table__, "after_create", _refuse)


class Round(Base):
    """One round, from its first message on."""

    __tablename__ = "rounds"
    round: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int]
    base: Mapped[int]
    state: Mapped[str]  # running, done, void
    started: Mapped[datetime]
    version: Mapped[int | None] = mapped_column(default=None)
    code: Mapped[str | None] = mapped_column(default=None)  # why it is void
    happened: Mapped[str | None] = mapped_column(default=None)
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
    update: Mapped[str] = mapped_column(default="")  # SHA-256 of the envelope, hexadecimal


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


def utc(moment: datetime) -> datetime:
    """A time as SQLite gives it back, without its zone, in UTC again."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def failures_of(row: Round) -> list[dict[str, str]]:
    """Who failed in a round and why: [{"who", "code", "reason"}]."""
    failures: list[dict[str, str]] = json.loads(row.failures)
    return failures
