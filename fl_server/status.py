"""What a coordinator's folder tells about it, whether it runs or not."""

from __future__ import annotations

import fcntl
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from fl_server.home import CoordinatorHome
from fl_server.registry import Registry, failures_of, utc


class RoundStatus(TypedDict):
    """One round. A failure is {"who", "name", "code", "reason"}; `code` and `happened` say why it is void."""

    round: int
    state: str
    base: int
    version: int | None
    code: str | None
    happened: str | None
    seconds: float
    overhead_seconds: float
    bytes_up: int
    bytes_down: int
    cohort: int
    participants: int
    failed: int
    loss: float | None
    failures: list[dict[str, str]]


class DeviceStatus(TypedDict):
    """One device that ever enrolled. `rounds` are those it contributed to, `last` the time of the last."""

    id: str
    name: str
    state: str
    enrolled: str
    expires: str | None
    revoked: str | None
    reason: str | None
    rounds: int
    last: str | None


class Status(TypedDict):
    """All of it. `running` means that devices can reach it."""

    running: bool
    port: int | None
    online: int
    version: int | None
    rounds: list[RoundStatus]
    devices: list[DeviceStatus]


def is_running(home: CoordinatorHome) -> bool:
    """Whether a coordinator has the folder for itself."""
    return _is_locked(home.lock)


def is_open(home: CoordinatorHome) -> bool:
    """Whether devices can reach a coordinator: some time after it began to run."""
    return _is_locked(home.open_lock)


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def describe(home: CoordinatorHome) -> Status:
    """The state of the coordinator in `home`."""
    registry = Registry(home.database)
    names = {device.id: device.name for device in registry.devices()}
    newest = registry.model()
    presence = registry.presence() if is_open(home) else None
    return Status(
        running=presence is not None,
        port=presence.port if presence else None,
        online=presence.online if presence else 0,
        version=newest.version if newest else None,
        rounds=[
            RoundStatus(
                round=row.round,
                state=row.state,
                base=row.base,
                version=row.version,
                code=row.code,
                happened=row.happened,
                seconds=row.seconds,
                overhead_seconds=row.overhead_seconds,
                bytes_up=row.bytes_up,
                bytes_down=row.bytes_down,
                cohort=row.cohort,
                participants=row.participants,
                failed=row.failed,
                loss=row.loss,
                failures=[
                    failure | {"name": names.get(failure["who"], failure["who"])}
                    for failure in failures_of(row)
                ],
            )
            for row in registry.rounds()
        ],
        devices=describe_devices(home),
    )


def describe_devices(home: CoordinatorHome) -> list[DeviceStatus]:
    """Every device, in the order of enrolment."""
    registry = Registry(home.database)
    contributors = registry.contributors()
    described = []
    for row in registry.devices():
        rounds, last = contributors.get(row.id, (0, None))
        described.append(
            DeviceStatus(
                id=row.id,
                name=row.name,
                state=row.state,
                enrolled=_iso(row.enrolled),
                expires=_iso(row.expires) if row.expires else None,
                revoked=_iso(row.revoked) if row.revoked else None,
                reason=row.reason,
                rounds=rounds,
                last=_iso(last) if last else None,
            )
        )
    return described


def _iso(moment: datetime) -> str:
    return utc(moment).isoformat(timespec="seconds")
