"""The outlet as a process: `python -m fl_client.outlet --home DIR`; it ends with standard input."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from common.errors import FedAudioError
from common.log import configure_logging
from common.parent import wait_for_end_of_input
from common.settings import load_settings
from fl_client.home import DeviceHome
from fl_client.outlet.run import run_outlet
from fl_client.settings import DeviceSettings


def main(arguments: list[str] | None = None) -> int:
    """Hand messages on until SIGTERM, SIGINT or the end of standard input; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fl_client.outlet", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the device's folder")
    home = DeviceHome(parser.parse_args(arguments).home)
    configure_logging(quiet=["uvicorn"])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_end_with_input, args=(stop,), daemon=True).start()
    try:
        run_outlet(home, load_settings(DeviceSettings, home.config), stop)
    except FedAudioError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.status
    return 0


def _end_with_input(stop: threading.Event) -> None:
    wait_for_end_of_input()
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
