"""A listener in the foreground with a program for its events."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from common.errors import DeviceError
from fl_client.outlet.hook import Hook
from fl_client.outlet.lines import parse_line


def split_command(text: str) -> list[str]:
    """Program and arguments, as a shell would split them; no shell ever sees them.

    Raises:
        DeviceError: FA-4236, a quotation mark has no counterpart.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise DeviceError(
            "FA-4236",
            f"The command for events cannot be split into words: {error}.",
            "Close its quotation marks.",
        ) from error


def listen_with_hook(listen: Sequence[str], program: Sequence[str]) -> int:
    """Run the listener that `listen` starts, repeat what it prints, and run `program` for its events.

    SIGINT and SIGTERM end the listener, and with it the program; at the end of its sound, what waits for the
    program is worked off.

    Raises:
        DeviceError: FA-4235, there is no such program.
    """
    stopped = threading.Event()
    with Hook(program) as hook, subprocess.Popen(listen, stdout=subprocess.PIPE) as listener:

        def stop(*_: object) -> None:
            stopped.set()
            listener.terminate()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        for data in listener.stdout or ():
            with suppress(OSError):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            line = parse_line(data)
            if line is not None:
                hook(line)
        if not stopped.is_set():
            hook.finish()
    return listener.returncode
