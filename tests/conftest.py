"""Fixtures every test may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

# No test is about time; a busy machine must not fail one.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shells start what runs in the background deaf to Ctrl-C, and so would be every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings beside the checkout; CI must have it."""
    if not SHARED_DATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("the folder of real recordings (../shared/data) is missing in CI")
        pytest.skip("no real recordings beside this checkout (../shared/data)")
    return SHARED_DATA.resolve()
