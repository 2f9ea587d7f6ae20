"""Logging: one line a fact, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

LOG_FORMAT = "FEDAUDIO_LOG_FORMAT"
"""Environment variable, text or json: the command sets it, and the processes it starts inherit it."""

LOG_TASK = "FEDAUDIO_LOG_TASK"
"""Environment variable, inherited likewise: the task a process works for, where there are several. Each line
says it."""


class JsonLines(logging.Formatter):
    """A record as one JSON object."""

    def __init__(self, task: str = "") -> None:
        super().__init__()
        self._task = {"task": task} if task else {}

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._task,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextLines(logging.Formatter):
    """A record as one line, whatever a peer wrote into it; only a traceback takes more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


def printable(text: str) -> str:
    """`text` with escapes in place of what would move a terminal's cursor or start a line."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class Throttle(logging.Filter):
    """Passes so many records of one logger a second: how often some things are worth a line, a peer decides.

    Args:
        most: records of one logger in a second. The next one after them says how many were left out.
    """

    def __init__(self, most: int = 50) -> None:
        super().__init__()
        self._most = most
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes."""
        now = int(record.created)
        with self._lock:
            second, seen = self._seen.get(record.name, (now, 0))
            if now == second:
                self._seen[record.name] = (now, seen + 1)
                return seen < self._most
            self._seen[record.name] = (now, 1)
        if seen > self._most:
            record.msg = f"{record.getMessage()} ({seen - self._most} lines before this one were left out)"
            record.args = ()
        return True


def configure_logging(
    *, level: int = logging.INFO, quiet: Sequence[str] = ("flwr", "httpx", "onnx_ir")
) -> None:
    """Log to standard error, as `LOG_FORMAT` says; loggers named in `quiet` only warn."""
    handler, task = logging.StreamHandler(), os.environ.get(LOG_TASK, "")
    of_task = f" [{task.replace('%', '%%')}]" if task else ""
    handler.setFormatter(
        JsonLines(task)
        if os.environ.get(LOG_FORMAT) == "json"
        else TextLines(f"%(asctime)s %(levelname)-7s %(name)s{of_task}: %(message)s", "%H:%M:%S")
    )
    handler.addFilter(Throttle())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in quiet:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        # Flower's writes its lines itself.
        for own in logger.handlers:
            own.addFilter(Throttle())
