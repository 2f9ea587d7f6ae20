"""Ending with the process that started us, however it ends: it holds the other end of our standard input."""

from __future__ import annotations

import os
import sys


def wait_for_end_of_input() -> None:
    """Return when standard input has been closed. For a daemon thread: it cannot be interrupted."""
    # Not through sys.stdin: a thread that waits there holds a lock that the interpreter needs to end.
    while os.read(sys.stdin.fileno(), 1):
        pass
