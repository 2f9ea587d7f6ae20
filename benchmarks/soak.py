"""A day of sound through a listener at full speed, with a new release every few minutes of it.

    python -m benchmarks.soak [--hours 24] [--every 300] [--data ../shared/data] [--json]

The sound is made as it goes, never twice the same: noise in two textures, tones, silence, and the recordings
under --data in an order of their own, if there are any. At the end every hop must have been scored once, and
the memory must not have grown since the first twentieth.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.listener import untrained_release
from common.audio.front_end import SAMPLE_RATE
from common.audio.reading import read_audio
from common.data.clips import AUDIO_SUFFIXES
from common.protocol.release import open_release
from fl_client.listen.recognizer import Recognizer

BLOCK = SAMPLE_RATE // 5

SEGMENT = 3 * SAMPLE_RATE

TONE = 3
"""The last kind of sound that is made; the kinds above it are recordings."""


def sound(seconds: float, recordings: Sequence[Path]) -> Iterator[NDArray[np.float32]]:
    """Blocks of 0.2 s; every three seconds something else is to be heard."""
    rng = np.random.default_rng(0)
    made, kind, level, pitch = 0, 0, 0.0, 0.0
    recorded = np.zeros(SEGMENT, np.float32)
    while made < seconds * SAMPLE_RATE:
        within = made % SEGMENT
        if within == 0:
            kind, level, pitch = int(rng.integers(8)), 10 ** rng.uniform(-3, -0.5), rng.uniform(100, 4000)
            if kind > TONE and recordings:
                chosen = read_audio(recordings[int(rng.integers(len(recordings)))])[:SEGMENT]
                recorded = np.pad(chosen, (0, SEGMENT - len(chosen))).astype(np.float32)
        noise = rng.standard_normal(BLOCK, np.float32)
        tone = np.sin(2 * np.pi * pitch / SAMPLE_RATE * np.arange(made, made + BLOCK))
        shapes = (np.zeros(BLOCK), noise, np.convolve(noise, np.ones(8) / 8, "same"), tone + 0.01 * noise)
        yield (level * shapes[kind]).astype(np.float32) if kind <= TONE else recorded[within : within + BLOCK]
        made += BLOCK


def measure(hours: float, every: float, recordings: Sequence[Path]) -> dict[str, float]:
    """Hear `hours` of sound, with a swap every `every` seconds of it."""
    releases = [open_release(untrained_release(seed)) for seed in (1, 2)]
    gc.collect()  # what making them has left
    recognizer, process = Recognizer(releases[0]), psutil.Process()
    total = 3600 * hours
    memory: list[float] = []
    offered, fed, outcomes = 0, 0, 0
    began, busy = time.perf_counter(), time.process_time()
    for block in sound(total, recordings):
        recognizer.feed(block)
        outcomes += len(recognizer.swaps())
        fed += len(block)
        if fed / SAMPLE_RATE > (offered + 1) * every:
            offered += 1
            release = releases[offered % 2]
            manifest = release.manifest.model_copy(update={"version": offered})
            recognizer.swap(replace(release, manifest=manifest))
        if fed / SAMPLE_RATE >= total * (len(memory) + 1) / 20:
            memory.append(process.memory_info().rss / 1e6)
    counters = recognizer.counters
    due = recognizer.task.front_end.frames(fed)
    assert (counters.hops, counters.dropped, counters.doubled) == (due, 0, 0), counters
    assert outcomes == counters.swaps + counters.refused + counters.rollbacks
    return {
        "hours": fed / SAMPLE_RATE / 3600,
        "wall_seconds": time.perf_counter() - began,
        "cpu_per_audio_second": (time.process_time() - busy) / (fed / SAMPLE_RATE),
        "rss_mb_start": memory[0],
        "rss_mb_middle": memory[len(memory) // 2],
        "rss_mb_end": memory[-1],
        "rss_mb_growth": memory[-1] - memory[0],
        "recordings": len(recordings),
        "offered": offered,
        **asdict(counters),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--every", type=float, default=300.0, help="seconds of sound from swap to swap")
    parser.add_argument("--data", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    recordings = sorted(path for path in options.data.rglob("*") if path.suffix in AUDIO_SUFFIXES)
    facts = measure(options.hours, options.every, recordings)
    for name, value in facts.items():
        print(f"{name:22}{value:14.4f}")
    if options.json:
        print(json.dumps({"benchmark": "soak", **facts}))


if __name__ == "__main__":
    main()
