"""The listener listens with the head that the device keeps; the rest of a release is everybody's."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from common.models.acoustic import HEAD
from common.protocol.algorithms import PERSONAL, AlgorithmName
from common.protocol.release import Release
from common.protocol.tensors import Weights, encode_weights
from fl_client.home import DeviceHome
from fl_client.kept import personal, save_kept
from fl_client.listen.events import MAIN, Event, Message
from fl_client.listen.following import Follower
from fl_client.listen.limits import SwapLimits
from fl_client.listen.listener import run_listener
from fl_client.listen.room import Room
from fl_client.listen.sources import Block
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import LABELS, Made, make_release
from tests.made_manifests import COORDINATOR, put

AT_ONCE = SwapLimits(shadow_seconds=0, wait_seconds=0)
SOUND = (0.1 * np.random.default_rng(0).normal(size=48_000)).astype(np.float32)


def personal_release(version: int) -> Made:
    return make_release(version, algorithm="fedper")


def always(label: str) -> Weights:
    """A head that hears `label` in everything."""
    weights = personal_release(1).release.weights
    head = {name: np.zeros_like(value) for name, value in weights.items() if name.startswith(HEAD)}
    head[HEAD + "bias"][LABELS.index(label)] = 20.0
    return head


@pytest.fixture
def home(tmp_path: Path) -> DeviceHome:
    home = DeviceHome(tmp_path / "home")
    put(ModelStore(home.models, home.root / "marks.json"), personal_release(1).files)
    return home


class UntilHeard:
    """Noise until an event by `version` came."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._at = 0
        self.events: list[Event] = []

    def __enter__(self) -> UntilHeard:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> Block | None:
        if any(event.version == self._version for event in self.events):
            return None
        self._at = (self._at + 1600) % (len(SOUND) - 1600)
        return Block(SOUND[self._at : self._at + 1600])


def test_it_takes_the_place_of_the_shared_one_and_the_body_stays(home: DeviceHome) -> None:
    shared, head = personal_release(1).release, always("stop")
    save_kept(home.kept, COORDINATOR, head, private=False)
    own = personal(shared, home.kept)
    assert own.manifest is shared.manifest
    assert list(own.weights) == list(shared.weights)
    for name, value in own.weights.items():
        assert np.array_equal(value, head.get(name, shared.weights[name]))


@pytest.mark.parametrize(
    ("what", "is_said"),
    [("nothing", False), ("of another coordinator", False), ("a control variate", True),
     ("an odd type", True), ("other shapes", True), ("infinite", True), ("damaged", True),
     ("unreadable", True)],
)  # fmt: skip
def test_whatever_else_is_there_leaves_the_release_as_it_is(
    home: DeviceHome, what: str, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    release, head = personal_release(1).release, always("stop")
    match what:
        case "of another coordinator":
            save_kept(home.kept, "ab" * 32, head, private=False)
        case "a control variate":
            save_kept(
                home.kept,
                COORDINATOR,
                {f"control.{name}": value for name, value in head.items()},
                private=False,
            )
        case "an odd type":
            home.kept.mkdir()
            entry = {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}
            text = json.dumps({HEAD + "bias": entry}).encode()
            data = len(text).to_bytes(8, "little") + text + bytes(4)
            (home.kept / f"{COORDINATOR}.safetensors").write_bytes(data)
        case "other shapes":
            save_kept(
                home.kept, COORDINATOR, {name: value[:2] for name, value in head.items()}, private=False
            )
        case "infinite":
            head[HEAD + "bias"][0] = np.inf
            save_kept(home.kept, COORDINATOR, head, private=False)
        case "damaged":
            home.kept.mkdir()
            (home.kept / f"{COORDINATOR}.safetensors").write_bytes(encode_weights(head)[:-1])
        case "unreadable":
            (home.kept / f"{COORDINATOR}.safetensors").mkdir(parents=True)
    assert encode_weights(personal(release, home.kept).weights) == encode_weights(release.weights)
    assert ("not used" in caplog.text) == is_said


def test_the_listening_process_hears_with_it(home: DeviceHome, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "noise.wav", SOUND, 16_000, subtype="FLOAT")
    command = [sys.executable, "-m", "fl_client.listen", "--home", str(home.root)]
    command += ["--source", f"file:{tmp_path / 'noise.wav'},fast"]

    def heard() -> set[str]:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return {json.loads(line)["label"] for line in lines}

    for label in ("yes", "stop"):
        save_kept(home.kept, COORDINATOR, always(label), private=False)
        assert heard() == {label}
    save_kept(home.kept, COORDINATOR, {}, private=False)
    assert heard() != {"stop"}


def test_a_head_that_changed_is_heard_with_the_next_release(home: DeviceHome) -> None:
    save_kept(home.kept, COORDINATOR, always("yes"), private=False)
    source = UntilHeard(2)

    def sink(event: Message) -> None:
        if not isinstance(event, Event):
            return
        if not source.events:
            save_kept(home.kept, COORDINATOR, always("stop"), private=False)
            put(ModelStore(home.models, home.root / "marks.json"), personal_release(2).files)
        source.events.append(event)

    run_listener(
        [Room(MAIN, ModelStore(home.models), partial(personal, folder=home.kept))],
        source,
        sink,
        status_path=None,
        stop=threading.Event(),
        limits=AT_ONCE,
    )
    assert {(event.version, event.label) for event in source.events} >= {(1, "yes"), (2, "stop")}
    assert {event.label for event in source.events if event.version == 1} == {"yes"}


def test_under_an_algorithm_without_heads_of_their_own_a_stale_one_is_not_heard(home: DeviceHome) -> None:
    save_kept(home.kept, COORDINATOR, always("stop"), private=False)
    for algorithm in get_args(AlgorithmName):
        release = make_release(1, algorithm=algorithm).release
        assert (personal(release, home.kept) is release) == (algorithm not in PERSONAL), algorithm


@given(data=st.binary(max_size=200), at=st.integers(0, 300), byte=st.integers(0, 255), whole=st.booleans())
@settings(max_examples=60)
def test_whatever_is_in_the_file_the_device_listens(data: bytes, at: int, byte: int, whole: bool) -> None:
    release = personal_release(1).release
    if not whole:
        damaged = bytearray(encode_weights(always("stop")))
        damaged[at % len(damaged)] = byte
        data = bytes(damaged)
    with TemporaryDirectory() as folder:
        (Path(folder) / f"{COORDINATOR}.safetensors").write_bytes(data)
        assert personal(release, Path(folder)).weights.keys() == release.weights.keys()


def test_a_private_training_has_a_head_too(home: DeviceHome) -> None:
    save_kept(home.kept, COORDINATOR, always("stop"), private=True)
    heard = personal(personal_release(1).release, home.kept).weights
    assert np.array_equal(heard[HEAD + "bias"], always("stop")[HEAD + "bias"])


@pytest.mark.parametrize("when", ["first", "later"])
def test_a_release_that_the_own_head_spoils_is_run_without_it(
    home: DeviceHome, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Finite, but so large that no score is a number."""
    wild = {name: np.full_like(value, 3e38) for name, value in always("stop").items()}
    tried: list[Release] = []

    def spoiled(release: Release) -> Release:
        save_kept(home.kept, COORDINATOR, wild if release.version == wanted else {}, private=False)
        tried.append(personal(release, home.kept))
        return tried[-1]

    wanted, stop = (1 if when == "first" else 2), threading.Event()
    store = ModelStore(home.models, home.root / "marks.json")
    follower = Follower(Room(MAIN, store, spoiled), AT_ONCE)
    recognizer = follower.begin()
    assert recognizer is not None
    if when == "later":
        put(store, personal_release(2).files)
        thread = threading.Thread(target=follower.follow, args=(stop,))
        thread.start()
        while recognizer.version != 2 and thread.is_alive():
            recognizer.feed(SOUND[:1600])
        stop.set()
        thread.join()
    assert recognizer.version == wanted
    assert "does without the device's own parameters" in caplog.text
    assert [release.version for release in tried] == list(range(1, wanted + 1))
