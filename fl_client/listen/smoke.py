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

import numpy as np

from common.audio.golden import golden_clip
from common.errors import DeviceError, FedAudioError
from common.protocol.release import Release, digest_of, load_release
from fl_client.listen.pipeline import Pipeline, blocks

TOLERANCE = 1e-3
"""Largest difference of a probability: ten times what the two front ends may differ by."""

LONGEST_SECONDS = 60
MEMORY_BYTES = 3 << 30
"""Of address space, of which Python and ONNX Runtime take half a gigabyte."""


def check_golden(release: Release) -> None:
    """Return if `release` hears in the golden clip what its manifest says.

    Raises:
        DeviceError: FA-4104 it does not, FA-4201, FA-4202 it cannot be run.
        AudioError: FA-1008, its front end is impossible.
    """
    golden, task = release.manifest.golden, release.manifest.task
    clip = golden_clip(task.clip_samples)
    if digest_of(clip) != golden.digest:
        raise _differs(release.version, "its golden clip is another")
    pipeline = Pipeline(release)
    scores = np.concatenate([pipeline.feed(block) for block in blocks(clip)])[-1]
    difference = float(np.abs(scores - np.asarray(golden.scores)).max())
    # Written so that a NaN is a difference.
    if not difference <= TOLERANCE:
        raise _differs(release.version, f"a score differs by {difference:.2g}")


def main() -> int:
    """Try the release; the exit status."""
    _be_modest()
    try:
        check_golden(load_release(Path(sys.argv[1])))
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


def _differs(version: int, how: str) -> DeviceError:
    return DeviceError(
        "FA-4104",
        f"Version {version} was refused: on this device it does not hear what it should ({how}).",
        "Go on with the version in use and tell the coordinator's operator; the next version may mend it.",
    )


if __name__ == "__main__":
    sys.exit(main())
