"""What `fedaudio server status` says of a coordinator that starts and ends."""

from __future__ import annotations

import socket
from pathlib import Path

from fl_server.status import describe
from tests.processes import Federation, wait_for


def test_it_runs_from_when_devices_can_reach_it(tmp_path: Path) -> None:
    with Federation(tmp_path, {}) as federation:
        # The second time there is something left of the first, which was killed.
        for _ in range(2):
            assert not describe(federation.home)["running"]
            federation.spawn("server", "fedaudio", "server", "start", "--home", str(federation.home.root))
            federation.wait(lambda: describe(federation.home)["running"], "the coordinator")
            assert is_reached(federation.port)
            assert describe(federation.home)["port"] == federation.port
            federation.kill("server")
            # Its front sees that it is alone, and ends.
            wait_for(lambda: not is_reached(federation.port), "the end of the front")


def is_reached(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except ConnectionError:
        return False
    return True
