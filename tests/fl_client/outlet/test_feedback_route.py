"""Feedback over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest

from fl_client.heard import Heard, HeardFolder
from fl_client.home import DeviceHome
from fl_client.listen.events import MAIN
from fl_client.outlet.said import LARGEST
from fl_client.store import ModelStore
from tests.fl_client.made_tasks import add_device
from tests.fl_client.outlet.conftest import Outlet
from tests.made_manifests import make_manifest, put, sealed, small_weights


def prepare(home: DeviceHome) -> None:
    weights = small_weights(1)
    files = sealed(make_manifest(1, weights, b"graph"), weights, b"graph")
    put(ModelStore(home.models, home.root / "marks.json"), files)


def keep(outlet: Outlet, of: tuple[str, DeviceHome] | None = None) -> str:
    """An event of "yes" with its sound; `of` names the task and its folder if it is not the device's own."""
    task, place = of or (MAIN, outlet.home)
    name = outlet.tell("yes", task)
    now = datetime.now(UTC)
    facts = Heard(id=name, kind="event", label="yes", score=0.9, version=1, time=now, stretch=name)
    HeardFolder(place.heard).add(facts, np.arange(4000, dtype=np.int16))
    return name


def say(outlet: Outlet, **body: object) -> httpx.Response:
    return httpx.post(f"{outlet.url}/v1/feedback", json=body)


def test_an_event_is_judged(outlet: Outlet) -> None:
    prepare(outlet.home)
    outlet.start_api()
    event = keep(outlet)
    answer = say(outlet, event=event, verdict="no", speaker="anna")
    assert answer.json() == {"event": event, "heard": "yes", "verdict": "no", "label": "no", "task": "main"}
    assert answer.status_code == 200
    assert len(list(outlet.home.clips.glob(f"no/anna_*_event-{event}.flac"))) == 1


def test_an_event_of_another_folders_task_is_judged_there(outlet: Outlet, tmp_path: Path) -> None:
    scene = add_device(tmp_path / "scene")
    prepare(scene)
    outlet.tasks = {"scene": "../scene"}
    outlet.start_api()
    event = keep(outlet, ("scene", scene))
    answer = say(outlet, event="last", verdict="right")
    assert answer.json() == {
        "event": event, "heard": "yes", "verdict": "right", "label": "yes", "task": "scene",
    }  # fmt: skip
    assert len(list(scene.clips.glob(f"yes/*_event-{event}.flac"))) == 1
    assert not outlet.home.clips.exists()


def test_what_cannot_be_judged_is_explained(outlet: Outlet) -> None:
    prepare(outlet.home)
    outlet.start_api()
    assert (say(outlet, event="last", verdict="right").status_code) == 404
    unkept = say(outlet, event=outlet.tell("yes"), verdict="right")
    assert (unkept.status_code, unkept.json()["error"]) == (404, "FA-4250")
    assert "[keep]" in unkept.json()["remedy"]
    unknown = say(outlet, event=keep(outlet), verdict="yess")
    assert (unknown.status_code, unknown.json()["error"]) == (409, "FA-4252")
    assert not outlet.home.clips.exists()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, {"event": "last", "verdict": "right"}, 415),
        ({}, {"event": "last", "verdict": "right", "more": 1}, 422),
        ({}, {"event": "last"}, 422),
        ({}, {"event": "last", "verdict": ["right"]}, 422),
        ({}, {"event": "last", "verdict": "x" * 81}, 422),
        ({}, {"event": "last", "verdict": "x" * LARGEST}, 413),
        ({"origin": "https://evil.com"}, {"event": "last", "verdict": "right"}, 403),
    ],
)
def test_what_is_no_feedback(
    outlet: Outlet, headers: dict[str, str], body: dict[str, object], status: int
) -> None:
    outlet.start_api()
    headers = {"content-type": "application/json"} | headers
    answer = httpx.post(f"{outlet.url}/v1/feedback", content=json.dumps(body).encode(), headers=headers)
    assert answer.status_code == status
    assert not outlet.home.feedback.exists()
