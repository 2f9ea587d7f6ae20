"""How many come in at once, from one address and in all. For what they do then see tests/faults."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import uvicorn
from starlette.responses import Response

from fl_server import door
from fl_server.door import PatientProtocol, PublicServer, raise_file_limit
from fl_server.limits import Pace


def still_open(connection: socket.socket) -> bool:
    """Whether the other side has kept `connection`; a request on it is answered then."""
    try:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        return connection.recv(1000).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def let_in(*sources: str, pace: Pace | None = None) -> tuple[list[bool], bool]:
    """Which of the connections from `sources`, made in turn, are let in, and whether one is afterwards."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    config = uvicorn.Config(
        Response(b"ok"), http=PatientProtocol, ws="none", lifespan="off", log_config=None, access_log=False
    )

    def visit() -> tuple[list[bool], bool]:
        guests = [socket.create_connection(address, 10, (source, 0)) for source in sources]
        kept = [still_open(guest) for guest in guests]
        for guest in guests:
            guest.close()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:  # until the server has seen that the others are gone
            with socket.create_connection(address, 10) as late:
                if still_open(late):
                    return kept, True
            time.sleep(0.02)
        return kept, False

    async def host() -> tuple[list[bool], bool]:
        server = PublicServer(config, listener, None, pace or Pace())
        serving = asyncio.create_task(server.serve())
        try:
            return await asyncio.to_thread(visit)
        finally:
            server.should_exit = True
            await serving

    return asyncio.run(host())


def test_an_address_has_a_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "PER_ADDRESS", 3)
    kept, later = let_in(*["127.0.0.2"] * 5, *["127.0.0.3"] * 2)
    assert kept == [True, True, True, False, False, True, True]
    assert later


def test_an_address_has_a_pace() -> None:
    kept, later = let_in(*["127.0.0.2"] * 5, "127.0.0.3", pace=Pace(burst=3, rate=0.01))
    assert kept == [True, True, True, False, False, True]
    assert later, "that is another address"


def test_there_is_an_end_to_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_CONNECTIONS", 4)
    kept, later = let_in(*(f"127.0.0.{number}" for number in range(2, 8)))
    assert kept == [True] * 4 + [False] * 2
    assert later


def test_the_file_limit_is_raised_as_far_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.setrlimit", lambda _, wanted: asked.append(wanted))
    for most in (1000, 10**6, -1):
        monkeypatch.setattr("resource.getrlimit", lambda _, most=most: (256, most))
        raise_file_limit()
    enough = door.MOST_CONNECTIONS + door.RESERVED_FILES
    assert asked == [(1000, 1000), (enough, 10**6), (enough, -1)]
