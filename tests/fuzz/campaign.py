"""A campaign: so many mutants of each target, and what became of them."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from common.errors import FedAudioError
from tests.fuzz.mutators import mutate
from tests.fuzz.targets import OtherValueError, Target

SLOW_SECONDS = 1.0
KEPT = 5


@dataclass
class Tally:
    """What became of the mutants of one target.

    Args:
        other: that were other messages such as their sender may send, in their one encoding.
        failures: the first few that should not have been: what happened, and the mutant in hexadecimal.
    """

    name: str
    mutants: int = 0
    refused: int = 0
    other: int = 0
    accepted: int = 0
    crashed: int = 0
    slow: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.accepted or self.crashed or self.slow)

    def fail(self, what: str, data: bytes) -> None:
        if len(self.failures) < KEPT:
            self.failures.append((what, data.hex()))


def run(target: Target, mutants: int, seed: int) -> Tally:
    """Check `mutants` mutants of `target`, all of them different from what is good."""
    rng, tally = random.Random(f"{seed}/{target.name}"), Tally(target.name)
    good = {target.same(data) for data in target.corpus}
    while tally.mutants < mutants:
        data = mutate(rng, target.corpus, target.fields)
        if target.same(data) not in good:
            check(target, data, tally)
    return tally


def check(target: Target, data: bytes, tally: Tally) -> None:
    """Check one mutant and count what became of it."""
    tally.mutants += 1
    begin = time.perf_counter()
    try:
        target.check(data)
    except FedAudioError as error:
        tally.refused += 1
        tally.codes[error.code] = tally.codes.get(error.code, 0) + 1
    except OtherValueError:
        tally.other += 1
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - panics of Rust code are no Exceptions, and count
        tally.crashed += 1
        tally.fail(f"crashed: {error!r}", data)
    else:
        tally.accepted += 1
        tally.fail("accepted", data)
    took = time.perf_counter() - begin
    tally.seconds += took
    tally.slowest = max(tally.slowest, took)
    if took > SLOW_SECONDS:
        tally.slow += 1
        tally.fail(f"took {took:.1f} s", data)
