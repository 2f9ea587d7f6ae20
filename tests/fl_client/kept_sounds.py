"""What a listener leaves on a device, made by hand: releases, events, sounds; and rounds that use it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray

from common.protocol.answer import Answer
from common.task import Task
from fl_client.heard import Heard, HeardFolder
from fl_client.home import DeviceHome
from fl_client.listen.events import MAIN, Event, EventLog
from fl_client.orders import answer_order
from fl_client.store import ModelStore
from tests.fl_client.made_identity import ledger_of
from tests.fl_client.test_training_process import KITCHEN, order, read, weight_bytes
from tests.made_manifests import make_manifest, put, sealed, small_weights

SOUND = (3_000 * np.sin(np.arange(4_000) / 3)).astype(np.int16)


def install(device: DeviceHome, *labels: str, version: int = 1) -> None:
    """A release whose task has these labels."""
    task = Task(labels=labels, clip_seconds=0.25)
    weights = small_weights(version)
    put(
        ModelStore(device.models, device.marks),
        sealed(make_manifest(version, weights, b"graph", task), weights, b"graph"),
    )


def keep(
    device: DeviceHome,
    label: str = "high",
    sound: NDArray[np.int16] = SOUND,
    *,
    of: tuple[str, DeviceHome] | None = None,
    stretch: str = "",
) -> str:
    """An event that was reported and kept, as a listener does; its id.

    Args:
        of: name and folder of its task, if that is not the device's own.
        stretch: id of a sound that it overlaps with, if it does with one.
    """
    task, place = of or (MAIN, device)
    name = EventLog(device.events)(Event(label, 0.9, 1.0, 1.25, 1, task))
    assert name is not None
    now = datetime.now(UTC)
    facts = Heard(id=name, kind="event", label=label, score=0.9, version=1, time=now, stretch=stretch or name)
    HeardFolder(place.heard).add(facts, sound)
    return name


def heard(number: int, **changes: object) -> Heard:
    """What is known of an event's sound."""
    name = f"{number:016x}"
    facts = {"id": name, "kind": "event", "label": "yes", "score": 0.9, "version": 1, "stretch": name}
    return Heard.model_validate(facts | {"time": datetime.now(UTC)} | changes)


def keep_window(
    device: DeviceHome, number: int, score: float, label: str = "low", *, stretch: str = "", version: int = 1
) -> str:
    """A window that was kept for self-training; its id."""
    name, now = f"{number:016x}", datetime.now(UTC)
    facts = Heard(
        id=name,
        kind="window",
        label=label,
        score=score,
        version=version,
        time=now,
        stretch=stretch or name,
    )
    HeardFolder(device.heard).add(facts, np.roll(SOUND, number))
    return name


def allow(device: DeviceHome, **settings: object) -> None:
    text = device.config.read_text()
    device.config.write_text(text + "\n" + tomli_w.dumps({"keep": settings}))


def clips_from(device: DeviceHome, event: str) -> list[Path]:
    return sorted(device.clips.glob(f"*/*_event-{event}.flac"))


def clips_in_a_round(home: DeviceHome, number: int, **changes: object) -> int:
    plan = order(round=number, **changes)
    answer = read(answer_order(plan, weight_bytes(), home, KITCHEN, ledger_of(home)))
    assert isinstance(answer, Answer)
    return answer.report.clips
