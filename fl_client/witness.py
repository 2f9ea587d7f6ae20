"""How far the ledger has come, told by another file: so that an older ledger put in its place is noticed.

The file lies in another folder, or where the owner's device.toml says, which is best on another disk: then
also an image of the whole disk that is restored is noticed. It may be a line behind, for it comes after it.
It is never ahead.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from pydantic import Field

from common.errors import DeviceError
from common.files import read_if_there, write_atomic
from common.security.canonical import canonical, read_canonical
from common.settings import Settings
from fl_client.chain import Place, mac_of


class Testimony(Settings):
    """What the file says: the number and digest of a line that was written."""

    seq: int = Field(ge=0)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    mac: str = Field("", pattern=r"^([0-9a-f]{64})?$")

    def signed(self, key: bytes) -> Testimony:
        """The same with its MAC, which is another than that of the line."""
        unsigned = self.model_copy(update={"mac": ""})
        mac = mac_of(key, b"fedaudio/witness/v1\0" + canonical(unsigned))
        return self.model_copy(update={"mac": mac.hex()})


def raise_witness(path: Path, key: bytes, place: Place) -> None:
    """Have `path` say that the line at `place` was written; on disk before this returns.

    Raises:
        StorageError: FA-8001.
    """
    testimony = Testimony(seq=place.seq, digest=place.digest.hex()).signed(key)
    write_atomic(path, canonical(testimony), mode=0o600)


def read_witness(path: Path, key: bytes | None) -> Place | None:
    """How far the ledger had come when `path` was written; None if it is not there.

    Args:
        key: without it the MAC is not looked at.

    Raises:
        DeviceError: FA-4061, it makes no sense, or another has written it.
        StorageError: FA-8001, it cannot be read.
    """
    data = read_if_there(path)
    if data is None:
        return None
    testimony = read_canonical(Testimony, data)
    if isinstance(testimony, str):
        raise no_witness(path, f"damaged ({testimony})")
    if key is not None and not hmac.compare_digest(testimony.mac, testimony.signed(key).mac):
        raise no_witness(path, "not this device's")
    return Place(testimony.seq, bytes.fromhex(testimony.digest))


def no_witness(path: Path, fate: str) -> DeviceError:
    """The error of a file that ought to say how far the ledger has come, and does not."""
    return DeviceError(
        "FA-4061",
        f"{path}, which tells how far the device's ledger has come, is {fate}.",
        "Bring the disk or the file back; without it, enrol the device anew in another folder.",
    )


def put_back(seq: int, least: int) -> DeviceError:
    """The error of a ledger that once went further, or otherwise."""
    return DeviceError(
        "FA-4062",
        f"The device's ledger has {seq} lines and once had {least} or others: "
        "it was lost or put back to an older state.",
        "Bring back the newest ledger; if it is lost, enrol the device anew in another folder.",
    )
