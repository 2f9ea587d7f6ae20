"""One coordinator in a folder, and no other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from common.errors import CoordinatorError
from common.files import locked
from fl_server.home import CoordinatorHome

LOCK_TRIES = 20
"""Over a second, for whoever asks whether a coordinator runs holds the lock for a moment."""


@contextmanager
def alone(home: CoordinatorHome) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when the process dies, however it dies.

    Raises:
        CoordinatorError: FA-5003.
        StorageError: FA-8001.
    """
    with ExitStack() as held:
        if not any(_locks(held, home) for _ in range(LOCK_TRIES)):
            raise CoordinatorError(
                "FA-5003",
                f"Another coordinator is running on {home.root}.",
                "Use it, stop it, or give this one another folder with --home.",
            )
        yield


def _locks(held: ExitStack, home: CoordinatorHome) -> bool:
    try:
        held.enter_context(locked(home.lock, wait=False))
    except BlockingIOError:
        time.sleep(0.05)
        return False
    return True
