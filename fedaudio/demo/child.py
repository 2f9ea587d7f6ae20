"""The command `fedaudio`, ended when standard input does: the demo holds the other end, however it dies.

Run as `python -m fedaudio.demo.child ARGUMENTS`.
"""

from __future__ import annotations

import os
import threading

from common.parent import wait_for_end_of_input
from fedaudio.cli import main


def _end_with_demo() -> None:
    wait_for_end_of_input()
    # At once, whatever the main thread is in: with the demo gone nobody is left to kill one that lingers.
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_demo, daemon=True).start()
    main()
