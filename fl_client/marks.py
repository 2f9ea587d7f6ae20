"""How far things have come that never go back: high-water marks in one small file, beside the keys.

Whatever happens to the model store or to the network, a device does not take an older release, an older trust
statement or an older round than it has seen, and never uses the counter of an envelope twice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from common.errors import DeviceError
from common.files import is_there, locked, read_if_there, write_atomic
from common.security.canonical import canonical, read_canonical
from common.settings import Settings

MARKS, CERTIFICATE = "marks.json", "certificate.pem"


class Marks(Settings):
    """The marks. Zero or empty: nothing was seen yet.

    Args:
        release: highest version that was installed, plus one.
        trust: serial number of the newest trust statement.
        counter: of the last envelope.
        rounds: by run, twice the highest round that was taken on, plus one if its evaluation was.
        ledger: whether something was written into the device's ledger, which must be there from then on.
    """

    release: int = Field(0, ge=0)
    trust: int = Field(0, ge=0)
    counter: int = Field(0, ge=0)
    rounds: dict[str, int] = Field(default_factory=dict)
    ledger: bool = False


def read_marks(path: Path) -> Marks:
    """The marks in `path`; all zero before the device has a certificate, which lies beside them.

    Raises:
        DeviceError: FA-4008, the file is damaged or lost; a device does not guess what it has seen.
        StorageError: FA-8001, it cannot be read.
    """
    data = read_if_there(path)
    if data is None:
        # Marks come before the certificate, so whoever has one has had marks.
        if is_there(path.with_name(CERTIFICATE)):
            raise _unknown(path, "lost")
        return Marks()
    marks = read_canonical(Marks, data)
    if isinstance(marks, str):
        raise _unknown(path, "damaged")
    return marks


def raise_marks(path: Path, change: Callable[[Marks], Marks]) -> Marks:
    """Replace the marks by `change` of them, on disk before this returns. Many processes may do so.

    Raises:
        DeviceError: FA-4008, or what `change` raises; nothing is changed then.
        StorageError: FA-8001.
    """
    with locked(path.with_suffix(".lock")):
        before = read_marks(path)
        after = change(before)
        if after != before:
            write_atomic(path, canonical(after), mode=0o600)
    return after


def _unknown(path: Path, fate: str) -> DeviceError:
    return DeviceError(
        "FA-4008",
        f"{path} is {fate}, so it is not known which rounds and versions this device has seen.",
        "Restore the file, or enrol the device anew in another folder.",
    )
