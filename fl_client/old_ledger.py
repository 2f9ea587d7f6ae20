"""The ledger of versions before 0.2, one small JSON file, as lines for the ledger of now."""

from __future__ import annotations

from datetime import date, datetime, time
from pathlib import Path

from pydantic import Field

from common.files import is_there, read_if_there, storage_error, sync_folder
from common.security.canonical import read_canonical
from common.settings import Settings
from fl_client.account import Cost, Entry
from fl_client.chain import spoiled

OLD_LEDGER = "ledger.json"


class _Spent(Settings):
    noise_multiplier: float = Field(gt=0, le=1000, allow_inf_nan=False)
    sampling_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=0)


class _OldLedger(Settings):
    day: str
    rounds: int = Field(ge=0)
    last: str
    spent: tuple[_Spent, ...]
    exact: int = Field(ge=0)


def read_old_ledger(path: Path) -> list[Entry]:
    """What `path` says, in lines that add up to the same.

    Raises:
        DeviceError: FA-4043, it is damaged.
        StorageError: FA-8001, it cannot be read.
    """
    old = read_canonical(_OldLedger, read_if_there(path) or b"")
    if isinstance(old, str):
        raise spoiled(path, old)
    now = datetime.now().astimezone()
    lines = [
        Entry(state="reserved", time=now, cost=Cost(unit="clip", **spent.model_dump())) for spent in old.spent
    ]
    if old.exact:
        lines.append(Entry(state="exact", time=now, count=old.exact))
    if old.day:
        run, _, number = old.last.partition("/")
        try:
            day = datetime.combine(date.fromisoformat(old.day), time(12)).astimezone()
            lines.append(Entry(state="round", time=day, run=run, round=int(number), count=old.rounds))
        except ValueError as error:
            raise spoiled(path, str(error)) from error
    return lines


def remove(path: Path) -> None:
    """See that there is no `path` any more, also after a power cut.

    Raises:
        StorageError: FA-8001.
    """
    if not is_there(path):
        return
    try:
        path.unlink()
    except OSError as error:
        raise storage_error(f"{path} could not be removed", error) from error
    sync_folder(path.parent)
