"""An environment with byzfl in it, made in a cache folder the first time; its pins are not ours.

It borrows numpy, scipy and torch from the one that this runs in.
"""

from __future__ import annotations

import os
import site
import subprocess
import venv
from pathlib import Path

import platformdirs

VERSION = "byzfl==0.0.11"

FOLDER = Path(platformdirs.user_cache_dir("fedaudio")) / "byzfl"
"""Where it is, unless another place is given."""


class SkippedError(Exception):
    """byzfl cannot be had here; says why."""


def environment(folder: Path) -> Path:
    """The Python of an environment in `folder` that has byzfl; made if it is not there.

    Raises:
        SkippedError: byzfl cannot be installed.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / f"{VERSION}.ready"
    if ready.exists():
        return python
    venv.create(folder, with_pip=True)
    purelib = _install([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    (Path(purelib) / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    _install([python, "-m", "pip", "install", "--quiet", "--no-deps", VERSION])
    ready.touch()
    return python


def run_there(python: Path, script: Path, *arguments: str | Path) -> str:
    """What `script` prints in the environment of `python`.

    Raises:
        SkippedError: it fails.
    """
    done = subprocess.run([python, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SkippedError(f"byzfl does not run: {_last_line(done.stderr)}")
    return done.stdout


def _install(command: list[str | Path]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    except subprocess.TimeoutExpired as error:
        raise SkippedError(f"{VERSION} could not be installed in time") from error
    if done.returncode:
        raise SkippedError(f"{VERSION} cannot be installed: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
