"""A body that has learned from some sounds is of use for others, and is made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import SAMPLE_RATE, LogMel
from common.data.clips import Clips
from common.data.features import load_features
from common.data.synthetic.words import BABBLE, WORDS
from common.models.acoustic import without_head
from common.models.registry import build_model
from common.models.weights import get_weights
from common.task import Task
from common.training.examples import plain_features
from common.training.warm_start import _recipes, learn_body, make_babble

TASK = Task(
    labels=("left", "right"), front_end=LogMel(bands=12), architecture="tc-window", width=8, clip_seconds=0.3
)


def collection(folder: Path, hertz: dict[str, float], clips: int = 6) -> Clips:
    """Tones in noise, a folder of wav files for each label."""
    rng, time = np.random.default_rng(len(hertz)), np.arange(round(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    for label, pitch in hertz.items():
        (folder / label).mkdir(parents=True)
        for number in range(clips):
            sound = 0.1 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal(len(time))
            soundfile.write(folder / label / f"s{number}_nohash_0.wav", sound, SAMPLE_RATE)
    return Clips.load(folder)


@pytest.fixture
def collections(tmp_path: Path) -> list[Clips]:
    """Two, with a label in common that means something else in each."""
    first = collection(tmp_path / "first", {"left": 300, "up": 900})
    return [first, collection(tmp_path / "second", {"left": 2700, "down": 5000, "on": 1500})]


def test_it_is_a_body_for_the_task(collections: list[Clips], tmp_path: Path) -> None:
    body = learn_body(collections, TASK, tmp_path / "cache", epochs=2)
    untrained = without_head(get_weights(build_model(TASK, torch.Generator().manual_seed(0))))
    assert {name: value.shape for name, value in body.items()} == {
        name: value.shape for name, value in untrained.items()
    }


@pytest.mark.parametrize("epochs", [1, 2, 3, 6, 7, 100])
def test_it_hears_its_clips_as_often_as_is_asked(epochs: int) -> None:
    assert sum(recipe.epochs for recipe in _recipes(epochs)) == epochs


def test_it_is_learned_once_and_again_when_anything_changes(collections: list[Clips], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = learn_body(collections, TASK, cache, epochs=2)
    (known,) = (cache / "bodies").iterdir()
    written = known.stat().st_mtime_ns
    again = learn_body(collections, TASK.model_copy(update={"labels": ("a", "b", "c")}), cache, epochs=2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert [file.stat().st_mtime_ns for file in (cache / "bodies").iterdir()] == [written]
    learn_body(collections, TASK, cache, epochs=4)
    learn_body(collections[:1], TASK, cache, epochs=2)
    learn_body(collections, TASK.model_copy(update={"width": 12}), cache, epochs=2)
    assert len(list((cache / "bodies").iterdir())) == 4


def test_embeddings_of_what_it_learned_from_are_centred(collections: list[Clips], tmp_path: Path) -> None:
    """Which is how one sees that the last layer of the body was set, and not left as it was trained."""
    body = learn_body(collections[:1], TASK, tmp_path / "cache", epochs=2)
    model = build_model(TASK, torch.Generator())
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.from_numpy(body[name].copy()) if name in body else torch.zeros_like(value))
        task = TASK.model_copy(update={"labels": collections[0].labels})
        data = load_features(collections[0], task, tmp_path / "cache" / "energies")
        features = plain_features(BatchFrontEnd(TASK.front_end), data, np.arange(len(data)))
        embedded = model.whiten(model.pooled(features))  # type: ignore[operator]
    assert embedded.mean(0).abs().max() < 1e-3
    assert embedded.abs().max() > 0.1


def test_babble_has_no_word_that_is_to_be_told_apart_later(tmp_path: Path) -> None:
    assert len(set(BABBLE)) == len(BABBLE) == 300
    assert not set(BABBLE) & set(WORDS)
    clips = make_babble(tmp_path / "babble", voices=1)
    assert len(clips) == 301
    (manifest,) = tmp_path.glob("babble/corpora/*/manifest.csv")
    made = manifest.stat().st_mtime_ns
    assert make_babble(tmp_path / "babble", voices=1) == clips
    assert manifest.stat().st_mtime_ns == made
