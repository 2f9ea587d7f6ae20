"""However the demo ends, it says what it must and leaves no process and no folder behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from common.data.synthetic.corpus import make_corpus
from tests.processes import ROOT, run_cli, wait_for

FLEET = ("fl_server.front", "fl_client.link_process", "fl_client.listen", "fl_client.worker")
"""What runs, besides the coordinator and the device themselves, while a device trains."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, kind="words", voices=3, labels=2, takes=2, seed=1)
    damaged = folder / "background" / "v000_00.flac"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    return folder


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The folder where the demo makes its own."""
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def command(corpus: Path, rounds: int) -> list[str]:
    return ["demo", "--data", str(corpus), "--devices", "1", "--rounds", str(rounds)]


def left_behind(temporary: Path) -> list[Path]:
    return list(temporary.glob("fedaudio-demo-*"))


def test_a_damaged_recording_is_named_and_the_demo_goes_on(corpus: Path, temporary: Path) -> None:
    done = run_cli(*command(corpus, 1), env={"TMPDIR": str(temporary), "COLUMNS": "80"}, patience=280)
    assert done.returncode in {0, 1}, done.stderr
    left_out = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 1
    assert str(corpus / "background" / "v000_00.flac") in left_out[0]
    assert "Recordings left out: 1" in done.stdout.splitlines()
    # A header that is wrapped, or cut short, is not in one line.
    columns = ("round", "model", "unseen acc.", "seconds", "overhead", "kB up", "kB down", "failed")
    assert any(all(column in line for column in columns) for line in done.stdout.splitlines())
    assert left_behind(temporary) == []


def test_a_demo_that_cannot_begin_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run_cli(*command(tmp_path / "empty", 1), env={"TMPDIR": str(temporary)})
    assert done.returncode == 3
    assert "FA-2002" in done.stderr
    assert left_behind(temporary) == []


@pytest.mark.parametrize(
    ("number", "status", "there"),
    [
        pytest.param(signal.SIGINT, 130, FLEET, id="Ctrl-C"),
        # It is unwound as Ctrl-C is, so another moment is taken: there is no device yet.
        pytest.param(signal.SIGTERM, 143, FLEET[:1], id="SIGTERM"),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, FLEET, id="SIGKILL"),
    ],
)
def test_nothing_outlives_the_demo(
    number: signal.Signals,
    status: int,
    there: Sequence[str],
    corpus: Path,
    temporary: Path,
    tmp_path: Path,
) -> None:
    with running_demo(corpus, temporary, tmp_path / "log", there) as demo:
        family = psutil.Process(demo.pid).children(recursive=True)
        assert len(family) > len(there)
        demo.send_signal(number)
        wait_for(lambda: demo.poll() is not None, "the end of the demo")
    assert demo.returncode == status
    wait_for(lambda: not any(map(is_alive, family)), "the end of its processes")
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert left_behind(temporary) == []
        assert "Logs are in" not in said


def test_a_demo_that_fails_keeps_its_logs_and_says_where(
    corpus: Path, temporary: Path, tmp_path: Path
) -> None:
    with running_demo(corpus, temporary, tmp_path / "log") as demo:
        family = psutil.Process(demo.pid).children(recursive=True)
        next(child for child in family if "server" in arguments(child)).kill()
        wait_for(lambda: demo.poll() is not None, "the end of the demo")
    assert demo.returncode == 6
    wait_for(lambda: not any(map(is_alive, family)), "the end of its processes")
    said = (tmp_path / "log").read_text()
    assert "FA-5011" in said
    (kept,) = left_behind(temporary)
    assert f"Logs are in {kept}." in said
    assert (kept / "server.log").stat().st_size > 0


@contextmanager
def running_demo(
    corpus: Path, temporary: Path, output: Path, there: Sequence[str] = FLEET
) -> Iterator[subprocess.Popen[bytes]]:
    """A demo of one device, which trains, or in which at least the modules `there` run."""

    def check() -> None:
        assert demo.poll() is None, output.read_text()

    with output.open("wb") as log:
        demo = subprocess.Popen(
            [sys.executable, "-m", "fedaudio", *command(corpus, 500)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
        )
    try:
        wait_for(lambda: runs(psutil.Process(demo.pid), there), "the demo's processes", check)
        yield demo
    finally:
        demo.kill()
        demo.wait()


def runs(demo: psutil.Process, modules: Sequence[str]) -> bool:
    """Whether all of `modules` run below `demo`."""
    running = {argument for child in demo.children(recursive=True) for argument in arguments(child)}
    return running.issuperset(modules)


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Whether `process` still runs; one that nobody has taken notice of since it ended does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
