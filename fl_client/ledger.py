"""What a device has spent, in a file that only grows.

Privacy is reserved, and on the disk, before the first noisy step. A training that does not come to its end
has spent it all the same: nothing is ever given back. `fl_client.chain` keeps the lines, `fl_client.witness`
how far they go, and `fl_client.account` says what they mean.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from common.files import is_there, locked, make_folder
from common.settings import load_settings
from fl_client.account import Account, Entry
from fl_client.chain import Chain, Place, spoiled
from fl_client.home import DeviceHome
from fl_client.marks import MARKS, raise_marks, read_marks
from fl_client.old_ledger import OLD_LEDGER, read_old_ledger, remove
from fl_client.settings import DeviceSettings
from fl_client.witness import no_witness, put_back, raise_witness, read_witness


class Ledger:
    """The ledger in one file. Many threads and processes may use it.

    It is opened when it is first used; if that fails it is tried again at the next use. All uses raise

        DeviceError: FA-4043 it is damaged or lost, FA-4061 the witness is, FA-4062 it was put back to an
            older state, FA-4008 the marks are damaged: a device does not guess what it has spent;
        StorageError: FA-8001.

    Args:
        path: ledger.db; marks.json, and perhaps an older ledger that is taken over, lie beside it.
        witness: file that tells how far it has come.
        key: that MACs are made with; without it nothing is written, and MACs are not looked at.
    """

    def __init__(self, path: Path, witness: Path, key: bytes | None) -> None:
        self._path, self._witness, self._key = path, witness, key
        self._turn = path.with_suffix(".lock")
        self._lock = threading.Lock()
        self._chain: Chain | None = None
        self._place, self._account = Place(), Account()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._chain is not None:
                self._chain.close()
                self._chain = None

    @property
    def witness(self) -> Path:
        """The file that tells how far it has come."""
        return self._witness

    @property
    def witnessed(self) -> int:
        """How many lines that file tells of."""
        place = read_witness(self._witness, self._key)
        return 0 if place is None else place.seq

    def account(self) -> Account:
        """What was spent up to now."""
        with self._lock:
            self._catch_up(self._opened())
            return deepcopy(self._account)

    def entries(self) -> list[tuple[int, Entry]]:
        """All lines and their numbers, each checked anew."""
        with self._lock:
            return [(place.seq, self._read(place, text)) for place, text in self._opened().lines(Place())]

    def write(self, decide: Callable[[Account], Entry | None]) -> None:
        """Add what `decide` makes of all that was spent before, if anything; on disk before this returns.

        Nobody else writes between what `decide` is told and what it says. If it raises, nothing is written;
        after any other error the line may be there all the same.
        """
        if self._key is None:
            raise ValueError("a ledger without its key is only for reading")
        with self._lock:
            chain = self._opened()
            with locked(self._turn):
                with chain.alone():
                    self._catch_up(chain)
                    entry = decide(self._account)
                    if entry is None:
                        return
                    place = chain.append(self._place, _text(entry))
                # In this order, a power cut between the two leaves a witness that is only behind.
                raise_witness(self._witness, self._key, place)

    def _opened(self) -> Chain:
        if self._chain is None:
            with locked(self._turn):
                chain = Chain(self._path, self._key)
                try:
                    self._begin(chain)
                except BaseException:
                    chain.close()
                    raise
                self._chain = chain
        return self._chain

    def _begin(self, chain: Chain) -> None:
        """Return if all is there that ever was. Where nothing was, have it known that now something is."""
        old, marks = self._path.with_name(OLD_LEDGER), self._path.with_name(MARKS)
        self._place, self._account = Place(), Account()
        self._catch_up(chain)
        witness = read_witness(self._witness, self._key)
        if witness is not None and not chain.has(witness):
            raise put_back(self._place.seq, witness.seq)
        if witness is None and self._place.seq:
            raise no_witness(self._witness, "lost")
        if witness is None and read_marks(marks).ledger and not is_there(old):
            raise spoiled(self._path, "it is lost")
        taken_over = read_old_ledger(old) if is_there(old) and not self._place.seq else []
        if self._key is None:
            for entry in taken_over:
                self._account.add(entry)
            return
        if witness is None or witness.seq < self._place.seq:
            make_folder(self._witness.parent, mode=0o700)
            raise_witness(self._witness, self._key, self._place)
        if taken_over:
            self._take_over(taken_over, chain, self._key)
        remove(old)
        raise_marks(marks, lambda before: before.model_copy(update={"ledger": True}))

    def _take_over(self, entries: list[Entry], chain: Chain, key: bytes) -> None:
        place = self._place
        with chain.alone():
            for entry in entries:
                place = chain.append(place, _text(entry))
        raise_witness(self._witness, key, place)

    def _catch_up(self, chain: Chain) -> None:
        for place, text in chain.lines(self._place):
            self._account.add(self._read(place, text))
            self._place = place

    def _read(self, place: Place, text: bytes) -> Entry:
        try:
            return Entry.model_validate_json(text)
        except ValidationError as error:
            # It is what was written, so a newer version has done that.
            raise spoiled(self._path, f"line {place.seq} makes no sense to this version") from error


def open_ledger(home: DeviceHome, key: bytes | None = None) -> Ledger:
    """The ledger in `home`, with the witness that its device.toml names.

    Raises:
        ConfigError: FA-6001..FA-6003 device.toml.
    """
    named = load_settings(DeviceSettings, home.config).witness
    return Ledger(home.ledger, home.witness if named is None else home.root / named, key)


def _text(entry: Entry) -> bytes:
    return entry.model_dump_json(exclude_none=True).encode()
