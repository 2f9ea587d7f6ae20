"""Where sound comes from: recordings, standard input, a microphone, a WebSocket."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

from common.errors import DeviceError
from fl_client.callers import Callers
from fl_client.listen.sources.microphone import Microphone
from fl_client.listen.sources.pcm import Pcm
from fl_client.listen.sources.source import Block, Source
from fl_client.listen.sources.websocket import WebSocketPcm

__all__ = ["SPELLING", "Block", "Source", "open_source"]

SPELLING = "mic, stdin, file:PATH or dir:PATH with [,loop][,fast], or ws:ADDRESS:PORT"

_SOCKET = re.compile(r"ws:(\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:]+\]):(\d{1,5})")


def open_source(spec: str, token: Path | None = None) -> Source:
    """The source that `spec` names, spelled as in `SPELLING`.

    Recordings are played in real time, over and over with `loop`, and as fast as they are read with `fast`.

    Args:
        token: file with what senders of sound must know; see `Callers`.

    Raises:
        DeviceError: FA-4203, `spec` is none of these.
    """
    kind, _, rest = spec.partition(":")
    if spec == "stdin":
        return Pcm(0)
    if spec == "mic":
        return Microphone()
    if kind in ("file", "dir") and rest:
        return _recordings(kind, rest)
    if (found := _SOCKET.fullmatch(spec)) and 0 < int(found[2]) < 1 << 16:
        address = found[1].strip("[]")
        if _is_address(address):
            return WebSocketPcm(Callers(address, token), int(found[2]))
    raise DeviceError("FA-4203", f"'{spec}' is no source of sound.", f"Use {SPELLING}.")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _recordings(kind: str, rest: str) -> Source:
    # Here, because a listener at a microphone does without 2 MB of libsndfile.
    from fl_client.listen.sources.recordings import Fast, Live, play_file, play_folder

    flags = set()
    while rest.endswith((",loop", ",fast")):
        rest, _, flag = rest.rpartition(",")
        flags.add(flag)
    play = (play_folder if kind == "dir" else play_file)(Path(rest), loop="loop" in flags)
    return Fast(play) if "fast" in flags else Live(play)
