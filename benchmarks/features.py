"""Cost of the features of one second of audio, beside torchaudio, librosa and a bare FFT of the same frames.

    python -m benchmarks.features [--json]

One thread. Every round times each contender, so that a busy machine hits all alike; medians over the rounds.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import librosa
import numpy as np
import scipy
import torch

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import SAMPLE_RATE, LogMel
from common.audio.stream import StreamFrontEnd
from common.audio.torchaudio_import import import_torchaudio

ROUNDS, CALLS = 41, 5
BATCH = 16
BARE = "bare FFT (numpy rfft)"


def contenders() -> dict[str, tuple[Callable[[], object], int]]:
    """By name: a call and the seconds of audio it turns into features."""
    config = LogMel()
    second = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32) * 0.1
    frames = np.lib.stride_tricks.sliding_window_view(second, config.window)[:: config.hop]
    clip = torch.from_numpy(second)[None]
    clips = clip.repeat(BATCH, 1)
    batch = BatchFrontEnd(config)
    stream = StreamFrontEnd(config)
    hops = np.split(second, SAMPLE_RATE // config.hop)
    mel_spectrogram = import_torchaudio().transforms.MelSpectrogram(
        sample_rate=SAMPLE_RATE,
        n_fft=config.window,
        hop_length=config.hop,
        f_min=config.low_hz,
        f_max=config.high_hz,
        n_mels=config.bands,
        center=False,
    )

    def librosa_mel() -> np.ndarray:
        return librosa.feature.melspectrogram(
            y=second,
            sr=SAMPLE_RATE,
            n_fft=config.window,
            hop_length=config.hop,
            n_mels=config.bands,
            fmin=config.low_hz,
            fmax=config.high_hz,
            htk=True,
            norm=None,
            center=False,
        )

    return {
        BARE: (lambda: np.fft.rfft(frames), 1),
        "fedaudio batch, mel powers": (lambda: batch.energies(clip), 1),
        "torchaudio MelSpectrogram": (lambda: mel_spectrogram(clip), 1),
        "librosa melspectrogram": (librosa_mel, 1),
        f"fedaudio batch, mel powers x{BATCH}": (lambda: batch.energies(clips), BATCH),
        f"torchaudio MelSpectrogram x{BATCH}": (lambda: mel_spectrogram(clips), BATCH),
        "fedaudio batch, log-mel (PCEN)": (lambda: batch(clip), 1),
        f"fedaudio batch, log-mel (PCEN) x{BATCH}": (lambda: batch(clips), BATCH),
        "librosa melspectrogram + pcen": (
            lambda: librosa.pcen(librosa_mel(), sr=SAMPLE_RATE, hop_length=160),
            1,
        ),
        "fedaudio stream, log-mel, whole second": (lambda: stream.feed(second), 1),
        "fedaudio stream, log-mel, 10 ms hops": (lambda: [stream.feed(hop) for hop in hops], 1),
    }


def measure() -> dict[str, float]:
    """Median microseconds per second of audio, by contender."""
    calls = contenders()
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for call, _ in calls.values():
            call()
        for _ in range(ROUNDS):
            for name, (call, seconds) in calls.items():
                begin = time.perf_counter()
                for _ in range(CALLS):
                    call()
                times[name].append((time.perf_counter() - begin) / CALLS / seconds * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = measure()
    print(f"{'40 mel bands, window 400, hop 160':42} {'us per audio-second':>20} {'x bare FFT':>11}")
    for name, microseconds in results.items():
        print(f"{name:42} {microseconds:20.0f} {microseconds / results[BARE]:11.2f}")
    if arguments.json:
        versions = {"python": platform.python_version()} | {
            module.__name__: module.__version__ for module in (np, scipy, torch, import_torchaudio(), librosa)
        }
        rows = [
            {"name": name, "us_per_audio_second": round(value, 1), "ratio": round(value / results[BARE], 3)}
            for name, value in results.items()
        ]
        print(json.dumps({"benchmark": "features", "versions": versions, "rows": rows}))


if __name__ == "__main__":
    main()
