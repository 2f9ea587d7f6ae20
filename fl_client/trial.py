"""Trying a release before it is kept, where it can do no harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pydantic import ValidationError

from common.errors import DeviceError
from common.protocol.enrolment import Refused

TRIAL_SECONDS = 60.0


def try_release(folder: Path, version: int, seconds: float = TRIAL_SECONDS) -> None:
    """Let a short-lived process run the release in `folder` on the golden clip.

    Raises:
        DeviceError: FA-4103 it crashed or was not done within `seconds`, or what the process found wrong:
            FA-4104, FA-4201, FA-4202.
    """
    command = [sys.executable, "-m", "fl_client.listen.smoke", str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _broken(version, f"it was not done after {seconds:.0f} s") from error
    if done.returncode == 0:
        return
    try:
        found = Refused.model_validate_json(done.stdout)
    except ValidationError as error:
        raise _broken(version, f"the process that tried it ended with status {done.returncode}") from error
    raise DeviceError(found.code, found.happened, found.remedy)


def _broken(version: int, how: str) -> DeviceError:
    return DeviceError(
        "FA-4103",
        f"Version {version} was refused: it could not be tried ({how}).",
        "Go on with the version in use and tell the coordinator's operator; the next version may mend it.",
    )
