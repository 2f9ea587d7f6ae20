"""What a model learns before it meets any device: all but its head, from clips that are nobody's secret.

It costs no privacy, and under privacy it decides what can be learned at all: noise comes with every parameter
that is trained, and a body that knows sounds leaves few of them to train.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.audio.batch import BatchFrontEnd
from common.data.clips import Clips
from common.data.features import FeatureSet, load_features
from common.data.synthetic.corpus import kept_corpus
from common.data.synthetic.words import BABBLE
from common.files import make_folder, read_if_there, sha256, write_atomic
from common.models.acoustic import AcousticModel, without_head
from common.models.registry import build_model
from common.models.tc_window import SHRINKAGE, TcWindow
from common.models.weights import get_weights
from common.protocol.plan import Recipe
from common.protocol.tensors import Weights, decode_weights, encode_weights, schema_of
from common.task import Task
from common.training.examples import labels_of, plain_features
from common.training.trainer import train
from common.version import VERSION

EPOCHS = 6
"""Enough for babble: after ten, words that were never heard are told apart worse, by 2 points."""

FAST, FAST_RATE, SLOW_RATE = 0.75, 2e-3, 4e-4
"""Share of the epochs that come first, their learning rate, and that of the rest."""

BABBLE_VOICES = 50

SEED = 5
"""Of babble and of the training on it. Other corpora have other seeds, and so other voices."""

_BATCH = 64
"""Windows pooled at once."""


def make_babble(cache: Path, voices: int = BABBLE_VOICES) -> Clips:
    """Clips of made-up words in synthetic voices, each word once by each; made in `cache` unless they are.

    Raises:
        StorageError: FA-8001.
    """
    return Clips.load(
        kept_corpus(cache, kind="babble", voices=voices, labels=len(BABBLE), takes=1, seed=SEED)
    )


def learn_body(
    collections: Sequence[Clips], task: Task, cache: Path, *, epochs: int = EPOCHS, seed: int = SEED
) -> Weights:
    """All parameters but the head's of a model for `task`, trained to tell the labels of `collections` apart.

    The same label in two collections counts as two. Clips are cut into windows of a second at most, whatever
    windows the task decides about: a body takes any length.

    Args:
        cache: folder that keeps the clips' energies, and what was learned from them.

    Raises:
        DataError: FA-2007, a collection has no usable clips.
        TrainingError: FA-7001 architecture, FA-7004 the training diverged.
        StorageError: FA-8001.
    """
    labels = tuple(f"{number} {label}"[:64] for number, one in enumerate(collections) for label in one.labels)
    heard = task.model_copy(update={"labels": labels, "clip_seconds": min(1.0, task.clip_seconds)})
    model = build_model(heard, torch.Generator().manual_seed(seed))
    body = without_head(get_weights(model))
    parts = [
        load_features(one, heard.model_copy(update={"labels": one.labels}), cache / "energies")
        for one in collections
    ]
    known = make_folder(cache / "bodies") / f"{_key(parts, heard, epochs, seed)}.safetensors"
    data = read_if_there(known)
    if data is None:
        _train(model, _together(collections, parts), heard, epochs, seed)
        data = encode_weights(without_head(get_weights(model)))
        write_atomic(known, data)
    return decode_weights(data, schema_of(body))


def _key(parts: Sequence[FeatureSet], task: Task, epochs: int, seed: int) -> str:
    """Names all that a body is made from."""
    recipes = [recipe.model_dump_json() for recipe in _recipes(epochs)]
    # The files of energies are named by the sound files they are made from.
    names = [Path(str(getattr(part.energies, "filename", ""))).stem for part in parts]
    labels = [sha256(part.labels.tobytes()) for part in parts]
    return sha256(
        json.dumps([VERSION, SHRINKAGE, names, labels, task.model_dump_json(), recipes, seed]).encode()
    )


def _together(collections: Sequence[Clips], parts: Sequence[FeatureSet]) -> FeatureSet:
    """All parts as one, whose labels are those of all collections one after the other."""
    firsts = np.cumsum([0, *(len(one.labels) for one in collections)])
    labels = np.concatenate([part.labels + first for part, first in zip(parts, firsts, strict=False)])
    return FeatureSet(np.concatenate([part.energies for part in parts]), labels, np.arange(len(labels)))


def _recipes(epochs: int) -> list[Recipe]:
    fast = max(1, round(FAST * epochs))
    parts = ((fast, FAST_RATE), (epochs - fast, SLOW_RATE))
    return [Recipe(epochs=count, batch_size=32, learning_rate=rate) for count, rate in parts if count]


def _train(model: AcousticModel, data: FeatureSet, task: Task, epochs: int, seed: int) -> None:
    front_end, generator = BatchFrontEnd(task.front_end), torch.Generator().manual_seed(seed)
    for recipe in _recipes(epochs):
        train(model, front_end, data, recipe, generator, noise_seed=seed)
    if isinstance(model, TcWindow):
        windows = np.arange(len(data))
        with torch.no_grad():
            pooled = torch.cat(
                [
                    model.pooled(plain_features(front_end, data, windows[start : start + _BATCH]))
                    for start in range(0, len(windows), _BATCH)
                ]
            )
        model.whiten_by(pooled, labels_of(data, windows))
