"""Memory and processor time of the listening process, beside torch stepping the same model and wake word
engines.

    python -m benchmarks.listener [--seconds 20] [--rounds 3] [--peer-python PYTHON] [--json]

Each is a process of its own, with one thread to compute with, and hears the same sound at the pace of sound
from its standard input. What its start costs is not counted. PYTHON is of an environment with the peers:

    pip install onnxruntime pyopen-wakeword==1.1.0 pymicro-wakeword==2.5.0
    pip install --no-deps openwakeword==0.4.0

Resident memory counts what is shared with other processes in full; "shared out" is the PSS, in which each has
its part of that; "own" is in no other process. A step is the time from a hop's sound to its scores; an event
is on its way from when the block with its last sample is written to the listener until its line is read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil
import soundfile
from numpy.typing import NDArray

from benchmarks.peers import wake_words
from common.audio.front_end import SAMPLE_RATE
from common.audio.golden import golden_clip
from common.files import sha256
from common.protocol.release import (
    GRAPH,
    MANIFEST,
    WEIGHTS,
    Anchor,
    Golden,
    Manifest,
    describe_tensors,
    digest_of,
    write_release,
)
from common.protocol.tensors import encode_weights
from common.security.canonical import canonical
from common.task import Task
from fl_client.listen.sources.source import PERIOD
from fl_client.store import ModelStore

LABELS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "unknown", "silence")
WARM_UP_SECONDS = 6.0
"""Heard before anything is measured: all have started by then and are in time with the sound again."""

STEPS = 3000

CERTAIN = 100.0
"""With logits so much larger, random weights take any sound for some word, and another for another word."""


@dataclass(frozen=True)
class Usage:
    """What a process needs: megabytes, and seconds of processor time per second of sound."""

    resident: float
    shared_out: float
    own: float
    processor: float


@dataclass(frozen=True)
class Subject:
    """One line of the table: what is run, and how many samples it is given at a time."""

    name: str
    command: list[str]
    samples: int


def untrained_release(version: int, certainty: float = 1.0) -> dict[str, bytes]:
    """The files of a default model for twelve labels with random weights, which cost what trained ones do.

    Args:
        certainty: by how much its logits are larger than those of fresh weights.
    """
    import torch

    from common.models.acoustic import HEAD
    from common.models.export import export_graph
    from common.models.golden import golden_scores
    from common.models.registry import build_model
    from common.models.weights import get_weights

    task = Task(labels=LABELS)
    model = build_model(task, torch.Generator().manual_seed(version))
    graph_bytes, graph = export_graph(model, task)
    weights = get_weights(model)
    weights |= {name: certainty * value for name, value in weights.items() if name.startswith(HEAD)}
    data, created = encode_weights(weights), datetime(2026, 1, 1, tzinfo=UTC)
    manifest = Manifest(
        coordinator="0" * 64,
        version=version,
        created=created,
        expires=created + timedelta(days=365),
        task=task,
        weights=sha256(data),
        tensors=describe_tensors(weights),
        graph=graph,
        golden=Golden(digest=digest_of(golden_clip(task.clip_samples)), scores=golden_scores(task, weights)),
        evidence=Anchor(entries=0, head="0" * 64),
    )
    return {MANIFEST: canonical(manifest), WEIGHTS: data, GRAPH: graph_bytes}


def write_sound(path: Path, seconds: float) -> None:
    """Noise whose level goes up and down four times a second, like syllables."""
    count = round(seconds * SAMPLE_RATE)
    level = 0.05 * (1.1 + np.sin(2 * np.pi * 4 * np.arange(count) / SAMPLE_RATE))
    soundfile.write(
        path, np.random.default_rng(0).standard_normal(count) * level, SAMPLE_RATE, subtype="PCM_16"
    )


def melody(seconds: float) -> NDArray[np.int16]:
    """Tones of half a second that are all different."""
    time_axis = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 200.0 * 1.2 ** np.random.default_rng(0).permutation(math.ceil(2 * seconds))
    sound = np.sin(2 * np.pi * pitch[(2 * time_axis).astype(int)] * time_axis)
    return (8000 * sound).astype(np.int16)


def measure(subject: Subject, sound: bytes, seconds: float) -> Usage:
    """Play `sound` to a process, over and over, and see what it needs for `seconds` of it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        subject.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    ) as child:
        process = psutil.Process(child.pid)
        pieces = _pieces(sound, 2 * subject.samples)
        _play(child, pieces, WARM_UP_SECONDS, subject.samples)
        before = process.cpu_times()
        _play(child, pieces, seconds, subject.samples)
        after, memory = process.cpu_times(), process.memory_full_info()
    used = after.user + after.system - before.user - before.system
    return Usage(memory.rss / 1e6, memory.pss / 1e6, memory.uss / 1e6, used / seconds)


def measure_events(home: Path, sound: bytes, seconds: float) -> list[float]:
    """Seconds from the end of each event's sound to its line, while blocks of 40 ms come as sound does."""
    command = [sys.executable, "-m", "fl_client.listen", "--source", "stdin", "--home", str(home)]
    given: list[float] = []

    def timed() -> Iterator[bytes]:
        for piece in _pieces(sound, 2 * PERIOD):
            given.append(time.perf_counter())
            yield piece

    with (
        ThreadPoolExecutor(1) as reader,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        lines = reader.submit(lambda out: [(time.perf_counter(), line) for line in out], child.stdout)
        _play(child, timed(), WARM_UP_SECONDS + seconds, PERIOD)
        child.stdin.close()
    taken = []
    for read, line in lines.result():
        facts = json.loads(line)
        if facts["type"] == "event" and facts["end"] > WARM_UP_SECONDS:
            last = math.ceil(round(facts["end"] * SAMPLE_RATE) / PERIOD) - 1
            taken.append(read - given[last])
    return taken


def _pieces(sound: bytes, size: int) -> Iterator[bytes]:
    return cycle([sound[start : start + size] for start in range(0, len(sound) - size + 1, size)])


def _play(child: subprocess.Popen[bytes], pieces: Iterator[bytes], seconds: float, samples: int) -> None:
    assert child.stdin is not None
    due = time.monotonic()
    for _ in range(round(seconds * SAMPLE_RATE / samples)):
        due += samples / SAMPLE_RATE
        time.sleep(max(0.0, due - time.monotonic()))
        child.stdin.write(next(pieces))
        child.stdin.flush()


def run_torch(home: Path) -> None:
    """Step the release's model in eager torch, block by block as the listener does, until the input ends."""
    import torch

    from common.audio.stream import StreamFrontEnd
    from common.models.acoustic import StreamingModel
    from common.models.registry import build_model
    from common.models.weights import set_weights
    from fl_client.listen.sources import open_source

    torch.set_num_threads(1)
    release = ModelStore(home / "models").load_current()
    assert release is not None
    task = release.manifest.task
    model = build_model(task, torch.Generator())
    assert isinstance(model, StreamingModel)
    set_weights(model, release.weights)
    front_end = StreamFrontEnd(task.front_end)
    state = model.initial_state(1)
    recent = torch.empty(1, 0, len(LABELS))
    with open_source("stdin") as source, torch.inference_mode():
        while (block := source.read()) is not None:
            frames = front_end.feed(block.samples)
            if len(frames):
                logits, state = model.step(torch.from_numpy(frames[None]), state)
                recent = torch.cat((recent, logits), dim=1)
                windows = recent.unfold(1, min(task.clip_frames, recent.shape[1]), 1)
                windows.logsumexp(dim=-1).softmax(dim=-1)
                recent = recent[:, -(task.clip_frames - 1) :]


def run_steps(home: Path) -> None:
    """Print the median and the 99th percentile of the seconds that the listener takes for a hop of 10 ms."""
    from fl_client.listen.recognizer import Recognizer

    release = ModelStore(home / "models").load_current()
    assert release is not None
    recognizer = Recognizer(release)
    hop = release.manifest.task.front_end.hop
    sound, _ = soundfile.read(home / "sound.wav", dtype="float32")
    taken = []
    for start in range(0, (STEPS + 500) * hop, hop):
        block = np.take(sound, range(start, start + hop), mode="wrap")
        began = time.perf_counter()
        recognizer.feed(block)
        taken.append(time.perf_counter() - began)
    print(json.dumps(np.percentile(taken[500:], (50, 99)).tolist()))


def subjects(folder: Path, peer_python: str) -> list[Subject]:
    """All that is compared; a peer that is not installed is named and left out."""
    here = [sys.executable, "-m", "benchmarks.listener"]
    listen = [sys.executable, "-m", "fl_client.listen", "--source", "stdin", "--home"]
    found = [
        Subject(f"listener, blocks of {ms} ms", [*listen, str(folder / "main")], ms * SAMPLE_RATE // 1000)
        for ms in (10, 20, 40)
    ]
    found.append(Subject("listener, 3 tasks, 40 ms", [*listen, str(folder / "three")], PERIOD))
    found.append(Subject("torch eager, 40 ms", [*here, "--torch", str(folder / "main")], PERIOD))
    for name in wake_words.ENGINES:
        samples = wake_words.SAMPLES[name]
        command = [peer_python, wake_words.__file__, name]
        if subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True).returncode:
            print(f"{name}: not installed for {peer_python}; see --help", file=sys.stderr)
        else:
            found.append(Subject(f"{name}, {samples * 1000 // SAMPLE_RATE} ms", command, samples))
    return found


def make_homes(folder: Path) -> None:
    """A device with one task in `main`, one with three in `three`, and one that is sure of what it hears in
    `sure`."""
    files, sure = untrained_release(1), untrained_release(1, certainty=CERTAIN)
    for home in ("main", "three", "second", "third", "sure"):
        write_release(folder / home / "models" / "00000001", sure if home == "sure" else files)
        (folder / home / "models" / "current").write_text("1\n")
        if home != "main":
            tasks = '[tasks]\nsecond = "../second"\nthird = "../third"\n' if home == "three" else ""
            settings = f'name = "{home}"\nserver = "127.0.0.1:1"\ncoordinator = "{"0" * 64}"\n{tasks}'
            (folder / home / "device.toml").write_text(settings)


def median(usages: list[Usage]) -> Usage:
    """Of each figure by itself."""
    columns = zip(*(asdict(usage).values() for usage in usages), strict=True)
    return Usage(*(round(statistics.median(column), 5) for column in columns))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of sound in each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; the table has medians")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="Python of an environment with the peers"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--torch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        make_homes(options.export)
    elif options.torch:
        run_torch(options.torch)
    elif options.steps:
        run_steps(options.steps)
    else:
        compare(options.seconds, options.rounds, options.peer_python, as_json=options.json)


def compare(seconds: float, rounds: int, peer_python: str, *, as_json: bool) -> None:
    """Measure all in turn, `rounds` times, and print the medians."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder, here = Path(name), [sys.executable, "-m", "benchmarks.listener"]
        # Exported in a child, so that this process has no torch that shares its pages with what is measured.
        subprocess.run([*here, "--export", name], check=True)
        write_sound(folder / "main" / "sound.wav", 10.0)
        sound, _ = soundfile.read(folder / "main" / "sound.wav", dtype="int16")
        compared = subjects(folder, peer_python)
        usages: dict[str, list[Usage]] = {subject.name: [] for subject in compared}
        steps, events = [], []
        for _ in range(rounds):
            for subject in compared:
                usages[subject.name].append(measure(subject, sound.tobytes(), seconds))
            answer = subprocess.run(
                [*here, "--steps", str(folder / "main")], check=True, capture_output=True
            ).stdout
            steps.append(json.loads(answer))
            events += measure_events(folder / "sure", melody(10.0).tobytes(), seconds)
    rows = {name: median(found) for name, found in usages.items()}
    middle, late = (statistics.median(column) * 1e3 for column in zip(*steps, strict=True))
    print(f"{'':28}{'resident MB':>12}{'shared out':>12}{'own':>8}{'processor %':>13}")
    for name, row in rows.items():
        figures = f"{row.resident:12.1f}{row.shared_out:12.1f}{row.own:8.1f}{row.processor:13.2%}"
        print(f"{name:28}{figures}")
    print(f"a step of the listener: median {middle:.3f} ms, 99th percentile {late:.3f} ms")
    soon, later = (1e3 * seconds for seconds in np.percentile(events, (50, 99)))
    print(f"{len(events)} events on their way: median {soon:.1f} ms, 99th percentile {later:.1f} ms")
    if as_json:
        found = {name: asdict(row) for name, row in rows.items()}
        facts = {"benchmark": "listener", "rows": found, "step_ms": [middle, late], "event_ms": [soon, later]}
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
