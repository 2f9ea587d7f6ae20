"""A worker of `ProcessPool`: the same loaded model does one device's work after another.

Run as `python -m simulations.worker WORLD SCENARIO SEED KEPT ORDERS ANSWERS`, with the descriptors of two
files; messages come on standard input and replies go to standard output, see `simulations.pool`.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from pathlib import Path

from simulations.pool import FROM_WORKER, ORDER, SLOT_BYTES, TO_WORKER, write_whole
from simulations.scenario import Scenario
from simulations.workbench import Workbench


def main() -> None:
    """Work until standard input ends, which it also does when whoever started this dies."""
    world, scenario, seed, kept, orders, answers = sys.argv[1:]
    bench = Workbench(Path(world), Scenario.model_validate_json(scenario), int(seed), Path(kept))
    _reply(0, 0.0)
    while len(message := sys.stdin.buffer.read(TO_WORKER.size)) == TO_WORKER.size:
        begin = time.monotonic()
        device, *numbers = TO_WORKER.unpack(message)
        if device == ORDER:
            plan_bytes, tensor_bytes = numbers
            view = memoryview(mmap.mmap(int(orders), plan_bytes + tensor_bytes, access=mmap.ACCESS_READ))
            bench.take_order(bytes(view[:plan_bytes]), view[plan_bytes:])
            continue
        slot, attacks = numbers
        answer = bench.answer(device, bool(attacks))
        try:
            write_whole(int(answers), answer, slot * SLOT_BYTES)
            size = len(answer)
        except OSError as error:
            size = -(error.errno or 0)
        _reply(size, time.monotonic() - begin)


def _reply(size: int, seconds: float) -> None:
    os.write(sys.stdout.fileno(), FROM_WORKER.pack(size, seconds))


if __name__ == "__main__":
    main()
