"""Runs a release once, on the golden clip: `python -m fl_client.listen.smoke FOLDER`.

In a process of its own, because a graph may do worse than fail. A release that must not be used is said so in
one line of JSON on standard output, and by the exit status.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

from common.errors import FedAudioError
from common.protocol.release import load_release
from fl_client.listen.golden import check_golden
from fl_client.listen.pipeline import Pipeline

LONGEST_SECONDS = 60
MEMORY_BYTES = 3 << 30
"""Of address space, of which Python and ONNX Runtime take half a gigabyte."""


def main() -> int:
    """Try the release; the exit status."""
    _be_modest()
    try:
        check_golden(Pipeline(load_release(Path(sys.argv[1]))))
    except FedAudioError as error:
        document = {"code": error.code, "happened": error.happened[:500], "remedy": error.remedy[:500]}
        sys.stdout.write(json.dumps(document))
        return error.status
    return 0


def _be_modest() -> None:
    """End by itself whatever the graph does, also with nobody left to end it, and take little till then."""
    signal.alarm(LONGEST_SECONDS)
    for kind, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(kind, (most, most))
    os.nice(10)


if __name__ == "__main__":
    sys.exit(main())
