"""The command `fedaudio`, ended when standard input does: the demo holds the other end, however it dies.

Run as `python -m fedaudio.demo.child ARGUMENTS`.
"""

from __future__ import annotations

import os
import sys
import threading

from fedaudio.cli import main


def _end_with_demo() -> None:
    # Not through sys.stdin: a thread that waits there holds a lock that the interpreter needs to end.
    while os.read(sys.stdin.fileno(), 1):
        pass
    # At once, whatever the main thread is in: with the demo gone nobody is left to kill one that lingers.
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_demo, daemon=True).start()
    main()
