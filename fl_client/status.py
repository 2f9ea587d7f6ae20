"""What a device's folder tells about it, whether it runs or not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypedDict

from common.files import is_there
from common.security.certificates import DeviceCertificate
from common.settings import load_settings
from fl_client.conditions import Conditions
from fl_client.device_tasks import task_homes
from fl_client.home import DeviceHome
from fl_client.identity import read_certificate
from fl_client.policy import load_policy
from fl_client.reports import Report, read_report
from fl_client.settings import DeviceSettings
from fl_client.store import ModelStore


class Status(TypedDict):
    """All of it. `link`, `listener` and `outlet` are None when they are not running.

    `enrolment` is active, pending or expired; `device` and `certificate_ends` are None before it was active.
    `refusal` is why the link is not linked, where waiting alone will not mend it. `untold` names the rules in
    force that have no effect, because this platform does not tell what they are about. `tasks` are those that
    are listened for beside the device's own: their folders, and what the listener reports of each, None while
    it does not hear it. `thresholds_of` is the version that the thresholds were measured with, if another is
    at work.
    """

    name: str
    server: str
    enrolment: str
    device: str | None
    certificate_ends: str | None
    refusal: str | None
    untold: list[str]
    version: int | None
    thresholds_of: int | None
    clips: int
    link: Report | None
    listener: Report | None
    outlet: Report | None
    tasks: dict[str, TaskStatus]


class TaskStatus(TypedDict):
    """A task of another device's folder."""

    home: str
    listener: Report | None


def describe(home: DeviceHome) -> Status:
    """The state of the device in `home`.

    Raises:
        ConfigError: FA-6001..FA-6003, device.toml or policy.toml; FA-6010, FA-6011, a task's folder.
        ProtocolError: FA-3029, the certificate is damaged.
        StorageError: FA-8001, the folder cannot be read.
    """
    settings = load_settings(DeviceSettings, home.config)
    certificate = read_certificate(home) if is_there(home.certificate) else None
    link, listener = read_report(home.link_status), read_report(home.listener_status)
    heard = (listener or {}).get("tasks") or {}
    folders = task_homes(home, settings)
    version = ModelStore(home.models).current_version()
    at_work = (listener or {}).get("version") or version
    return Status(
        name=settings.name,
        server=settings.server,
        enrolment=_enrolment(certificate),
        device=certificate.device if certificate else None,
        certificate_ends=certificate.ends.isoformat(timespec="minutes") if certificate else None,
        refusal=str(link["refusal"]) if link and link.get("refusal") else None,
        untold=load_policy(home.policy).untold(Conditions.now()),
        version=version,
        thresholds_of=settings.listen.measured_with_another(at_work) if at_work is not None else None,
        clips=sum(1 for _ in home.clips.glob("[!_]*/*.flac")),
        link=link,
        listener=listener,
        outlet=read_report(home.outlet_status),
        tasks={
            name: TaskStatus(home=str(folders[name].root), listener=heard.get(name))
            for name in settings.tasks
        },
    )


def _enrolment(certificate: DeviceCertificate | None) -> str:
    if certificate is None:
        return "pending"
    return "active" if datetime.now(UTC) <= certificate.ends else "expired"
