"""The outlet's report."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from common.files import StorageError
from fl_client.home import DeviceHome
from fl_client.outlet import run
from fl_client.reports import read_report
from fl_client.settings import DeviceSettings


def test_a_report_that_cannot_be_written_is_said_once_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop, fails = threading.Event(), iter([True, True, False, True, True])

    def write(path: Path, *_: object, **__: object) -> None:
        assert path == home.outlet_status
        failed = next(fails, None)
        if failed is None:
            stop.set()
        elif failed:
            raise StorageError("FA-8001", "The disk is full.", "Make room.")

    home = DeviceHome(tmp_path)
    monkeypatch.setattr(run, "write_atomic", write)
    monkeypatch.setattr(run, "REPORT_SECONDS", 0.0)
    settings = DeviceSettings(name="kitchen", server="127.0.0.1:9", coordinator="0" * 64)
    run.run_outlet(home, settings, stop)
    assert caplog.text.count("the report was not written") == 2


def test_a_report_without_end_is_none(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("[" * 100_000)
    assert read_report(tmp_path / "report") is None
