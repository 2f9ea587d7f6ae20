"""kill -9, at every process in turn: the federation goes on, and the order it had is finished."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fl_server.keyring import load_trust
from fl_server.registry import failures_of
from fl_server.rotation import rotate
from fl_server.settings import DeviceRules
from fl_server.status import is_running
from tests.processes import Federation, children_of, wait_for

ANSWER_SECONDS = 6


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A coordinator and two slow devices; every test leaves it running."""
    rounds = {"min_devices": 2, "answer_seconds": ANSWER_SECONDS, "evaluate": False}
    with Federation(tmp_path_factory.mktemp("crashes"), {"rounds": rounds}) as federation:
        federation.start_server()
        federation.start_light_devices("devices", "kitchen=slow", "cellar=slow")
        federation.wait_online(2)
        yield federation


def running_round(federation: Federation) -> bool:
    rounds = federation.registry.rounds()
    return bool(rounds) and rounds[-1].state == "running"


def assert_history(federation: Federation) -> None:
    """Nothing is left half done, no round number is used twice and every version has its folder."""
    rounds = federation.registry.rounds()
    assert {row.state for row in rounds} <= {"done", "void"}
    assert [row.round for row in rounds] == list(range(1, len(rounds) + 1))
    versions = [row.version for row in rounds if row.state == "done"]
    assert versions == list(range(1, len(versions) + 1))
    for version in (0, *versions):
        manifest = federation.release(version).manifest
        assert manifest.version == version
        assert manifest.parent == (version - 1 if version else None)
    assert [model.version for model in federation.registry.models()] == [0, *versions]


def test_the_coordinator_in_the_middle_of_a_round(federation: Federation) -> None:
    order = federation.registry.place_order(2)
    federation.wait(lambda: running_round(federation), "a round")
    federation.kill("server")
    assert federation.last_round().state == "running"

    federation.start_server()
    assert federation.registry.rounds()[-1].round == 1 or running_round(federation)
    finished = federation.finish(order)
    assert (finished.state, finished.done) == ("done", 2)
    assert [row.state for row in federation.registry.rounds()] == ["void", "done", "done"]
    assert_history(federation)


def test_the_coordinator_between_rounds(federation: Federation) -> None:
    before = federation.last_round()
    newest = before.version or 0
    front = psutil.Process(children_of(federation.processes["server"].pid)[0])
    federation.kill("server")
    front.wait(timeout=60)
    assert not front.is_running()
    assert not is_running(federation.home)

    order = federation.registry.place_order(1)
    federation.start_server()
    # Nobody restarted the devices: they found the coordinator again by themselves.
    assert federation.finish(order).state == "done"
    assert federation.last_round().base == newest
    assert federation.release(newest + 1).manifest.parent == newest
    assert_history(federation)


def test_the_front(federation: Federation) -> None:
    server = federation.processes["server"]
    (front,) = children_of(server.pid)
    order = federation.registry.place_order(1)
    federation.wait(lambda: running_round(federation), "a round")
    os.kill(front, signal.SIGKILL)
    finished = federation.finish(order)
    assert (finished.state, finished.done) == ("done", 1)
    assert server.poll() is None
    assert children_of(server.pid) != [front]
    assert_history(federation)


def test_a_device_in_the_middle_of_a_round(federation: Federation) -> None:
    dying = federation.start_light_devices("dying", "attic=die")
    federation.wait_online(3)
    order = federation.registry.place_order(1)
    dying.wait(timeout=60)
    del federation.processes["dying"]
    assert federation.finish(order).state == "done"
    row = federation.last_round()
    assert (row.cohort, row.participants, row.failed) == (3, 2, 1)
    assert failures_of(row)[0]["code"] == "FA-5005"
    assert row.seconds == pytest.approx(ANSWER_SECONDS, abs=5)
    assert_history(federation)


def test_new_keys_while_it_runs(federation: Federation) -> None:
    server = federation.processes["server"]
    (front,) = children_of(server.pid)
    before = load_trust(federation.home)[0]
    names = ("tls", "device-ca", "plan", "envelope", "release")
    rotate(federation.home, federation.registry, DeviceRules(), None, names)
    after = load_trust(federation.home)[0]
    assert (after.serial, after.root) == (before.serial + 1, before.root)
    federation.wait(lambda: children_of(server.pid) not in ([front], []), "another front")
    # The devices find out by themselves which keys are good now.
    assert federation.train(1).state == "done"
    row = federation.last_round()
    assert (row.participants, row.failed) == (row.cohort, 0)
    assert server.poll() is None
    assert_history(federation)


def test_asked_to_stop_the_coordinator_stops_quietly(federation: Federation) -> None:
    # The last test of this federation.
    server, before = federation.processes["server"], len(federation.log("server"))
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=60) == 0
    del federation.processes["server"]
    said = federation.log("server")[before:]
    for trouble in ("Traceback", "ERROR", "Fatal"):
        assert trouble not in said


@pytest.mark.slow
def test_a_machine_that_slept(tmp_path: Path) -> None:
    # The front's clock goes on, so to it the coordinator is long dead when it wakes.
    with Federation(tmp_path, {"rounds": {"min_devices": 1, "evaluate": False}}) as federation:
        server = federation.start_server()
        federation.start_light_devices("devices", "kitchen=honest")
        assert federation.train(1).state == "done"
        server.send_signal(signal.SIGSTOP)
        asleep = time.monotonic() + 150
        wait_for(lambda: time.monotonic() > asleep, "morning", patience=200)
        server.send_signal(signal.SIGCONT)
        assert federation.train(2).state == "done"
        assert server.poll() is None
