"""The training worker: the one process of a device that loads torch. It comes with a round, goes when idle.

Run as `python -m fl_client.worker HOME DEVICE`; the ledger's key and then orders come on standard input and
answers go to standard output, as frames: (body of a plan, weights) -> answer. It knows no other key: the link
checks its orders and seals its answers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common.log import configure_logging
from common.settings import load_settings
from fl_client.frames import read_frame, write_frame
from fl_client.home import DeviceHome
from fl_client.ledger import open_ledger
from fl_client.orders import answer_order
from fl_client.settings import DeviceSettings


def main() -> None:
    """Answer orders until standard input ends."""
    home, device = DeviceHome(Path(sys.argv[1])), sys.argv[2]
    settings = load_settings(DeviceSettings, home.config)
    configure_logging()
    os.nice(settings.worker_niceness)
    key = read_frame(sys.stdin.buffer)
    if key is None:
        return
    ledger = open_ledger(home, key)
    while (plan := read_frame(sys.stdin.buffer)) is not None:
        weights = read_frame(sys.stdin.buffer)
        if weights is None:
            return
        write_frame(sys.stdout.buffer, answer_order(plan, weights, home, device, ledger))


if __name__ == "__main__":
    main()
