"""The listener as a process of its own: `python -m fl_client.listen --home DIR --source SPEC`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from common.errors import FedAudioError
from common.files import make_folder
from common.log import configure_logging
from fl_client.home import DeviceHome
from fl_client.kept import personal
from fl_client.listen.listener import run_listener
from fl_client.listen.sources import open_source
from fl_client.listen.trigger import Event
from fl_client.store import ModelStore

log = logging.getLogger("fl_client.listen")

PARENT_SECONDS = 0.5

LARGEST_LOG = 10_000_000
"""Bytes of events after which a new file is begun; the one before it is kept."""


def main(arguments: list[str] | None = None) -> int:
    """Listen until SIGTERM, SIGINT, the end of the sound or, if asked, of the parent; the exit status."""
    options = _parser().parse_args(arguments)
    configure_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.with_parent:
        threading.Thread(target=_end_with, args=(os.getppid(), stop), daemon=True).start()
    home = DeviceHome(options.home)
    try:
        make_folder(home.root)
        run_listener(
            ModelStore(home.models),
            open_source(options.source),
            EventLog(home.events),
            status_path=None if options.no_status else home.listener_status,
            stop=stop,
            personal=partial(personal, folder=home.kept),
        )
    except FedAudioError as error:
        sys.stderr.write(f"{error.code}: {error.happened}\n{error.remedy}\n")
        return error.status
    return 0


class EventLog:
    """Appends events to a file that is its owner's alone, one line of JSON each, and repeats them on standard
    output. A full file becomes `<name>.1`, in place of the one before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        line = event.to_json() + "\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                file.write(line)
                full = file.tell() > LARGEST_LOG
            if full:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            sys.stdout.write(line)
            sys.stdout.flush()
        except OSError as error:
            log.warning("an event was not written: %s: %s", error, line.strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fl_client.listen", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the device's folder, with models/ in it")
    parser.add_argument("--source", required=True, help="mic, stdin or file:PATH[,loop][,fast]")
    parser.add_argument("--with-parent", action="store_true", help="end when the parent process does")
    parser.add_argument(
        "--no-status", action="store_true", help="leave listener.json to another listener of this home"
    )
    return parser


def _end_with(parent: int, stop: threading.Event) -> None:
    while os.getppid() == parent:
        if stop.wait(PARENT_SECONDS):
            return
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
