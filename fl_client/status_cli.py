"""`fedaudio client status`"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from common.log import printable
from fl_client.options import Home, Json, existing

if TYPE_CHECKING:
    from fl_client.status import Status, TaskStatus


def status(home: Home = None, as_json: Json = False) -> None:
    """Say whether the device is enrolled and linked, what it hears with, and what it has sent."""
    from fl_client.status import describe

    report = describe(existing(home))
    typer.echo(json.dumps(report) if as_json else "\n".join(_lines(report)))


def _lines(report: Status) -> Iterator[str]:
    link, listener = report["link"], report["listener"]
    yield f"Device {report['name']}, version {report['version']}, {report['clips']} clips."
    if report["certificate_ends"] is None:
        yield "Its enrolment has not been approved yet."
    else:
        verb = "was" if report["enrolment"] == "expired" else "is"
        yield f"It is {report['device']}; its certificate {verb} good until {report['certificate_ends']}."
    if link is None:
        yield "The link is not running."
    else:
        state = "linked" if link["linked"] else "not linked"
        traffic = f"{link['bytes_up']} bytes up, {link['bytes_down']} bytes down"
        yield f"The link is {state}: {link['orders']} orders answered, {traffic}."
    if report["refusal"]:
        yield printable(report["refusal"])
    if report["untold"]:
        yield f"This platform does not tell what these rules are about: {', '.join(report['untold'])}."
    yield "The listener is not running." if listener is None else f"The listener: {json.dumps(listener)}"
    if report["thresholds_of"] is not None:
        yield (
            f"Its thresholds were measured with version {report['thresholds_of']}, and another is at work: "
            "calibrate again."
        )
    for name, task in report["tasks"].items():
        yield f"The task {name} of {task['home']} is {_how(task)}."
    if report["outlet"] is not None:
        yield f"The outlet: {json.dumps(report['outlet'])}"


def _how(task: TaskStatus) -> str:
    heard = task["listener"]
    if heard is None or heard.get("version") is None:
        return "not heard: the listener does not run, or waits for its first release"
    return f"heard with version {heard['version']}: {heard.get('events')} events"
