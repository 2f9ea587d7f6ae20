"""`fedaudio model evaluate`, from end to end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common import pictures
from common.data.synthetic.corpus import make_corpus
from common.errors import FedAudioError, TrainingError
from common.evaluation.conditions import CONDITIONS
from common.files import storage_error
from common.protocol.release import write_release
from common.task import Task
from fedaudio.cli import app
from fedaudio.evaluation import figures
from tests.fl_client.listen.made_releases import make_release


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    return make_corpus(folder, kind="words", voices=3, labels=3, takes=2, seed=2).parent


@pytest.fixture(scope="module")
def release(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = sorted(folder.name for folder in corpus.iterdir() if folder.is_dir())
    folder = tmp_path_factory.mktemp("models") / "1"
    write_release(folder, make_release(1, task=Task(labels=(*labels, "unheard"), width=16)).files)
    return folder


def evaluate(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["model", "evaluate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def document(*arguments: object) -> dict[str, Any]:
    found = json.loads(evaluate(*arguments, "--json"))
    assert isinstance(found, dict)
    return found


def test_it_counts_every_clip(release: Path, corpus: Path) -> None:
    clips = document(release, corpus)["clips"]
    assert clips["accuracy"]["trials"] == 3 * 4 * 2
    assert sum(map(sum, clips["confusion"])) == 24
    assert sum(clips["confusion"][place][place] for place in range(5)) == clips["accuracy"]["hits"]
    assert clips["missing_labels"] == ["unheard"]
    assert clips["labels"]["unheard"]["recall"]["share"] is None
    assert {name: share["trials"] for name, share in clips["groups"].items()} == dict.fromkeys(
        ("v000", "v001", "v002"), 8
    )


def test_only_some_speakers(release: Path, corpus: Path) -> None:
    clips = document(release, corpus, "--only", "v001,v002")["clips"]
    assert set(clips["groups"]) == {"v001", "v002"}
    with pytest.raises(FedAudioError, match="FA-2009"):
        evaluate(release, corpus, "--only", "nobody")


def test_a_person_is_told_the_same(release: Path, corpus: Path) -> None:
    clips = document(release, corpus)["clips"]
    said = evaluate(release, corpus)
    assert f"Accuracy {clips['accuracy']['share']:.1%}" in said
    assert "No clip has the label: unheard." in said
    worst = next(iter(clips["groups"]))
    assert f"The worst is {worst}" in " ".join(said.split())


def test_robustness_is_the_same_for_the_same_seed(release: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = (release, corpus, "--robustness", "--seed", 3)
    found = document(*arguments, "--out", tmp_path / "out")
    assert list(found["clips"]["conditions"]) == [each.name for each in CONDITIONS]
    assert found["clips"]["conditions"]["as recorded"] == found["clips"]["accuracy"]
    assert document(*arguments)["clips"] == found["clips"]
    assert [Path(picture).name for picture in found["pictures"]] == ["confusion.png", "robustness.png"]
    assert all(Path(picture).read_bytes().startswith(b"\x89PNG") for picture in found["pictures"])
    said = evaluate(*arguments)
    assert all(each.name in said for each in CONDITIONS)


def test_streaming_states_what_was_heard(release: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = (release, corpus, "--streaming", "--hours", "0.01", "--only", "v001", "--negatives", corpus)
    found = document(*arguments, "--out", tmp_path)["streaming"]
    assert found["words"] == 6
    assert found["hours"]["talk"] == pytest.approx(0.005)
    assert {"background", "negatives"} <= set(found["hours"])
    assert found["shipped"]["threshold"] == 0.6
    for point in found["sweep"]:
        heard = point["false_accepts_per_hour"]
        assert heard["rate"] == pytest.approx(
            sum(point["false_accepts"].values()) / sum(found["hours"].values())
        )
        assert heard["low"] <= heard["rate"] <= heard["high"]
        for name, one in point["by_sound"].items():
            assert one["rate"] == pytest.approx(point["false_accepts"][name] / found["hours"][name])
            assert one["low"] <= one["rate"] <= one["high"]
    assert (tmp_path / "det.png").read_bytes().startswith(b"\x89PNG")
    said = " ".join(re.sub("[│┃]", " ", evaluate(*arguments)).split())
    assert "6 words in noise at an SNR of 10 dB" in said
    for name, one in found["shipped"]["by_sound"].items():
        assert f"{name} {found['hours'][name]:.2f} {one['rate']:.3g} [" in said, name
    words = {folder.name for folder in corpus.iterdir() if folder.is_dir()} - {"background"}
    assert set(found["negatives_with_own_words"]) == words
    assert "Negatives have labels of the model" in said


def test_pictures_without_matplotlib_are_refused_before_anything_is_done(
    release: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pictures.__dict__["__builtins__"], "__import__", _without_matplotlib)
    with pytest.raises(TrainingError, match="FA-7061"):
        evaluate(release, corpus, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


_IMPORT = __import__


def _without_matplotlib(name: str, *arguments: Any) -> Any:
    if name.startswith("matplotlib"):
        raise ImportError(name)
    return _IMPORT(name, *arguments)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_done(
    corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FedAudioError, match="FA-8001"):
        evaluate("/nowhere", corpus, "--out", tmp_path / "taken")


def test_results_are_told_even_if_a_picture_fails(
    release: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(figure: object, path: Path) -> Path:
        raise storage_error(f"{path} could not be written", OSError(28, "No space left on device"))

    monkeypatch.setattr(figures, "save_figure", full)
    arguments = ["model", "evaluate", str(release), str(corpus), "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, FedAudioError)
    assert json.loads(result.stdout)["clips"]["accuracy"]["trials"] == 24


def test_a_label_with_dollars_is_drawn_as_it_is(tmp_path: Path) -> None:
    clips = make_corpus(tmp_path / "made", kind="words", voices=1, labels=1, takes=1, seed=2).parent
    (clips / "manifest.csv").unlink()
    (word,) = (each for each in clips.iterdir() if each.name != "background")
    word.rename(clips / "$^$")
    task = Task(labels=("$^$", "background"), width=16)
    write_release(tmp_path / "1", make_release(1, task=task).files)
    (picture,) = document(tmp_path / "1", clips, "--out", tmp_path / "out")["pictures"]
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", ["--hours", "--snr-db", "--false-accepts"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_no_number_is_refused(option: str, value: str, release: Path, corpus: Path) -> None:
    arguments = ["model", "evaluate", str(release), str(corpus), "--streaming", option, value]
    result = CliRunner().invoke(app, arguments)
    # Outside of a range, or inside of it and yet no number.
    assert result.exit_code == 2 or "FA-6003" in str(result.exception)


def test_negatives_that_nobody_listens_to_are_refused(release: Path, corpus: Path) -> None:
    with pytest.raises(TrainingError, match="FA-7063"):
        evaluate(release, corpus, "--negatives", corpus)
