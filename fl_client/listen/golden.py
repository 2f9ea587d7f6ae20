"""Whether a release hears on this device what its coordinator heard."""

from __future__ import annotations

import numpy as np

from common.audio.golden import golden_clip
from common.errors import DeviceError
from common.protocol.release import Release, digest_of
from fl_client.listen.engine import not_numbers
from fl_client.listen.pipeline import Pipeline, blocks

TOLERANCE = 1e-3
"""Largest difference of a probability: ten times what the two front ends may differ by."""


def check_golden(pipeline: Pipeline) -> None:
    """Return if `pipeline`, which has heard nothing yet, hears in the golden clip what its manifest says.

    With parameters of the device's own in it, it need only hear numbers.

    Raises:
        DeviceError: FA-4104 it does not, FA-4202 its scores are not numbers.
    """
    release = pipeline.release
    golden = release.manifest.golden
    clip = golden_clip(pipeline.task.clip_samples)
    if digest_of(clip) != golden.digest:
        raise _differs(release.version, "its golden clip is another")
    scores = np.concatenate([pipeline.feed(block) for block in blocks(clip)])[-1]
    pipeline.start(0)
    if not np.isfinite(scores).all():
        raise not_numbers(release.version)
    difference = float(np.abs(scores - np.asarray(golden.scores)).max())
    if difference > TOLERANCE and _is_as_released(release):
        raise _differs(release.version, f"a score differs by {difference:.2g}")


def _is_as_released(release: Release) -> bool:
    tensors = release.manifest.tensors
    return all(digest_of(value) == tensors[name].digest for name, value in release.weights.items())


def _differs(version: int, how: str) -> DeviceError:
    return DeviceError(
        "FA-4104",
        f"Version {version} was refused: on this device it does not hear what it should ({how}).",
        "Go on with the version in use and tell the coordinator's operator; the next version may mend it.",
    )
