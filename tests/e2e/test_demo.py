"""The demo, as a person runs it: real processes, a real corpus, a model that can be used afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fedaudio
from common.data.synthetic.corpus import make_corpus
from common.results import DemoResults
from tests.processes import run_cli

ROUNDS = 2


def run_demo(out: Path, *arguments: str) -> DemoResults:
    """Run `fedaudio demo` and keep what it prints in printed.json."""
    done = run_cli("demo", "--out", str(out), "--json", *arguments, patience=280)
    # Whether so few rounds already helped is the status, 0 or 1; anything else is a failure.
    assert done.returncode in {0, 1}, done.stderr
    assert "Traceback" not in done.stderr
    (out / "printed.json").write_text(done.stdout)
    return DemoResults.model_validate_json((out / "results.json").read_bytes())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo left of a corpus a twentieth the size of its own."""
    root = tmp_path_factory.mktemp("demo")
    make_corpus(root / "corpus", kind="words", voices=5, labels=3, takes=5, seed=1)
    run_demo(root / "out", "--rounds", str(ROUNDS), "--devices", "2", "--data", str(root / "corpus"))
    return root / "out"


@pytest.fixture(scope="module")
def results(out: Path) -> DemoResults:
    return DemoResults.model_validate_json((out / "results.json").read_bytes())


def test_the_printed_results_are_those_in_the_file(out: Path, results: DemoResults) -> None:
    assert DemoResults.model_validate_json((out / "printed.json").read_bytes()) == results
    assert set(json.loads((out / "results.json").read_bytes())) == set(DemoResults.model_fields)


def test_every_round_was_held_by_everybody(results: DemoResults) -> None:
    assert [row.round for row in results.rounds] == list(range(1, ROUNDS + 1))
    assert [row.version for row in results.rounds] == list(range(1, ROUNDS + 1))
    for row in results.rounds:
        assert (row.participants, row.failed) == (2, 0)
        assert 0 <= row.accuracy_unseen <= 1
        assert row.bytes_up > 100_000
        assert row.bytes_down > row.bytes_up
        assert 0 <= row.overhead_seconds <= row.seconds
    assert results.final.accuracy_unseen == results.rounds[-1].accuracy_unseen
    assert results.rounds[-1].loss < 5


def test_nobody_who_judges_was_learned_from(results: DemoResults) -> None:
    train, validation, unseen = map(
        set, (results.speakers.train, results.speakers.validation, results.speakers.unseen)
    )
    assert len(train) == 4
    assert len(unseen) == 1
    assert not train & validation
    assert not unseen & (train | validation)


def test_listening_lost_nothing_at_any_swap(results: DemoResults) -> None:
    listening = results.listening
    assert listening.hops > 100
    assert (listening.dropped, listening.doubled) == (0, 0)
    assert listening.swaps >= 2
    assert 0 <= listening.max_gap_seconds < 0.5


def test_without_dp_no_privacy_is_claimed(results: DemoResults) -> None:
    assert results.final.epsilon is None
    assert results.config["dp"] is False


def test_the_release_listens(out: Path) -> None:
    release = fedaudio.load_release(out / "release")
    assert release.version == ROUNDS
    assert release.manifest.parent == ROUNDS - 1
    assert release.manifest.participants == 2
    recognizer = fedaudio.Recognizer(release)
    rng = np.random.default_rng(0)
    events = [
        event
        for _ in range(40)
        for event in recognizer.feed(rng.normal(scale=0.1, size=1600).astype(np.float32))
    ]
    assert all(event.label in release.manifest.task.labels for event in events)


@pytest.mark.slow
def test_the_built_in_corpus_is_learned(tmp_path: Path) -> None:
    results = run_demo(tmp_path / "out", "--rounds", "4", "--devices", "2")
    assert results.speakers.validation
    assert results.final.accuracy_unseen > results.initial.accuracy_unseen + 0.2
    assert (
        fedaudio.load_release(tmp_path / "out" / "release").manifest.metrics.validation_accuracy is not None
    )
