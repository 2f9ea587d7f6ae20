"""Wake word engines on PCM from standard input. Runs in the peers' environment; knows nothing of fedaudio.

    python wake_words.py openwakeword|pyopen_wakeword|pymicro_wakeword < 16 kHz, 16 bit, mono

Each has one model of its own at work, and is fed as its authors feed it. Ends with its input.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np

Hear = Callable[[bytes], object]

SAMPLES = {"openwakeword": 1280, "pyopen_wakeword": 1280, "pymicro_wakeword": 160}
"""Each is given at a time."""


def openwakeword() -> Hear:
    """openWakeWord on ONNX Runtime."""
    # What trains verifiers brings scikit-learn along, which listening does not need.
    verifier = types.ModuleType("openwakeword.custom_verifier_model")
    verifier.train_custom_verifier = None  # type: ignore[attr-defined]
    sys.modules[verifier.__name__] = verifier
    import openwakeword as engine

    folder = Path(engine.__file__).parent / "resources" / "models"
    model = engine.Model(wakeword_model_paths=[str(folder / "alexa_v0.1.onnx")])
    return lambda data: model.predict(np.frombuffer(data, np.int16))


def pyopen_wakeword() -> Hear:
    """The same networks on TensorFlow Lite, as Home Assistant's satellites run them."""
    from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures

    features, model = OpenWakeWordFeatures.from_builtin(), OpenWakeWord.from_builtin(Model.ALEXA)
    return lambda data: [list(model.process_streaming(row)) for row in features.process_streaming(data)]


def pymicro_wakeword() -> Hear:
    """microWakeWord, quantised for microcontrollers; one word."""
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    features, model = MicroWakeWordFeatures(), MicroWakeWord.from_builtin(Model.ALEXA)
    return lambda data: [model.process_streaming(row) for row in features.process_streaming(data)]


ENGINES = {engine.__name__: engine for engine in (openwakeword, pyopen_wakeword, pymicro_wakeword)}


def main() -> None:
    """Hear standard input to its end."""
    hear, samples = ENGINES[sys.argv[1]](), SAMPLES[sys.argv[1]]
    while len(data := sys.stdin.buffer.read(2 * samples)) == 2 * samples:
        hear(data)


if __name__ == "__main__":
    main()
