"""Memory and processor time of the listening process, beside torch stepping the same model.

    python -m benchmarks.listener [--seconds 20] [--json]

Real time: a file at the pace of sound, in blocks of 20 ms. Fast: more of the same sound as fast as it is
read, in blocks of a second. The peer runs the same front end on the same blocks and steps the model in torch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypedDict

import numpy as np
import psutil
import soundfile

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
from fl_client.listen.sources import open_source
from fl_client.store import ModelStore

LABELS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "unknown", "silence")
FAST_FACTOR = 30
"""The fast runs hear this many times as much sound as the run in real time."""


class Row(TypedDict):
    """One line of the table."""

    name: str
    rss_mb: float
    rtf: float
    audio_seconds: float


def untrained_release(version: int) -> dict[str, bytes]:
    """The files of a default model for twelve labels with random weights, which cost what trained ones do."""
    import torch

    from common.models.export import export_graph
    from common.models.golden import golden_scores
    from common.models.registry import build_model
    from common.models.weights import get_weights

    task = Task(labels=LABELS)
    model = build_model(task, torch.Generator().manual_seed(version))
    graph_bytes, graph = export_graph(model, task)
    weights = get_weights(model)
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


def measure_listener(name: str, home: Path, source: str, seconds: float | None) -> Row:
    """Run the real process for `seconds`, or to the end of the sound, and read its own report."""
    status = home / "listener.json"
    status.unlink(missing_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-m", "fl_client.listen", "--home", str(home), "--source", source]
    )
    if seconds is not None:
        while not status.exists():
            time.sleep(0.05)
        time.sleep(seconds)
        child.terminate()
    child.wait()
    report = json.loads(status.read_bytes())
    assert child.returncode == 0
    assert report["dropped"] == report["doubled"] == 0
    return Row(name=name, rss_mb=report["rss_mb"], rtf=report["rtf"], audio_seconds=report["seconds"])


def run_peer(home: Path, spec: str, seconds: float) -> Row:
    """Step the release's model in eager torch, block by block as the listener does."""
    import torch

    from common.audio.stream import StreamFrontEnd
    from common.models.acoustic import StreamingModel
    from common.models.registry import build_model
    from common.models.weights import set_weights

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
    heard, began = 0, time.process_time()
    with open_source(spec) as source, torch.inference_mode():
        while heard < seconds * SAMPLE_RATE and (block := source.read()) is not None:
            heard += len(block.samples)
            frames = front_end.feed(block.samples)
            if len(frames):
                logits, state = model.step(torch.from_numpy(frames[None]), state)
                recent = torch.cat((recent, logits), dim=1)
                windows = recent.unfold(1, min(task.clip_frames, recent.shape[1]), 1)
                windows.logsumexp(dim=-1).softmax(dim=-1)
                recent = recent[:, -(task.clip_frames - 1) :]
    rtf = (time.process_time() - began) / heard * SAMPLE_RATE
    memory = psutil.Process().memory_info().rss / 1e6
    return Row(name="", rss_mb=round(memory, 1), rtf=round(rtf, 5), audio_seconds=heard / SAMPLE_RATE)


def measure_peer(name: str, home: Path, source: str, seconds: float) -> Row:
    """`run_peer` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.listener", "--peer", str(home), source, str(seconds)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row: Row = json.loads(answer.splitlines()[-1])
    row["name"] = name
    return row


def measure(seconds: float) -> list[Row]:
    """All rows, each from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home, sound = Path(folder), Path(folder) / "sound.wav"
        # Exported in a child, so that no row is measured beside a torch in this process.
        subprocess.run([sys.executable, "-m", "benchmarks.listener", "--export", folder], check=True)
        longer = seconds * FAST_FACTOR
        write_sound(sound, longer)
        live, fast = f"file:{sound},loop", f"file:{sound},fast"
        return [
            measure_listener("listener, real time", home, live, seconds),
            measure_peer("torch eager, real time", home, live, seconds),
            measure_listener("listener, fast", home, fast, None),
            measure_peer("torch eager, fast", home, fast, longer),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the run in real time")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        write_release(options.export / "models" / "00000001", untrained_release(1))
        (options.export / "models" / "current").write_text("1\n")
    elif options.peer:
        home, source, seconds = options.peer
        print(json.dumps(run_peer(Path(home), source, float(seconds))))
    else:
        os.environ["OMP_NUM_THREADS"] = "1"
        rows = measure(options.seconds)
        print(f"{'':24}{'resident MB':>12}{'CPU s per audio s':>20}{'audio s':>10}")
        for row in rows:
            print(f"{row['name']:24}{row['rss_mb']:12.1f}{row['rtf']:20.5f}{row['audio_seconds']:10.0f}")
        if options.json:
            print(json.dumps({"benchmark": "listener", "rows": rows}))


if __name__ == "__main__":
    main()
