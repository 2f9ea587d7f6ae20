"""A small collection that is quickly read, with which worlds are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from simulations.scenario import DataChoice, Scenario, TaskChoice

SPEAKERS, WORDS, TAKES = 8, ("ja", "nein"), 3


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 0.2 s laid out as Speech Commands are: speakers s0 to s7, with 3 takes of each of 2 words."""
    root, rng = tmp_path_factory.mktemp("collection"), np.random.default_rng(0)
    for word in WORDS:
        (root / word).mkdir()
        for speaker in range(SPEAKERS):
            for take in range(TAKES):
                sound = 0.1 * rng.standard_normal(3200)
                soundfile.write(root / word / f"s{speaker}_nohash_{take}.wav", sound, 16_000)
    return root


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test, and every process that it starts, out of the cache of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("own")))
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps energies for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small(collection: Path) -> Scenario:
    """Six devices of one speaker of the collection each; two are unseen."""
    return Scenario.model_validate(
        {
            "name": "small",
            "data": DataChoice(path=collection, unseen=2),
            "task": TaskChoice(clip_seconds=0.2),
            "population": {"devices": 6},
        }
    )
