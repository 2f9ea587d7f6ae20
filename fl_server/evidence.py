"""The evidence: a log to which lines are only ever added, each holding the digest of the one before.

A line is JSON, {"seq", "time", "kind", facts..., "previous"}; its digest is the SHA-256 of its bytes. Whoever
changes, drops or moves a line breaks the chain behind it. What lies outside the chain holds it in place: the
file evidence.head, which is raised after every commit, and the signed manifests of releases, which name the
last line of their time (`fl_server.witnesses`). Against somebody who rewrites the database and all the files
beside it, only what is kept elsewhere stands: a head that was written down, or the manifest of a device.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from common.errors import CoordinatorError, FedAudioError
from common.files import StorageError, locked, write_atomic
from common.security.canonical import canonical, read_canonical
from common.settings import Settings
from fl_server.registry import EvidenceLine, RefusalNoted, Registry, after_commit, utc

log = logging.getLogger(__name__)

Kind = Literal[
    "fleet-created",
    "token-made",
    "token-withdrawn",
    "enrolled",
    "approved",
    "renewed",
    "rotated",
    "revoked",
    "refused",
    "round",
    "release",
    "rollout",
    "rollback",
    "keys-rotated",
    "insecure-start",
]

Fact: TypeAlias = "str | int | float | bool | Sequence[Fact] | Mapping[str, Fact] | None"

BEGINNING = "0" * 64
"""What the first line has for the digest of the one before it."""

HEAD = "evidence.head"

QUIET = timedelta(hours=1)
"""After a refusal was noted, the same refusal of the same device or token is not noted for so long."""


class Head(Settings):
    """How far the log has come."""

    seq: int = Field(ge=0)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Verified:
    """A log that is whole: how many lines it has, and the digest of the last."""

    entries: int
    head: str


def append(session: Session, kind: Kind, **facts: Fact) -> EvidenceLine:
    """Add a line in the caller's transaction: what it tells of and the line are there together or not at all.

    Args:
        session: of `Registry.session`.
        facts: by name, other than seq, time, kind and previous. Never a secret.

    Raises:
        StorageError: FA-8001.
    """
    last = _last(session)
    seq, previous = (last.seq + 1, last.digest) if last else (1, BEGINNING)
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields: dict[str, Fact] = {"seq": seq, "time": time, "kind": kind, **facts, "previous": previous}
    line = _encode(fields)
    entry = EvidenceLine(seq=seq, line=line, digest=_digest(line))
    session.add(entry)
    session.flush()
    after_commit(session)["evidence"] = partial(
        _raise_head, _beside_database(session), Head(seq=seq, digest=entry.digest)
    )
    return entry


def note_refusal(
    registry: Registry, subject: str, error: FedAudioError, now: datetime | None = None, **facts: Fact
) -> None:
    """Add a line about a refusal, unless there was one about the same within `QUIET`.

    Args:
        subject: whom it is about: id of a device or digest of a token that is known here, so that nobody can
            make up any number of them.
        facts: as for `append`.

    Raises:
        StorageError: FA-8001.
    """
    now = now or datetime.now(UTC)
    with registry.reading() as session:
        if _was_noted(session.get(RefusalNoted, (subject, error.code)), now):
            return
    with registry.session() as session:
        row = session.get(RefusalNoted, (subject, error.code))
        if _was_noted(row, now):
            return
        session.merge(RefusalNoted(subject=subject, code=error.code, noted=now))
        append(session, "refused", code=error.code, **facts)
    log.warning("refused: %s", error)


def _was_noted(row: RefusalNoted | None, now: datetime) -> bool:
    return row is not None and abs(now - utc(row.noted)) < QUIET


def head(registry: Registry) -> tuple[int, str]:
    """How many lines there are, and the digest of the last, for a release to name."""
    with registry.reading() as session:
        last = _last(session)
    return (last.seq, last.digest) if last else (0, BEGINNING)


def lines(registry: Registry) -> Iterator[str]:
    """All lines as they were written, in their order."""
    with registry.reading() as session:
        yield from session.scalars(
            select(EvidenceLine.line).order_by(EvidenceLine.seq).execution_options(yield_per=500)
        )


def verify(registry: Registry, head_path: Path) -> Verified:
    """Check the chain, and that it goes as far as evidence.head says. It may go further: see `_raise_head`.

    Args:
        head_path: evidence.head.

    Raises:
        CoordinatorError: FA-5055, naming the first line that was changed, is missing or was moved, and why.
    """
    # Read before the log: lines may be added meanwhile, and then the log is only longer.
    noted = _read_head(head_path)
    verified = _verify_chain(registry)
    if noted is None and verified.entries:
        raise broken(verified.entries, f"is not known to be the last: {head_path} is missing")
    if noted is not None:
        check_anchor(registry, noted.seq, noted.digest, head_path.name)
    return verified


def check_anchor(registry: Registry, entries: int, digest: str, who: str) -> None:
    """Return if the log had this `digest` when it had so many `entries`.

    Args:
        who: says so, in words.

    Raises:
        CoordinatorError: FA-5055, naming the line.
    """
    if entries == 0 and digest == BEGINNING:
        return
    with registry.reading() as session:
        line = session.get(EvidenceLine, entries)
        last = _last(session)
    if line is None:
        first = last.seq + 1 if last else 1
        which = f", as are all up to {entries}: {who} names that" if entries > first else f": {who} names it"
        raise broken(first, f"is missing{which}")
    if line.digest != digest:
        raise broken(entries, f"was changed, or one before it: {who} names another")


def _verify_chain(registry: Registry) -> Verified:
    entries, previous = 0, BEGINNING
    query = select(EvidenceLine.seq, EvidenceLine.line, EvidenceLine.digest).order_by(EvidenceLine.seq)
    with registry.reading() as session:
        for seq, line, digest in session.execute(query.execution_options(yield_per=500)):
            if seq != entries + 1:
                raise broken(entries + 1, "is missing")
            fields = _decode(line)
            if digest != _digest(line) or fields is None:
                raise broken(seq, "was changed: it is not what its digest is of")
            if fields.get("seq") != seq:
                raise broken(seq, f"was moved: it was written as line {fields.get('seq')}")
            if fields.get("previous") != previous:
                changed = seq - 1 or 1
                raise broken(changed, f"was changed: line {seq} was written after another one")
            entries, previous = seq, digest
    return Verified(entries, previous)


def _last(session: Session) -> EvidenceLine | None:
    return session.scalar(select(EvidenceLine).order_by(EvidenceLine.seq.desc()).limit(1))


def _encode(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, allow_nan=False, separators=(",", ":"))


def _decode(line: str) -> Mapping[str, object] | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    # Written anew it must be the same: so it has no key twice, and was not written by another hand.
    return fields if isinstance(fields, dict) and _encode(fields) == line else None


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _beside_database(session: Session) -> Path:
    return Path(str(session.get_bind().engine.url.database)).with_name(HEAD)


def _read_head(path: Path) -> Head | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    noted = read_canonical(Head, data)
    if isinstance(noted, str):
        raise contradicted(f"{path} is damaged: {noted}.")
    return noted


def _raise_head(path: Path, new: Head) -> None:
    """What the line tells of has happened, so nothing may fail here; the next line raises the head again."""
    try:
        with locked(path.with_suffix(".lock")):
            noted = _read_head(path)
            if noted is None or noted.seq < new.seq:
                write_atomic(path, canonical(new), mode=0o600)
    except CoordinatorError as error:
        log.error("%s", error)  # to write over it would hide it
    except (StorageError, OSError) as error:
        log.error("the head of the evidence stays behind at a line before %d: %s", new.seq, error)


def broken(seq: int, why: str) -> CoordinatorError:
    """The error of a line that is not as it was written."""
    return contradicted(f"Line {seq} of the evidence {why}.")


def contradicted(happened: str) -> CoordinatorError:
    """The error of evidence that does not agree with itself, or with what lies beside it."""
    return CoordinatorError(
        "FA-5055",
        happened,
        "Compare with a backup of coordinator.db; until it is explained, trust neither log nor machine.",
    )
