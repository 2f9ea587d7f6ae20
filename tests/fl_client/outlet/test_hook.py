"""The owner's program: run for each event, alone, without our secrets, and never waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from common.errors import DeviceError
from fl_client.outlet.foreground import split_command
from fl_client.outlet.hook import WAITING, Hook
from fl_client.outlet.lines import Line
from tests.fl_client.outlet.conftest import Outlet
from tests.processes import ROOT, wait_for

RECORDS = (
    "import json, os, sys\n"
    "entry = {'line': json.load(sys.stdin), 'environment': dict(os.environ)}\n"
    "open(sys.argv[1], 'a').write(json.dumps(entry) + chr(10))\n"
)
"""A program that appends what it was given to the file that it is told."""


def event(label: str = "yes", kind: str = "event") -> Line:
    return {"type": kind, "id": "1", "label": label}


def records(path: Path) -> list[dict[str, dict[str, str]]]:
    return [json.loads(one) for one in path.read_text().splitlines()] if path.exists() else []


def test_events_and_alarms_reach_the_program_in_order_and_other_messages_do_not(tmp_path: Path) -> None:
    with Hook([sys.executable, "-c", RECORDS, str(tmp_path / "got")]) as hook:
        for kind in ("event", "level", "alarm", "swap"):
            hook(event("a; $(touch x) 'ü\0", kind))
        hook.finish()
        assert hook.report() == {"hook_runs": 2, "hook_failures": 0, "hook_left_out": 0}
    first, second = records(tmp_path / "got")
    assert first["line"] == event("a; $(touch x) 'ü\0")
    assert first["environment"]["FEDAUDIO_LABEL"] == "a; $(touch x) 'ü"
    assert (first["environment"]["FEDAUDIO_TYPE"], second["environment"]["FEDAUDIO_TYPE"]) == (
        "event",
        "alarm",
    )
    assert first["environment"]["FEDAUDIO_TASK"] == ""


def test_the_program_is_told_the_task(tmp_path: Path) -> None:
    with Hook([sys.executable, "-c", RECORDS, str(tmp_path / "got")]) as hook:
        hook(event("rain") | {"task": "scene"})
        hook.finish()
    (entry,) = records(tmp_path / "got")
    assert entry["environment"]["FEDAUDIO_TASK"] == "scene"


def test_the_programs_environment_holds_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/secret")
    monkeypatch.setenv("FEDAUDIO_HOME", "/secret")
    monkeypatch.setenv("MY_PASSWORD", "secret")
    with Hook([sys.executable, "-c", RECORDS, str(tmp_path / "got")]) as hook:
        hook(event())
        hook.finish()
    (entry,) = records(tmp_path / "got")
    assert entry["environment"]["PATH"] == os.environ["PATH"]
    assert "secret" not in json.dumps(entry["environment"])


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], "ended with status 3"),
        (["sleep", "600"], "took longer than"),
        ([str(ROOT / "README.md")], "could not be started"),
        (["true", "a\0b"], "could not be started"),
    ],
)
def test_a_program_that_fails_is_counted_always_and_said_once(
    program: list[str], words: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_client.outlet.hook.shutil.which", lambda name: name)
    with Hook(program, timeout=60 if program[0] != "sleep" else 0.2) as hook:
        for _ in range(3):
            hook(event())
        wait_for(lambda: hook.report()["hook_failures"] == 3, "three failures")
        assert hook.report() == {"hook_runs": 3, "hook_failures": 3, "hook_left_out": 0}
    assert caplog.text.count(words) == 1


def test_what_a_program_that_takes_too_long_has_started_ends_with_it(tmp_path: Path) -> None:
    script = f"sleep 600 & echo $! > {tmp_path}/pid; wait"
    with Hook(["/bin/sh", "-c", script], timeout=1.0) as hook:

        def came_so_far() -> bool:
            hook(event())
            hook.finish()
            return (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text())

        wait_for(came_so_far, "a run that starts another before its time is over")
    left = int((tmp_path / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(left) or psutil.Process(left).status() == "zombie", "its end")


def test_a_slow_program_holds_nobody_up_and_what_is_too_much_is_counted(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    script = f"echo x >> {tmp_path}/runs; read go < {tmp_path}/gate"
    os.mkfifo(tmp_path / "gate")
    with Hook(["/bin/sh", "-c", script]) as hook:
        hook(event())
        wait_for((tmp_path / "runs").exists, "the first run")
        for _ in range(WAITING + 5):
            hook(event())
        assert (tmp_path / "runs").read_text() == "x\n"  # one at a time
        assert hook.report() == {"hook_runs": 1, "hook_failures": 0, "hook_left_out": 5}
        assert caplog.text.count("slower than events") == 1
        stopping = threading.Thread(target=hook.__exit__)
        stopping.start()
        stopping.join(30)
        assert not stopping.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_hook_that_has_ended_by_a_fault_says_so(tmp_path: Path) -> None:
    with Hook(["true"]) as hook:
        for _ in range(3):
            hook(event() | {"none of JSON's": tmp_path})
        finishing = threading.Thread(target=hook.finish, daemon=True)
        finishing.start()
        finishing.join(30)
        assert not finishing.is_alive()
        wait_for(lambda: "hook" not in [thread.name for thread in threading.enumerate()], "the fault")
        with pytest.raises(RuntimeError, match="ended by a fault"):
            hook.report()


def test_a_program_that_is_not_there_is_said_before_anything_begins(outlet: Outlet) -> None:
    assert outlet.spawn(on_event=["/no/such/program"]).wait(30) == 5
    assert "FA-4235" in outlet.errors.read_text()
    with pytest.raises(DeviceError, match="FA-4235"):
        Hook([])


def test_the_outlet_runs_the_program(outlet: Outlet, tmp_path: Path) -> None:
    outlet.tell("before")
    outlet.start(on_event=[sys.executable, "-c", RECORDS, str(tmp_path / "got")])
    outlet.tell("now")
    outlet.wait(hook_runs=1, messages=1)
    wait_for(lambda: bool(records(tmp_path / "got")), "the run")
    assert [entry["line"]["label"] for entry in records(tmp_path / "got")] == ["now"]
    assert outlet.end() == 0


def test_words_of_a_command() -> None:
    assert split_command("say 'two words' $HOME;ls") == ["say", "two words", "$HOME;ls"]
    with pytest.raises(DeviceError, match="FA-4236"):
        split_command("say 'two words")


FOREGROUND = (
    "import sys; from fl_client.outlet.foreground import listen_with_hook\n"
    "sys.exit(listen_with_hook([sys.executable, '-c', sys.argv[1]], [sys.executable, '-c', *sys.argv[2:]]))"
)


def in_the_foreground(listener: str, got: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FOREGROUND, listener, RECORDS, str(got)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_listener_in_the_foreground_is_repeated_and_its_events_are_worked_off(tmp_path: Path) -> None:
    lines = [json.dumps(event(str(number))) for number in range(5)]
    listener = f"import time\nfor line in {lines!r}: print(line)\nraise SystemExit(3)"
    with in_the_foreground(listener, tmp_path / "got") as process:
        printed, _ = process.communicate(timeout=60)
    assert printed.splitlines() == lines
    assert process.returncode == 3
    assert [entry["line"]["label"] for entry in records(tmp_path / "got")] == list("01234")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_listener_in_the_foreground(tmp_path: Path, number: signal.Signals) -> None:
    listener = (
        "import signal, sys, time\n"
        "for n in (2, 15): signal.signal(n, lambda *_: sys.exit(0))\n"
        "print('{}', flush=True); time.sleep(600)"
    )
    with in_the_foreground(listener, tmp_path / "got") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "{}\n"
        process.send_signal(number)
        assert process.wait(30) == 0
