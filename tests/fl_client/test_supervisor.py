"""The supervisor: a child that dies comes back, later and later; nobody is left behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from common.errors import DeviceError
from common.files import StorageError
from fl_client.home import DeviceHome
from fl_client.listen.events import MAIN
from fl_client.listen.watchdog import HUNG
from fl_client.supervisor import CALM_SECONDS, LONGEST_PAUSE_SECONDS, Child, _has_end, supervise
from tests.fl_client.made_identity import make_home
from tests.processes import wait_for

WAITS = [sys.executable, "-c", "import sys; sys.stdin.read()"]
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]


def run_alone(device: DeviceHome, stop: threading.Event) -> None:
    supervise({MAIN: device}, None, stop, passwords={MAIN: None})


def pid_of(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def test_a_killed_child_is_started_again() -> None:
    child = Child("waiting", WAITS)
    child.watch()
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)

    def back() -> bool:
        child.watch()
        return child.process is not None and child.process.pid != first

    wait_for(back, "another process")
    child.stop()
    assert child.process is not None
    assert child.process.poll() is not None


def test_the_pause_grows_and_is_bounded() -> None:
    child = Child("failing", [sys.executable, "-c", "raise SystemExit(3)"])
    pauses = []
    for _ in range(10):
        child.start()
        assert child.process is not None
        child.process.wait()
        # Restarting is in the future now, so this only takes note of the death.
        child.watch()
        pauses.append(child.restart_at - time.monotonic())
    assert child.failures == 10
    assert all(later >= earlier - 0.1 for earlier, later in pairwise(pauses))
    assert LONGEST_PAUSE_SECONDS - 1 < pauses[-1] <= LONGEST_PAUSE_SECONDS


def test_a_child_that_left_because_it_hung_is_started_again_at_once_if_it_has_lived() -> None:
    child = Child("hanging", [sys.executable, "-c", f"raise SystemExit({HUNG})"])
    for _ in range(3):
        child.start()
        assert child.process is not None
        first = child.process
        first.wait()
        child.started -= CALM_SECONDS
        child.watch()
        assert child.process is not None
        assert child.process is not first
    assert child.failures == 0
    child.stop()
    child.start()
    assert child.process is not None
    child.process.wait()
    child.watch()
    assert child.failures == 1
    assert child.process is None


@pytest.mark.parametrize(
    ("source", "ends"),
    [("stdin", True), ("file:a.wav", True), ("dir:a", True), ("mic", False), ("ws:127.0.0.1:8661", False)],
)
def test_a_listener_is_done_only_where_sound_has_an_end(source: str, ends: bool) -> None:
    assert _has_end(source) is ends


def test_a_child_that_is_never_done_is_started_again_whatever_it_ends_with() -> None:
    child = Child("ending", [sys.executable, "-c", ""])
    child.start()
    assert child.process is not None
    child.process.wait()
    child.watch()
    assert (child.process, child.restart_at < math.inf) == (None, True)


def test_a_child_that_does_not_listen_is_ended_all_the_same() -> None:
    child = Child("stubborn", STUBBORN)
    child.start()
    process = psutil.Process(pid_of(child))
    stopping = threading.Thread(target=child.stop)
    stopping.start()
    stopping.join(timeout=30)
    assert not process.is_running()


def test_a_secret_goes_through_the_pipe_and_nowhere_else(tmp_path: Path) -> None:
    # Neither the arguments nor the environment of a process are secret on its machine.
    said = tmp_path / "said"
    hears = f"import sys; open({str(said)!r}, 'w').write(sys.stdin.readline()); sys.stdin.read()"
    child = Child("hearing", [sys.executable, "-c", hears], secret=b"correct horse")
    assert "horse" not in repr(child)
    child.start()
    wait_for(lambda: said.exists() and said.read_text() == "correct horse\n", "the secret")
    process = psutil.Process(pid_of(child))
    assert "horse" not in " ".join([*process.cmdline(), *process.environ().values()])
    child.stop()


def test_a_child_that_dies_before_it_hears_its_secret_is_restarted() -> None:
    child = Child("deaf", [sys.executable, "-c", "raise SystemExit(3)"], secret=bytes(1 << 20))
    child.start()
    assert child.process is not None
    child.process.wait()
    child.watch()
    assert child.failures == 1


def test_one_device_runs_once(device: DeviceHome) -> None:
    stop = threading.Event()
    first = threading.Thread(target=run_alone, args=(device, stop))
    first.start()
    try:
        wait_for(lambda: bool(psutil.Process().children()), "the first one's link")
        with pytest.raises(DeviceError, match="FA-4025"):
            run_alone(device, threading.Event())
    finally:
        stop.set()
        first.join()


def links() -> dict[str, str]:
    """Task by folder of the links that run as children of this process."""
    found = {}
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if "fl_client.link_process" in words:
                found[words[-1]] = child.environ().get("FEDAUDIO_LOG_TASK", "")
    return found


def test_each_task_has_a_link_and_no_device_runs_twice(device: DeviceHome, tmp_path: Path) -> None:
    scene, stop = make_home(tmp_path / "scene").home, threading.Event()
    both = {MAIN: device, "scene": scene}
    first = threading.Thread(
        target=supervise, args=(both, None, stop), kwargs={"passwords": dict.fromkeys(both)}
    )
    first.start()
    try:
        wait_for(lambda: links() == {str(device.root): "", str(scene.root): "scene"}, "two links")
        for home in (device, scene):
            with pytest.raises(DeviceError, match="FA-4025") as caught:
                run_alone(home, threading.Event())
            assert str(home.root) in caught.value.happened
    finally:
        stop.set()
        first.join()
    assert links() == {}


def test_where_one_of_the_devices_runs_already_nothing_is_started(device: DeviceHome, tmp_path: Path) -> None:
    scene, stop = make_home(tmp_path / "scene").home, threading.Event()
    first = threading.Thread(target=run_alone, args=(scene, stop))
    first.start()
    try:
        wait_for(lambda: bool(links()), "the first one's link")
        both = {MAIN: device, "scene": scene}
        with pytest.raises(DeviceError, match="FA-4025"):
            supervise(both, None, threading.Event(), passwords=dict.fromkeys(both))
        assert list(links()) == [str(scene.root)]
    finally:
        stop.set()
        first.join()
    # It holds on to none of them either.
    ended = threading.Event()
    ended.set()
    supervise(both, None, ended, passwords=dict.fromkeys(both))


def test_a_child_ends_with_its_supervisor_however_that_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time; from fl_client.supervisor import Child\n"
        f"child = Child('waiting', {WAITS!r}); child.start()\n"
        "print(child.process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        orphan = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
        supervisor.wait()
        orphan.wait(timeout=30)
    assert not orphan.is_running()


@pytest.mark.parametrize("status", [2, 5])
def test_a_child_that_cannot_work_as_it_is_configured_is_tried_seldom(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    child = Child("failing", [sys.executable, "-c", f"raise SystemExit({status})"])
    for _ in range(3):
        child.start()
        assert child.process is not None
        child.process.wait()
        child.watch()
        assert child.restart_at - time.monotonic() > LONGEST_PAUSE_SECONDS - 1
    assert caplog.text.count("the failing cannot work") == 1


def test_a_folder_that_is_not_ours_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="FA-8001"):
        run_alone(DeviceHome(tmp_path / "none"), threading.Event())
