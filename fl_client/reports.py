"""What the processes of a device write of themselves, once a second."""

from __future__ import annotations

import json
import time
from pathlib import Path

STALE_SECONDS = 10.0
"""A process that has not written its report for so long is not running."""

Report = dict[str, float | int | bool | str | None]


def read_report(path: Path) -> Report | None:
    """The report in `path`; None if its process is not running, or what is there is no report."""
    try:
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            return None
        report = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) else None
