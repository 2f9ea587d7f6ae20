"""Outlets as they run on a device: processes of their own, beside a log that a test writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w

from fl_client.home import DeviceHome
from fl_client.listen.events import MAIN, Event, line_of
from tests.fl_client.outlet.made_broker import MadeBroker
from tests.processes import ROOT, free_port, wait_for


class Outlet:
    """One home, its log, and the process that hands the log's messages on.

    Attributes:
        tasks: folders of further tasks.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.home = DeviceHome(root)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None
        self.errors = root / "stderr"
        self.tasks: dict[str, str] = {}

    def start(self, environment: Mapping[str, str] | None = None, **tables: object) -> None:
        """Start with these keys of [outlet], and wait until it works."""
        self.spawn(environment, **tables)
        wait_for(self.home.outlet_status.exists, "the first report", self._check)

    def spawn(self, environment: Mapping[str, str] | None = None, **tables: object) -> subprocess.Popen[str]:
        device = {"name": "kitchen", "server": "127.0.0.1:9", "coordinator": "0" * 64}
        self.home.config.write_text(tomli_w.dumps(device | {"outlet": tables, "tasks": self.tasks}))
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fl_client.outlet", "--home", str(self.home.root)],
                stdin=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=environment,
            )
        return self.process

    def start_api(self, **settings: object) -> None:
        self.start(api={"port": self.port, **settings})

    def tell(self, label: str, task: str = MAIN) -> str:
        """Write an event as the listener does, and return its id."""
        line = line_of(Event(label, 0.9, 1.0, 2.0, 7, task))
        with self.home.events.open("a") as log:
            log.write(json.dumps(line) + "\n")
        return str(line["id"])

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers)

    def labels(self, query: str = "") -> list[str]:
        return [line["label"] for line in self.get(f"/v1/events{query}").json()["events"]]

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.home.outlet_status.read_bytes())
        return report

    def wait(self, **facts: object) -> None:
        """Wait until the report says so."""
        wait_for(lambda: facts.items() <= self.report.items(), str(facts), self._check)

    def _check(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.errors.read_text()

    def end(self) -> int:
        """End it as its supervisor does, and return its status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)


@pytest.fixture
def outlet(tmp_path: Path) -> Iterator[Outlet]:
    outlet = Outlet(tmp_path / "home")
    yield outlet
    if outlet.process is not None:
        outlet.process.kill()
        outlet.process.communicate()


@pytest.fixture
def broker() -> Iterator[MadeBroker]:
    broker = MadeBroker()
    broker.open()
    yield broker
    broker.close()
