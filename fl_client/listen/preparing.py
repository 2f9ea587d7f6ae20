"""Makes a release ready to score a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from common.errors import FedAudioError
from common.protocol.release import Release
from fl_client.listen.engine import not_numbers, unrunnable
from fl_client.listen.golden import check_golden
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.ring import Ring


def prepare(release: Release, like: Pipeline | None = None) -> Pipeline:
    """A pipeline that has been warmed up and tried on the golden clip; arguments as of a `Pipeline`.

    Raises:
        DeviceError: FA-4104, FA-4201, FA-4202.
        AudioError: FA-1008.
    """
    with _refusing(release):
        pipeline = Pipeline(release, like)
        check_golden(pipeline)
    return pipeline


def catch_up(pipeline: Pipeline, recent: Ring) -> None:
    """Let `pipeline` hear what is in `recent`.

    Raises:
        DeviceError: FA-4201, FA-4202.
    """
    with _refusing(pipeline.release):
        scores = pipeline.catch_up(recent)
    if not np.isfinite(scores).all():
        raise not_numbers(pipeline.release.version)


@contextmanager
def _refusing(release: Release) -> Iterator[None]:
    """Whatever goes wrong with `release` in this context is a reason to refuse it (FA-4201)."""
    try:
        yield
    except FedAudioError:
        raise
    except Exception as error:
        raise unrunnable(release.version, error) from error
