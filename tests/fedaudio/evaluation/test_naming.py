"""Clips named through the exported graph are named as training's own evaluation names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import SAMPLE_RATE
from common.data.clips import Clips
from common.data.features import load_features
from common.data.synthetic.corpus import make_corpus
from common.errors import TrainingError
from common.evaluation.conditions import CLEAN, CONDITIONS
from common.models.weights import get_weights
from common.task import Task
from common.training.examples import plain_features
from common.training.metrics import evaluate
from fedaudio.evaluation.naming import Namer, name_clips, triable
from tests.fl_client.listen.made_releases import make_release, resealed


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = tmp_path_factory.mktemp("corpus")
    return Clips.load(make_corpus(folder, kind="words", voices=3, labels=3, takes=4, seed=2))


def nothing(done: float) -> None:
    del done


@pytest.mark.parametrize(
    ("architecture", "seconds"), [("tc-stream", 1.0), ("tc-stream", 0.4), ("ds-cnn", 1.0), ("ds-cnn", 1.5)]
)
def test_it_is_what_training_says(architecture: str, seconds: float, clips: Clips, tmp_path: Path) -> None:
    """Clips of one second in windows of one, of several, and in a window that is not filled."""
    task = Task(labels=clips.labels, architecture=architecture, width=16, clip_seconds=seconds)
    made = make_release(1, task=task)
    data = load_features(clips, task, tmp_path)
    front_end = BatchFrontEnd(task.front_end)
    with torch.no_grad():
        # Untrained, it would call all clips the same.
        logits = made.model(plain_features(front_end, data, np.arange(len(data))))
        made.model.get_parameter("classify.bias").sub_(logits.mean(dim=0))
    release = resealed(made, weights=get_weights(made.model))
    reference = evaluate(made.model, front_end, data)
    answers, damaged = name_clips(release, triable(clips, task), ["-"] * len(clips), [CLEAN], 0, nothing)
    assert damaged == ()
    assert np.array_equal(answers[CLEAN.name].given, reference.given)
    assert np.array_equal(answers[CLEAN.name].confusion, reference.confusion)
    assert len(set(reference.given)) > 1, "a model that always says the same proves nothing"


def test_a_sound_is_named_the_same_whatever_came_before(clips: Clips) -> None:
    namer = Namer(make_release(1, task=Task(labels=clips.labels, width=16)).release)
    rng = np.random.default_rng(0)
    sounds = [rng.standard_normal(SAMPLE_RATE).astype(np.float32) * level for level in (0.1, 0.001, 1.0)]
    first = [namer.name(sound) for sound in sounds]
    assert [namer.name(sound) for sound in reversed(sounds)] == first[::-1]


def test_labels_the_model_has_not_are_left_out_and_those_without_clips_named(clips: Clips) -> None:
    first, second, *others = clips.labels
    tried = triable(clips, Task(labels=(first, second, "unheard"), width=16))
    assert tried.extra == tuple(others)
    assert tried.missing == ("unheard",)
    assert set(tried.clips.labels) == {first, second}


def test_another_models_clips_are_refused(clips: Clips) -> None:
    with pytest.raises(TrainingError, match="FA-7060"):
        triable(clips, Task(labels=("ja", "nein"), width=16))


def test_a_clip_is_changed_in_the_same_way_whatever_it_is_tried_with(
    clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--only` some speakers, and robustness must be that of these speakers among all."""
    heard: list[bytes] = []
    monkeypatch.setattr(Namer, "name", lambda _, sound: heard.append(sound.tobytes()) or 0)
    task = Task(labels=clips.labels, width=16)
    release = make_release(1, task=task).release
    noisy = [condition for condition in CONDITIONS if condition.name == "babble, SNR 0 dB"]
    last = Clips(clips[-3:])
    for chosen in (clips, last):
        name_clips(release, triable(chosen, task), ["-"] * len(chosen), noisy, 0, nothing)
    assert len(heard) == len(clips) + 3
    assert heard[-3:] == heard[len(clips) - 3 : len(clips)]


def test_damaged_and_very_short_files_do_not_stop_it(tmp_path: Path) -> None:
    for label in ("yes", "no"):
        (tmp_path / label).mkdir()
        soundfile.write(tmp_path / label / "short.wav", np.full(5, 0.1), SAMPLE_RATE)
    (tmp_path / "no" / "torn.wav").write_bytes(b"RIFF")
    clips = Clips.load(tmp_path)
    task = Task(labels=("no", "yes"), width=16)
    done = []
    answers, damaged = name_clips(
        make_release(1, task=task).release, triable(clips, task), ["-"] * 3, CONDITIONS, 0, done.append
    )
    assert [Path(file).name for file, _ in damaged] == ["torn.wav"]
    assert {found.accuracy.trials for found in answers.values()} == {2}
    assert sum(done) == 2 * len(CONDITIONS)


def test_nothing_but_damaged_files_is_said(tmp_path: Path) -> None:
    (tmp_path / "yes").mkdir()
    (tmp_path / "yes" / "torn.wav").write_bytes(b"RIFF")
    task = Task(labels=("no", "yes"), width=16)
    with pytest.raises(TrainingError, match="FA-7060"):
        name_clips(
            make_release(1, task=task).release,
            triable(Clips.load(tmp_path), task),
            ["-"],
            [CLEAN],
            0,
            nothing,
        )
