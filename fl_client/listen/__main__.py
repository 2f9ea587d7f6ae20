"""The listener as a process of its own: `python -m fl_client.listen --home DIR --source SPEC`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from common.errors import FedAudioError
from common.files import is_there, make_folder
from common.log import configure_logging
from common.settings import load_settings
from fl_client.device_tasks import task_homes
from fl_client.heard import HeardFolder
from fl_client.home import DeviceHome
from fl_client.keep_settings import KeepSettings
from fl_client.kept import personal
from fl_client.listen.events import MAIN, EventLog, Message
from fl_client.listen.levels import LevelTable
from fl_client.listen.listener import Sink, run_listener
from fl_client.listen.recorder import Recorder
from fl_client.listen.room import Room
from fl_client.listen.settings import ListenSettings
from fl_client.listen.sources import SPELLING, open_source
from fl_client.settings import DeviceSettings
from fl_client.store import ModelStore

PARENT_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Listen until SIGTERM, SIGINT, the end of the sound or, if asked, of the parent; the exit status."""
    options = _parser().parse_args(arguments)
    configure_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, lambda *_: stop.set())
    if options.with_parent:
        threading.Thread(target=_end_with, args=(os.getppid(), stop), daemon=True).start()
    home = DeviceHome(options.home)
    try:
        make_folder(home.root)
        known = load_settings(DeviceSettings, home.config) if is_there(home.config) else None
        settings = _settings(known, options.levels)
        run_listener(
            _rooms(home, known, with_trials=not options.no_status),
            open_source(options.source, home.token),
            _sink(home, settings),
            status_path=None if options.no_status else home.listener_status,
            stop=stop,
            settings=settings,
        )
    except FedAudioError as error:
        sys.stderr.write(f"{error.code}: {error.happened}\n{error.remedy}\n")
        return error.status
    return 0


def _settings(known: DeviceSettings | None, levels: bool) -> ListenSettings:
    """What device.toml says; a folder of models is enough to listen with."""
    settings = known.listen if known is not None else ListenSettings()
    return settings.model_copy(update={"levels": True}) if levels else settings


def _rooms(home: DeviceHome, known: DeviceSettings | None, *, with_trials: bool) -> list[Room]:
    """The tasks that are listened for, each as the device.toml of its own folder says."""
    if known is None:
        return [_room(MAIN, home, None, with_trials)]
    return [
        _room(name, folder, load_settings(DeviceSettings, folder.config), with_trials)
        for name, folder in task_homes(home, known).items()
    ]


def _room(name: str, home: DeviceHome, known: DeviceSettings | None, with_trials: bool) -> Room:
    return Room(
        name,
        ModelStore(home.models),
        personal=partial(personal, folder=home.kept),
        settings=_settings(known, levels=False),
        recorder=_recorder(home, known),
        trial_path=home.trial if with_trials else None,
    )


def _recorder(home: DeviceHome, known: DeviceSettings | None) -> Recorder | None:
    """What keeps sound; also where none is kept any more, for what was kept grows old."""
    keep = known.keep if known is not None else KeepSettings()
    if not keep.anything and not is_there(home.heard):
        return None
    return Recorder(HeardFolder(home.heard), keep)


def _sink(home: DeviceHome, settings: ListenSettings) -> Sink:
    events = EventLog(home.events)
    if settings.levels_csv is None:
        return events
    table = LevelTable(home.root / settings.levels_csv)

    def tell(message: Message) -> str | None:
        table(message)
        return events(message)

    return tell


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fl_client.listen", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the device's folder, with models/ in it")
    parser.add_argument("--source", required=True, help=SPELLING)
    parser.add_argument("--levels", action="store_true", help="report how loud it is")
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
