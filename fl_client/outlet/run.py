"""The outlet put together: events.jsonl in; API, program and broker out."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

from common.files import StorageError, write_atomic
from fl_client.home import DeviceHome
from fl_client.outlet.hook import Hook
from fl_client.outlet.lines import Line
from fl_client.outlet.tail import Tail
from fl_client.reports import Report
from fl_client.settings import DeviceSettings

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How often new messages are looked for."""

REPORT_SECONDS = 1.0


class Sink(Protocol):
    """Where messages go. Nothing here waits for anybody."""

    def __call__(self, line: Line) -> None: ...

    def report(self) -> Report:
        """What was counted."""


def run_outlet(home: DeviceHome, settings: DeviceSettings, stop: threading.Event) -> None:
    """Hand on, as `settings.outlet` says, what a listener writes from now on, until `stop` is set.

    outlet.json is rewritten every second: pid, time, messages handed on, damaged lines, and what each way out
    counts.

    Raises:
        DeviceError: FA-4230..FA-4237, a way out that was asked for cannot be had.
        StorageError: FA-8001.
    """
    with closing(Tail(home.events)) as tail, ExitStack() as open_sinks:
        sinks = _open_sinks(home, settings, tail.before, open_sinks)
        count, due, written = 0, 0.0, True
        while not stop.wait(LOOK_SECONDS):
            for line in tail.poll():
                count += 1
                for sink in sinks:
                    sink(line)
            if time.monotonic() >= due:
                due = time.monotonic() + REPORT_SECONDS
                facts: Report = {"messages": count, "damaged": tail.damaged}
                reports = [facts, *(sink.report() for sink in sinks)]
                written = _write(home.outlet_status, reports, quiet=not written)


def _open_sinks(
    home: DeviceHome, settings: DeviceSettings, before: list[Line], stack: ExitStack
) -> list[Sink]:
    wanted, sinks = settings.outlet, list[Sink]()
    if wanted.api is not None:
        from fl_client.outlet.api import Api  # 30 MB, for those who want it

        sinks.append(stack.enter_context(Api(home, wanted.api, before, settings.tasks)))
    if wanted.on_event:
        sinks.append(stack.enter_context(Hook(wanted.on_event)))
    if wanted.mqtt is not None:
        from fl_client.outlet.broker import Broker

        sinks.append(stack.enter_context(Broker(wanted.mqtt, home, settings, before)))
    return sinks


def _write(path: Path, reports: list[Report], *, quiet: bool) -> bool:
    """Whether it could be written; if not, that is said unless `quiet`."""
    whole: Report = {"pid": os.getpid(), "time": time.time()}
    for report in reports:
        whole |= report
    try:
        write_atomic(path, json.dumps(whole).encode(), mode=0o600, lasting=False)
    except StorageError as error:
        if not quiet:
            log.warning("the report was not written: %s", error)
        return False
    return True
