"""Swapping models under a live stream on a machine that has no time to spare.

    python -m benchmarks.swap [--swaps 10000] [--json]

Sound comes in real time through the same backlog as a microphone's and is scored hop by hop, while another
thread offers one release after the other, each of which shadows the one at work for a tenth of a second, and
one process per core does nothing but compute. A switch is compared with the hops beside it, by the clock and,
since the machine takes the processor away from either, by processor time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from array import array
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil

from benchmarks.listener import untrained_release, write_sound
from common.audio.front_end import SAMPLE_RATE
from common.protocol.release import Release, open_release
from fl_client.listen.limits import SwapLimits
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.sources import open_source

LIMITS = SwapLimits(shadow_seconds=0.1)


def swap_on_and_on(recognizer: Recognizer, releases: list[Release], done: threading.Event) -> None:
    """A new version whenever the one before has taken over."""
    version = 0
    while not done.is_set():
        version += 1
        release = releases[version % len(releases)]
        recognizer.swap(replace(release, manifest=release.manifest.model_copy(update={"version": version})))
        while recognizer.version != version and not done.wait(0.005):
            pass


def burn() -> None:
    """Keep one core busy."""
    while True:
        np.linalg.norm(np.ones((64, 64)) @ np.ones((64, 64)))


def measure(swaps: int) -> dict[str, float]:
    """Listen under load until `swaps` have been made."""
    releases = [open_release(untrained_release(seed)) for seed in (1, 2)]
    recognizer = Recognizer(releases[0], limits=LIMITS)
    load = [
        multiprocessing.get_context("spawn").Process(target=burn, daemon=True)
        for _ in range(os.cpu_count() or 1)
    ]
    done = threading.Event()
    swapper = threading.Thread(target=swap_on_and_on, args=(recognizer, releases, done))
    with tempfile.TemporaryDirectory() as folder:
        write_sound(Path(folder) / "sound.wav", 10)
        for process in load:
            process.start()
        swapper.start()
        try:
            facts = listen(recognizer, Path(folder) / "sound.wav", swaps)
        finally:
            done.set()
            swapper.join()
            for process in load:
                process.kill()
                process.join()
    return facts | asdict(recognizer.counters)


def listen(recognizer: Recognizer, sound: Path, swaps: int) -> dict[str, float]:
    """Times of hops with and without a switch in them, in milliseconds, and memory in MB."""
    hop, process = recognizer.task.front_end.hop, psutil.Process()
    plain, switching = array("d"), array("d")  # wall and processor time in turn; lists would be the memory
    memory: dict[int, float] = {}
    fed, version = 0, recognizer.version
    with open_source(f"file:{sound},loop") as source:
        while (made := recognizer.counters.swaps) < swaps and (block := source.read()) is not None:
            if block.lost:
                recognizer.skip(block.lost, block.overruns)
            fed += len(block.samples)
            recognizer.swaps()  # which somebody reads, as in a listener
            for start in range(0, len(block.samples), hop):
                began, busy = time.perf_counter(), time.thread_time()
                recognizer.feed(block.samples[start : start + hop])
                took = time.perf_counter() - began, time.thread_time() - busy
                (plain if recognizer.version == version else switching).extend(took)
                version = recognizer.version
            tenth = 10 * made // swaps
            if made and tenth not in memory:
                memory[tenth] = process.memory_info().rss / 1e6
    expected = recognizer.task.front_end.frames(fed)
    assert recognizer.counters.hops == expected, f"{recognizer.counters.hops} hops scored of {expected}"
    facts: dict[str, float] = {"seconds": fed / SAMPLE_RATE, "hop_ms": 1e3 * hop / SAMPLE_RATE}
    for name, times in (("plain", plain), ("switch", switching)):
        for column, kind in enumerate(("wall", "cpu")):
            p50, p99, most = np.percentile(np.array(times).reshape(-1, 2)[:, column] * 1e3, [50, 99, 100])
            facts |= {
                f"{name}_{kind}_ms_p50": p50,
                f"{name}_{kind}_ms_p99": p99,
                f"{name}_{kind}_ms_max": most,
            }
    for kind in ("wall", "cpu"):
        facts[f"extra_{kind}_ms_max"] = facts[f"switch_{kind}_ms_max"] - facts[f"plain_{kind}_ms_p50"]
    first, middle, last = memory[min(memory)], memory[sorted(memory)[len(memory) // 2]], memory[max(memory)]
    return facts | {"rss_mb_start": first, "rss_mb_middle": middle, "rss_mb_end": last}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--swaps", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    facts = measure(options.swaps)
    for name, value in facts.items():
        print(f"{name:20}{value:12.3f}")
    if options.json:
        print(json.dumps({"benchmark": "swap", **facts}))


if __name__ == "__main__":
    main()
