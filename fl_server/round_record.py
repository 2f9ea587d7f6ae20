"""What is written down of a round: while it runs, when it is over, and after a crash in the middle of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fl_server import evidence
from fl_server.registry import Registry
from fl_server.rounds import Collected
from fl_server.tables import Contribution, Device, Model, Order, Round, failures_of, utc

INTERRUPTED = "FA-5101"
"""Why a round is void that its coordinator did not live to end."""


def begin_round(registry: Registry, row: Round) -> None:
    """Write `row` before the first message goes out: its number is used up from here on.

    Raises:
        StorageError: FA-8001.
    """
    with registry.session() as session:
        session.add(row)


def note_exchange(registry: Registry, row: Round, collected: Collected) -> None:
    """Add to `row` what an exchange with the cohort cost; keep who took part in a training, and all counters.

    Raises:
        StorageError: FA-8001.
    """
    row.bytes_up += collected.bytes_up
    row.bytes_down += collected.bytes_down
    row.overhead_seconds -= collected.slowest_seconds
    failures = failures_of(row) + [asdict(failure) for failure in collected.failures]
    row.failed, row.failures = len(failures), json.dumps(failures)
    with registry.session() as session:
        _raise_counters(session, collected.counters)
        for part in collected.parts:
            if part.report.kind == "train":
                session.merge(
                    Contribution(
                        round=row.round,
                        device=part.device,
                        clips=part.report.clips,
                        skipped=part.report.skipped,
                        loss=part.report.loss,
                        seconds=part.report.seconds,
                        update=part.update,
                    )
                )


def finish_round(registry: Registry, row: Round) -> None:
    """Write down that the round is done, which counts for its order, or void, and say so in the evidence.

    In a void round nobody contributed to anything: only the evidence tells whose updates had come.

    Raises:
        StorageError: FA-8001.
    """
    with registry.session() as session:
        session.merge(row)
        evidence.append(session, "round", **_facts(session, row))
        if row.state == "void":
            session.execute(delete(Contribution).where(Contribution.round == row.round))
            return
        order = session.get_one(Order, row.order)
        order.done += 1
        if order.done >= order.rounds:
            order.state = "done"


def settle_interrupted(registry: Registry) -> None:
    """After a crash, a round that had released its version is done and any other is void.

    Raises:
        StorageError: FA-8001.
    """
    for row in registry.rounds():
        if row.state != "running":
            continue
        made = registry.model(row.base + 1)
        if made is not None and _was_made_by(row, made):
            row.state, row.version, row.participants = "done", made.version, made.participants
            finish_round(registry, row)
        else:
            row.state, row.code = "void", INTERRUPTED
            finish_round(registry, row)


def _was_made_by(row: Round, model: Model) -> bool:
    """Whether a version is the round's and not one that an operator released meanwhile."""
    return model.restores is None and utc(model.created) >= utc(row.started)


def _raise_counters(session: Session, counters: Mapping[str, int]) -> None:
    for device in session.scalars(select(Device).where(Device.id.in_(counters))):
        device.counter = max(device.counter, counters[device.id])


def _facts(session: Session, row: Round) -> dict[str, evidence.Fact]:
    parts = session.scalars(
        select(Contribution).where(Contribution.round == row.round).order_by(Contribution.device)
    )
    return {
        "round": row.round,
        "state": row.state,
        "code": row.code,
        "base": row.base,
        "version": row.version,
        "contributions": [{"device": part.device, "update": part.update} for part in parts],
        "refusals": [
            {"device": failure.get("device", ""), "code": failure["code"]} for failure in failures_of(row)
        ],
    }
