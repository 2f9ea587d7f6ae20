"""What the processes of a device write of themselves, once a second."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

STALE_SECONDS = 10.0
"""A process that has not written its report for so long is not running."""

Report = dict[str, Any]
"""Facts by name: scalars, and `tasks` of the listener, which is a report for each task but the first."""


def read_report(path: Path) -> Report | None:
    """The report in `path`; None if its process is not running, or what is there is no report, or none that
    JSON in UTF-8 can be made of again. NaN and Infinity, which JSON has not, become None.
    """
    try:
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            return None
        report = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) and is_json(report) else None


def is_json(value: object) -> bool:
    """Whether JSON in UTF-8 can be made of what was read: "\\ud800" and 1e999 can be read and not written."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True
