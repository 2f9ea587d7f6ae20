"""What a coordinator's folder tells about it, whether it runs or not."""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime
from typing import TypedDict

from common.protocol.answer import PrivacySpent
from common.protocol.release import Metrics
from fl_server.home import CoordinatorHome
from fl_server.registry import Registry, failures_of


class RoundStatus(TypedDict):
    """One round."""

    round: int
    state: str
    base: int
    version: int | None
    seconds: float
    overhead_seconds: float
    bytes_up: int
    bytes_down: int
    cohort: int
    participants: int
    failed: int
    loss: float | None
    failures: list[dict[str, str]]


class ModelStatus(TypedDict):
    """One version."""

    version: int
    parent: int | None
    created: str
    weights: str
    participants: int
    metrics: dict[str, float | None]
    privacy: PrivacySpent | None


class DeviceStatus(TypedDict):
    """One device that has contributed."""

    device: str
    rounds: int
    last: str


class Status(TypedDict):
    """All of it."""

    running: bool
    port: int | None
    online: int
    version: int | None
    rounds: list[RoundStatus]
    devices: list[DeviceStatus]


def is_running(home: CoordinatorHome) -> bool:
    """Whether a coordinator holds the folder's lock."""
    try:
        with home.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def describe(home: CoordinatorHome) -> Status:
    """The state of the coordinator in `home`."""
    registry = Registry(home.database)
    presence, newest = registry.presence(), registry.model()
    running = is_running(home)
    return Status(
        running=running,
        port=presence.port if presence and running else None,
        online=presence.online if presence and running else 0,
        version=newest.version if newest else None,
        rounds=[
            RoundStatus(
                round=row.round,
                state=row.state,
                base=row.base,
                version=row.version,
                seconds=row.seconds,
                overhead_seconds=row.overhead_seconds,
                bytes_up=row.bytes_up,
                bytes_down=row.bytes_down,
                cohort=row.cohort,
                participants=row.participants,
                failed=row.failed,
                loss=row.loss,
                failures=failures_of(row),
            )
            for row in registry.rounds()
        ],
        devices=[
            DeviceStatus(device=device, rounds=count, last=_iso(last))
            for device, count, last in registry.devices()
        ],
    )


def describe_models(home: CoordinatorHome) -> list[ModelStatus]:
    """Every version, oldest first."""
    return [
        ModelStatus(
            version=row.version,
            parent=row.parent,
            created=_iso(row.created),
            weights=row.weights,
            participants=row.participants,
            metrics=Metrics.model_validate_json(row.metrics).model_dump(),
            privacy=PrivacySpent.model_validate_json(row.privacy) if row.privacy else None,
        )
        for row in Registry(home.database).models()
    ]


def _iso(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat(timespec="seconds")
