"""Ends the process if a release's graph does not come to an end.

ONNX Runtime cannot be interrupted: a thread that runs such a graph is lost, and with it the listening or the
end of the process. Only another process can begin anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.protocol.release import Manifest

log = logging.getLogger(__name__)

HUNG = 75
"""Exit status: start me again at once."""

POLL_SECONDS = 1.0

POLLS = 30
"""A run that is still going on after so many looks will never end; it is about half a second of sound.

Looks and not the clock, for where all processes are held up this one is too.
"""

_running: dict[int, tuple[Manifest]] = {}


@contextmanager
def running(manifest: Manifest) -> Iterator[None]:
    """What is done in this context is to run the graph of the release of `manifest`."""
    me = threading.get_ident()
    _running[me] = (manifest,)
    try:
        yield
    finally:
        del _running[me]


def watch(
    blame: Callable[[Manifest], None], done: threading.Event, leave: Callable[[int], object] = os._exit
) -> None:
    """From now on, leave the process with `HUNG` if a run does not end; until `done` is set and none goes on.

    Args:
        blame: told, before, of which release the run is.
    """
    threading.Thread(target=_watch, args=(blame, done, leave), name="watchdog", daemon=True).start()


def _watch(blame: Callable[[Manifest], None], done: threading.Event, leave: Callable[[int], object]) -> None:
    looks: dict[int, tuple[tuple[Manifest], int]] = {}
    while not done.wait(POLL_SECONDS) or _running:
        if done.is_set():
            time.sleep(POLL_SECONDS)
        now = dict(_running)
        looks = {
            thread: (run, looks[thread][1] + 1 if thread in looks and looks[thread][0] is run else 1)
            for thread, run in now.items()
        }
        for run, count in looks.values():
            if count > POLLS:
                log.error("version %d hangs: the listener leaves, to be started again", run[0].version)
                blame(run[0])
                leave(HUNG)
                return
