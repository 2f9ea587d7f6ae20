"""A release is tried in a process of its own: whatever its graph does, the link lives and is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.audio.front_end import Mfcc, Psd
from common.errors import DeviceError
from common.protocol.release import Golden, Release
from common.task import Task
from fl_client.listen.golden import TOLERANCE, check_golden
from fl_client.listen.pipeline import Pipeline
from fl_client.trial import try_release
from tests.fl_client.listen.made_releases import make_release, make_task, resealed_files
from tests.made_manifests import sealed


def folder_with(path: Path, files: Mapping[str, bytes]) -> Path:
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def with_golden(release: Release, **changes: object) -> Release:
    golden = Golden.model_validate(release.manifest.golden.model_dump() | changes)
    return replace(release, manifest=release.manifest.model_copy(update={"golden": golden}))


@pytest.mark.parametrize(
    "task",
    [
        make_task(),
        make_task(architecture="ds-cnn"),
        make_task(front_end=Mfcc()),
        make_task(front_end=Psd(), clip_seconds=0.3),
        make_task(clip_seconds=3.0),
    ],
    ids=["stream", "window", "mfcc", "psd-short", "long"],
)
def test_a_device_hears_what_the_coordinator_computed(task: Task, tmp_path: Path) -> None:
    """By other code: torch and whole clips there, numpy, ONNX Runtime and blocks here."""
    made = make_release(1, task=task)
    scores = made.release.manifest.golden.scores
    assert sum(scores) == pytest.approx(1, abs=1e-4)
    assert max(scores) > 1.2 / len(scores)
    try_release(folder_with(tmp_path / "r", made.files), 1)


@pytest.mark.parametrize("label", range(4))
def test_other_scores_are_a_refusal(label: int) -> None:
    release = make_release(1).release
    scores = list(release.manifest.golden.scores)
    towards_half = 1 if scores[label] < 0.5 else -1
    for share, fits in ((0.9, True), (1.1, False)):
        other = list(scores)
        other[label] += share * TOLERANCE * towards_half
        if fits:
            check_golden(Pipeline(with_golden(release, scores=tuple(other))))
        else:
            with pytest.raises(DeviceError, match="FA-4104"):
                check_golden(Pipeline(with_golden(release, scores=tuple(other))))


def test_another_clip_is_a_refusal() -> None:
    with pytest.raises(DeviceError, match=r"FA-4104.*clip"):
        check_golden(Pipeline(with_golden(make_release(1).release, digest="0" * 64)))


def test_what_is_wrong_reaches_the_link_with_its_code(tmp_path: Path) -> None:
    made = make_release(2)
    with pytest.raises(DeviceError, match="FA-4201") as refused:
        try_release(folder_with(tmp_path / "graph", resealed_files(made, graph=b"no graph")), 2)
    assert refused.value.remedy
    huge = made.release.weights | {"classify.weight": np.full((4, 16), 3e38, np.float32)}
    with pytest.raises(DeviceError, match="FA-4202"):
        try_release(folder_with(tmp_path / "weights", resealed_files(made, weights=huge)), 2)
    other = made.release.manifest.golden.model_copy(update={"scores": (1.0, 0.0, 0.0, 0.0)})
    manifest = made.release.manifest.model_copy(update={"golden": other})
    files = sealed(manifest, made.release.weights, made.release.graph)
    with pytest.raises(DeviceError, match="FA-4104"):
        try_release(folder_with(tmp_path / "scores", files), 2)


CRASHES = {
    "segfault": "import ctypes; ctypes.string_at(0)",
    "abort": "import os; os.abort()",
    "exit": "import os; os._exit(0x55)",
    "output": 'print(\'{"code": "FA-1"}\'); raise SystemExit(5)',
    "memory": "bytearray(1 << 40)",
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_is_a_refusal(crash: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the process runs is replaced by one that does what a graph may make of ONNX Runtime."""
    package = tmp_path / "fl_client" / "listen"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package.parent / "__init__.py").touch()
    (package / "smoke.py").write_text(CRASHES[crash])
    monkeypatch.chdir(tmp_path)  # `python -m` looks here first
    with pytest.raises(DeviceError, match=r"FA-4103.*status"):
        try_release(tmp_path, 3)


def test_a_graph_that_never_ends_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fl_client" / "listen"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package.parent / "__init__.py").touch()
    (package / "smoke.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path('pid').write_text(str(os.getpid()))\nwhile True: time.sleep(1)"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeviceError, match=r"FA-4103.*2 s"):
        try_release(tmp_path, 3, seconds=2.0)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_process_ends_by_itself_is_modest_and_needs_no_torch() -> None:
    code = """
import resource, signal, sys, os
from fl_client.listen import smoke
smoke._be_modest()
print(signal.alarm(0) > 0, resource.getrlimit(resource.RLIMIT_AS)[0] == smoke.MEMORY_BYTES)
print(resource.getrlimit(resource.RLIMIT_CORE)[0], os.nice(0) >= 10)
print(sorted({"torch", "flwr", "cryptography"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True True", "0 True", "[]"]
