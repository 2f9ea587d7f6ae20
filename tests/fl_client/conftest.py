"""A device's folder with a few clips in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.security.certificates import make_certificate
from fl_client.home import DeviceHome
from fl_client.initialise import initialise
from tests.processes import write_tones


@pytest.fixture
def device(tmp_path: Path) -> DeviceHome:
    ca = tmp_path / "tls.crt"
    ca.write_bytes(make_certificate(["127.0.0.1"])[0])
    home = DeviceHome(tmp_path / "device")
    initialise(home, server="127.0.0.1:1", ca=ca, name="kitchen")
    write_tones(home.clips)
    return home
