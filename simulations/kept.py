"""What devices keep from one round to the next, on disk: a folder a device, a file a round."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load_file, save

from common.files import make_folder, write_atomic
from common.protocol.tensors import Weights


class Kept:
    """Of each device the newest two rounds stay, so that one that was broken off can be held again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, device: int, before: int) -> Weights:
        """What `device` kept in its newest round below `before`; empty if there was none."""
        rounds = [number for number in self._rounds(device) if number < before]
        return load_file(self._file(device, max(rounds))) if rounds else {}

    def write(self, device: int, number: int, kept: Weights) -> None:
        """Keep `kept`, of round `number`, if it is anything."""
        if not kept:
            return
        make_folder(self._file(device, number).parent)
        write_atomic(self._file(device, number), save(kept), lasting=False)
        earlier = sorted(known for known in self._rounds(device) if known < number)
        for old in earlier[:-1]:
            self._file(device, old).unlink()

    def _rounds(self, device: int) -> list[int]:
        return [int(path.stem) for path in (self._folder / str(device)).glob("[0-9]*.safetensors")]

    def _file(self, device: int, number: int) -> Path:
        return self._folder / str(device) / f"{number}.safetensors"
