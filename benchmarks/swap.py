"""Swapping models under a live stream on a machine that has no time to spare.

    python -m benchmarks.swap [--seconds 60] [--every 0.1] [--json]

Sound comes in real time through the same backlog as a microphone's and is scored hop by hop, while another
thread swaps releases and one process per core does nothing but compute.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.listener import untrained_release, write_sound
from common.audio.front_end import SAMPLE_RATE
from common.protocol.release import Release, open_release
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.sources import LiveFile


def swap_on_and_on(
    recognizer: Recognizer, releases: list[Release], every: float, done: threading.Event
) -> None:
    """A new version every `every` seconds, by deadlines."""
    due, version = time.monotonic(), 0
    while not done.wait(max(0.0, due - time.monotonic())):
        version += 1
        release = releases[version % len(releases)]
        manifest = release.manifest.model_copy(update={"version": version})
        recognizer.swap(replace(release, manifest=manifest))
        due += every


def burn() -> None:
    """Keep one core busy."""
    while True:
        np.linalg.norm(np.ones((64, 64)) @ np.ones((64, 64)))


def measure(seconds: float, every: float) -> dict[str, float]:
    """Listen for `seconds` under load; see the counters for what was lost."""
    releases = [open_release(untrained_release(seed)) for seed in (1, 2)]
    recognizer = Recognizer(releases[0])
    hop = releases[0].manifest.task.front_end.hop
    load = [
        multiprocessing.get_context("spawn").Process(target=burn, daemon=True)
        for _ in range(os.cpu_count() or 1)
    ]
    done = threading.Event()
    swapper = threading.Thread(target=swap_on_and_on, args=(recognizer, releases, every, done))
    times: list[float] = []
    fed = 0
    with tempfile.TemporaryDirectory() as folder:
        write_sound(Path(folder) / "sound.wav", 10)
        for process in load:
            process.start()
        with LiveFile(Path(folder) / "sound.wav", loop=True) as source:
            swapper.start()
            while fed < seconds * SAMPLE_RATE and (block := source.read()) is not None:
                if block.lost:
                    recognizer.skip(block.lost, block.overruns)
                fed += len(block.samples)
                for start in range(0, len(block.samples), hop):
                    began = time.perf_counter()
                    recognizer.feed(block.samples[start : start + hop])
                    times.append(time.perf_counter() - began)
            done.set()
            swapper.join()
        for process in load:
            process.kill()
            process.join()
    counters = recognizer.counters
    expected = releases[0].manifest.task.front_end.frames(fed)
    assert counters.hops == expected, f"{counters.hops} hops scored of {expected}"
    p50, p99, longest = np.percentile(times, [50, 99, 100]) * 1e3
    return {
        "seconds": fed / SAMPLE_RATE,
        "hop_ms_p50": round(p50, 3),
        "hop_ms_p99": round(p99, 3),
        "hop_ms_max": round(longest, 3),
        **asdict(counters),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=0.1, help="seconds from one swap to the next")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    facts = measure(options.seconds, options.every)
    for name, value in facts.items():
        print(f"{name:20}{value:12.3f}")
    if options.json:
        print(json.dumps({"benchmark": "swap", **facts}))


if __name__ == "__main__":
    main()
