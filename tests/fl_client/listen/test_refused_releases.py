"""No release can deafen a device: what cannot be run is passed over, and an older version listens."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import DeviceError, ProtocolError
from common.protocol.release import MANIFEST, Release, write_release
from fl_client.listen import scorer
from fl_client.listen.engine import Engine
from fl_client.listen.events import MAIN
from fl_client.listen.following import Follower
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.room import Room
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release
from tests.made_manifests import put, signed


def with_graph(version: int, **changes: object) -> dict[str, bytes]:
    """Files of a release whose manifest says other things of its graph."""
    files = make_release(version).files
    document = json.loads(files[MANIFEST])
    document["graph"].update(changes)
    return signed(files | {MANIFEST: json.dumps(document, separators=(",", ":")).encode()})


@pytest.mark.parametrize("changes", [{"receptive_field": 10**12}, {"state": {"state.0": [10**9, 10**8]}}])
def test_an_immense_release_is_not_installed_and_not_stumbled_over(
    changes: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    store = ModelStore(home / "models", home / "marks.json")
    put(store, make_release(1).files)
    with pytest.raises(ProtocolError, match="FA-3011"):
        put(store, with_graph(2, **changes))
    # It got there all the same.
    write_release(store.root / "00000002", with_graph(2, **changes))
    (store.root / "current").write_text("2\n")
    found = Follower(Room(MAIN, store)).begin()
    assert found is not None
    assert found.version == 1


@pytest.mark.parametrize("values", [10**17, 2**44])
def test_memory_that_is_not_there_is_a_refusal(values: int) -> None:
    release = make_release(1).release
    graph = release.manifest.graph
    # More than any machine addresses; the manifest's own limits are passed by.
    immense = graph.model_copy(update={"state": dict(graph.state) | {"state.0": (values, 8)}})
    manifest = release.manifest.model_copy(update={"graph": immense})
    with pytest.raises(DeviceError, match="FA-4201"):
        Engine(replace(release, manifest=manifest))


def scores_of(release: Release, sound: NDArray[np.float32]) -> list[dict[str, float]]:
    recognizer = Recognizer(release)
    return [
        recognizer.scores
        for start in range(0, len(sound), 3000)
        if recognizer.feed(sound[start : start + 3000]) is not None
    ]


def test_scores_do_not_depend_on_how_many_are_computed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = np.random.default_rng(0).normal(scale=0.1, size=32_000).astype(np.float32)
    release = make_release(1).release
    at_once = scores_of(release, sound)
    monkeypatch.setattr(scorer, "AT_ONCE", 1)
    one_by_one = scores_of(release, sound)
    assert any(any(scores.values()) for scores in at_once)
    for expected, scores in zip(at_once, one_by_one, strict=True):
        assert scores == pytest.approx(expected, abs=1e-6)
