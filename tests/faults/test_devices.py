"""Real devices with real faults: damaged clips, no clips, a link that dies; and nobody phones home."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import soundfile
from sqlalchemy import select

from fl_client.home import DeviceHome
from fl_client.status import describe
from fl_client.store import ModelStore
from fl_server.registry import Contribution, failures_of
from tests.processes import Federation, children_of, run_cli, write_tones

RECORDER = dedent("""
    import os, sys

    def note(event, arguments):
        if event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
            target = arguments[0]
        elif event in {"socket.connect", "socket.sendto"}:
            target = arguments[1]
        else:
            return
        if isinstance(target, tuple):
            target = target[0]
        if isinstance(target, bytes):
            target = target.decode()
        with open(os.environ["SOCKET_RECORD"], "a") as file:
            file.write(f"{event} {target} {' '.join(sys.orig_argv)}\\n")

    sys.addaudithook(note)
""")
"""Loaded by every child at its start; it sees what Python code asks of the network."""

DAMAGED = ("cut.flac", "empty.flac", "text.flac")


@dataclass(frozen=True)
class House:
    """A coordinator and two devices after a round."""

    federation: Federation
    kitchen: DeviceHome
    cellar: DeviceHome
    record: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The kitchen has good clips, damaged ones and a listener; the cellar has no clips at all."""
    root = tmp_path_factory.mktemp("house")
    record = root / "sockets"
    record.touch()
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(RECORDER)
    path = os.pathsep.join([str(root / "site"), str(Path(__file__).parents[2])])
    # As a person's shell would: what switches telemetry off must come from fedaudio itself.
    env = {"PYTHONPATH": path, "SOCKET_RECORD": str(record)}
    for name in ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK"):
        os.environ.pop(name, None)
    with Federation(root, {"rounds": {"min_devices": 2, "answer_seconds": 60}}, env) as federation:
        federation.start_server()
        kitchen, cellar = federation.add_device("kitchen"), federation.add_device("cellar")
        write_tones(kitchen.clips)
        whole = (kitchen.clips / "high" / "0.flac").read_bytes()
        for name, data in zip(DAMAGED, (whole[: len(whole) // 2], b"", b"not a sound"), strict=True):
            (kitchen.clips / "low" / name).write_bytes(data)
        sound = 0.1 * np.random.default_rng(0).normal(size=32_000)
        soundfile.write(root / "room.wav", sound, 16_000, subtype="PCM_16")
        federation.start_device(kitchen, "--source", f"file:{root / 'room.wav'},loop")
        federation.start_device(cellar)
        federation.wait_online(2)
        assert federation.train(1).state == "done"
        yield House(federation, kitchen, cellar, record)


def test_damaged_clips_are_skipped_counted_and_named(house: House) -> None:
    with house.federation.registry.session() as session:
        (contribution,) = session.scalars(select(Contribution)).all()
    device = house.federation.registry.device(contribution.device)
    assert device is not None
    assert device.name == "kitchen"
    assert contribution.skipped == len(DAMAGED)
    assert 1 <= contribution.clips <= 6
    log = house.federation.log("kitchen")
    for name in DAMAGED:
        assert name in log


def test_a_device_without_clips_refuses_and_the_coordinator_shows_why(house: House) -> None:
    row = house.federation.last_round()
    assert (row.cohort, row.participants) == (2, 1)
    assert {failure["code"] for failure in failures_of(row)} == {"FA-2002"}
    shown = run_cli("server", "status", "--json", "--home", str(house.federation.home.root))
    assert "FA-2002" in {failure["code"] for failure in json.loads(shown.stdout)["rounds"][-1]["failures"]}
    assert house.federation.processes["cellar"].poll() is None


def test_both_devices_receive_the_release(house: House) -> None:
    expected = house.federation.release(1)
    for device in (house.kitchen, house.cellar):
        store = ModelStore(device.models)
        house.federation.wait(lambda store=store: store.current_version() == 1, "the release")
        release = store.load(1)
        assert release.manifest == expected.manifest
        assert all(release.weights[name].tobytes() == v.tobytes() for name, v in expected.weights.items())


def test_the_listener_swaps_without_losing_a_hop(house: House) -> None:
    def swapped() -> bool:
        listener = describe(house.kitchen)["listener"]
        return listener is not None and listener["version"] == 1

    house.federation.wait(swapped, "a swap")
    listener = describe(house.kitchen)["listener"]
    assert listener is not None
    assert (listener["dropped"], listener["doubled"]) == (0, 0)
    assert describe(house.cellar)["listener"] is None


def test_a_link_that_was_killed_comes_back(house: House) -> None:
    supervisor = house.federation.processes["kitchen"]
    link = int(describe(house.kitchen)["link"]["pid"])  # type: ignore[index, arg-type]
    assert link in children_of(supervisor.pid)
    os.kill(link, signal.SIGKILL)

    def back() -> bool:
        report = describe(house.kitchen)["link"]
        return report is not None and report["pid"] != link and bool(report["linked"])

    house.federation.wait(back, "another link")


def test_nobody_phones_home(house: House) -> None:
    lines = [line.split(" ", 2) for line in house.record.read_text().splitlines()]
    # The recorder was there: it saw every part of the federation reach for the coordinator.
    seen = " ".join(line[2] for line in lines)
    for part in ("fl_client.link_process", "fedaudio server start"):
        assert part in seen
    for event, target, command in lines:
        try:
            local = ipaddress.ip_address(target).is_loopback
        except ValueError:
            local = target in {"localhost", "None", ""} or target.startswith("/")
        assert local, f"{command}: {event} {target}"


def test_asked_to_stop_a_device_stops_quietly(house: House) -> None:
    # The last test of this house.
    device = house.federation.processes["kitchen"]
    device.send_signal(signal.SIGTERM)
    assert device.wait(timeout=60) == 0
    del house.federation.processes["kitchen"]
    for trouble in ("Traceback", "Fatal"):
        assert trouble not in house.federation.log("kitchen")
    house.federation.wait(lambda: describe(house.kitchen)["link"] is None, "the link to be known as gone")
