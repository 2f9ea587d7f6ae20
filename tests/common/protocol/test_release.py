"""Releases: the three files belong together or nothing is opened; a folder is there whole or not at all."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from common.errors import FedAudioError, ProtocolError
from common.files import StorageError, sha256
from common.protocol.release import (
    FILES,
    GRAPH,
    LARGEST_MANIFEST,
    MANIFEST,
    SIGNATURE,
    WEIGHTS,
    digest_of,
    load_release,
    open_release,
    parse_manifest,
    write_release,
)
from common.protocol.tensors import encode_weights, encoded_size
from common.security.canonical import canonical
from tests.made_manifests import TASK, make_manifest, sealed, small_release, small_weights

GRAPH_BYTES = b"any bytes: the protocol does not run a graph"


def make_files(version: int = 3) -> dict[str, bytes]:
    return small_release(version, GRAPH_BYTES, parent=version - 1)


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    """The files with a change in the manifest's document."""
    files = make_files()
    document = json.loads(files[MANIFEST])
    change(document)
    return files | {MANIFEST: json.dumps(document, separators=(",", ":")).encode()}


def test_a_release_comes_back_as_it_was(tmp_path: Path) -> None:
    write_release(tmp_path / "deep" / "r", make_files())
    release = load_release(tmp_path / "deep" / "r")
    assert release.version == 3
    assert release.manifest == parse_manifest(make_files()[MANIFEST])
    assert release.graph == GRAPH_BYTES
    assert {name: value.tobytes() for name, value in release.weights.items()} == {
        name: value.tobytes() for name, value in small_weights(3).items()
    }
    assert sorted(file.name for file in (tmp_path / "deep" / "r").iterdir()) == sorted(FILES)
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["r"]


@pytest.mark.parametrize("name", [WEIGHTS, GRAPH])
def test_any_changed_byte_of_what_a_manifest_is_about_is_noticed(name: str) -> None:
    files = make_files()
    for place in range(len(files[name])):
        data = bytearray(files[name])
        data[place] ^= 1
        with pytest.raises(ProtocolError, match=r"FA-3012"):
            open_release(files | {name: bytes(data)})
        with pytest.raises(ProtocolError, match=r"FA-3012"):
            open_release(files | {name: bytes(data[:place])})


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, GRAPH])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    files = make_files()
    with pytest.raises(ProtocolError, match=f"FA-3012.*{name}"):
        open_release({key: data for key, data in files.items() if key != name})
    write_release(tmp_path / "r", files)
    (tmp_path / "r" / name).unlink()
    with pytest.raises(ProtocolError, match="FA-3012"):
        load_release(tmp_path / "r")


def test_a_signature_may_come_later_but_nothing_else(tmp_path: Path) -> None:
    files = make_files()
    unsigned = {name: data for name, data in files.items() if name != SIGNATURE}
    write_release(tmp_path / "r", unsigned)
    assert sorted(file.name for file in (tmp_path / "r").iterdir()) == sorted(unsigned)
    assert load_release(tmp_path / "r").version == 3


def test_tensors_of_two_versions_do_not_mix() -> None:
    """Each file is whole, and the manifest names the digest of the file; one tensor is of another version."""
    mixed = small_weights(3) | {"b": small_weights(4)["b"]}
    files = make_files()
    with pytest.raises(ProtocolError, match="FA-3012"):
        open_release(files | {WEIGHTS: encode_weights(mixed)})
    manifest = parse_manifest(files[MANIFEST]).model_copy(update={"weights": sha256(encode_weights(mixed))})
    with pytest.raises(ProtocolError, match=r"FA-3044.*'b'"):
        open_release(sealed(manifest, mixed, GRAPH_BYTES))


def test_the_digest_of_a_tensor_is_that_of_its_values_in_one_order() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    as_written = sha256(struct.pack("<6f", 0, 1, 2, 3, 4, 5))
    assert digest_of(values) == as_written
    assert digest_of(np.asfortranarray(values)) == as_written
    assert digest_of(values.astype(">f4")) == as_written
    assert digest_of(values.T) != as_written
    assert digest_of(np.array(1.5, np.float32)) == sha256(np.array([1.5], "<f4").tobytes())


def test_a_manifest_has_one_spelling() -> None:
    text = make_files()[MANIFEST]
    assert canonical(parse_manifest(text)) == text
    document = json.loads(text)
    others = [
        text + b"\n",
        b" " + text,
        json.dumps(document).encode(),
        text.replace(b'"version":3', b'"version":3.0'),
        text.replace(b'"version":3', b'"version":3,"version":3'),
        text.replace(b'"version":3', b'"version":2,"version":3'),
        text.replace(b"00:00Z", b"00:00+00:00"),
        json.dumps(dict(sorted(document.items())), separators=(",", ":")).encode(),
    ]
    for other in others:
        assert other != text
        with pytest.raises(ProtocolError, match="FA-3011"):
            parse_manifest(other)


def test_a_manifest_that_is_too_long_is_not_read() -> None:
    with pytest.raises(ProtocolError, match=r"FA-3011.*too long"):
        parse_manifest(b"[" * (LARGEST_MANIFEST + 1))


def test_the_schema_is_that_of_the_tensors() -> None:
    manifest = parse_manifest(make_files()[MANIFEST])
    assert manifest.schema == {"b": (2,), "w": (5, 2)}
    assert encoded_size(manifest.schema) == len(make_files()[WEIGHTS])


def test_no_folder_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="FA-3012"):
        load_release(tmp_path / "missing")


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(version=-1),
        lambda document: document.update(version="latest"),
        lambda document: document.update(extra=1),
        lambda document: document.pop("graph"),
        lambda document: document.update(weights="abc"),
        lambda document: document.update(coordinator="me"),
        lambda document: document.update(parent=3),
        lambda document: document.update(restores=4),
        lambda document: document.update(created="2026-01-01T00:00:00"),
        lambda document: document.update(minimum_client="1"),
        lambda document: document.update(minimum_client="1.0.0rc1"),
        lambda document: document.update(tensors={}),
        lambda document: document.update(tensors=[["w", 2]]),
        lambda document: document["tensors"]["w"].update(shape=[-5, 2]),
        lambda document: document["tensors"]["w"].update(shape=[0, 2]),
        lambda document: document["tensors"]["w"].update(shape=[1] * 70),
        lambda document: document["tensors"]["w"].update(shape=[2**62, 4]),
        lambda document: document["tensors"]["w"].update(shape=[2**31, 2**31, 2**31]),
        lambda document: document["tensors"]["w"].update(digest="0" * 63),
        lambda document: document["golden"].update(scores=[0.5]),
        lambda document: document["golden"].update(scores=[0.5, 1.5]),
        lambda document: document["golden"].update(scores=[0.5, float("nan")]),
        lambda document: document["golden"].update(clip="chirp-2"),
        lambda document: document["evidence"].update(entries=-1),
        lambda document: document["graph"].update(state={"s": [-1]}),
        lambda document: document["graph"].update(receptive_field=0),
        lambda document: document["graph"].update(receptive_field=10**12),
        lambda document: document["graph"].update(state={"s": [10**6, 10**6]}),
        lambda document: document["graph"].update(state={f"s{i}": [1000, 1000] for i in range(17)}),
        lambda document: document.update(version=2**53 + 1),
        lambda document: document["metrics"].update(device_accuracy=1.5),
        lambda document: document["metrics"].update(validation_loss=-1),
    ],
)
def test_a_malformed_manifest_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(ProtocolError, match="FA-3011"):
        open_release(changed(change))


def test_what_only_together_is_too_much_for_a_device_is_refused() -> None:
    def remember_hours(document: dict[str, dict[str, object]]) -> None:
        document["graph"]["receptive_field"] = 100_000
        document["task"]["front_end"] = {"kind": "log-mel", "hop": 4096}

    def score_thousands(document: dict[str, dict[str, object]]) -> None:
        document["task"]["labels"] = [str(i) for i in range(1000)]
        document["task"]["clip_seconds"] = 30
        document["task"]["front_end"] = {"kind": "log-mel", "hop": 16}

    for change in (remember_hours, score_thousands):
        with pytest.raises(ProtocolError, match="FA-3011"):
            open_release(changed(change))


WINDOW = TASK.clip_frames


@pytest.mark.parametrize(
    ("graph", "fault"),
    [
        ({"hop": 0}, "greater than or equal to 1"),
        ({"hop": 2}, "its hop is 1"),
        ({"streaming": False, "receptive_field": WINDOW, "hop": WINDOW + 1}, "never be heard"),
        ({"streaming": False, "receptive_field": WINDOW + 1}, "the frames of the task's window"),
    ],
)
def test_a_graph_that_would_leave_sound_unheard_is_refused(graph: dict[str, object], fault: str) -> None:
    with pytest.raises(ProtocolError, match=f"FA-3011.*{fault}"):
        open_release(changed(lambda document: document["graph"].update(graph)))


def test_a_window_may_be_judged_once_in_its_own_length() -> None:
    graph = {"streaming": False, "receptive_field": WINDOW, "hop": WINDOW}
    release = open_release(changed(lambda document: document["graph"].update(graph)))
    assert release.manifest.graph.hop == WINDOW


@pytest.mark.parametrize("shape", [[2, 5], [10], [10, 2], [2, 3, 1]])
def test_a_schema_that_the_weights_do_not_have_is_refused(shape: list[int]) -> None:
    with pytest.raises(ProtocolError, match=r"FA-300[12]"):
        open_release(changed(lambda document: document["tensors"]["w"].update(shape=shape)))


def test_a_value_that_is_not_finite_is_refused() -> None:
    weights = small_weights(3)
    weights["b"][1] = np.nan
    with pytest.raises(ProtocolError, match="FA-3003"):
        open_release(sealed(make_manifest(3, weights, GRAPH_BYTES, TASK), weights, GRAPH_BYTES))


def test_an_existing_release_is_left_as_it_is(tmp_path: Path) -> None:
    write_release(tmp_path / "r", make_files(3))
    write_release(tmp_path / "r", make_files(9))
    assert load_release(tmp_path / "r").version == 3


def test_a_release_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    files = make_files()
    del files[GRAPH]
    with pytest.raises(KeyError):
        write_release(tmp_path / "r", files)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="FA-8001"):
        write_release(tmp_path / "file" / "r", make_files())


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    # A limit on file size stands for the full disk: the manifest fits, the graph does not.
    script = dedent("""
        import resource, sys
        from pathlib import Path
        from common.files import StorageError
        from common.protocol.release import write_release
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        files = {"manifest.json": b"{}", "weights.safetensors": b"w" * 100, "graph.onnx": b"g" * 100_000}
        try:
            write_release(Path(sys.argv[1]), files)
        except StorageError as error:
            print(error.code)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "r")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "FA-8001"
    assert list(tmp_path.iterdir()) == []


def test_killed_at_any_moment_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    # Each pass dies at a later file-system call, until one survives.
    script = dedent("""
        import os, signal, sys
        from pathlib import Path
        from common.protocol.release import FILES, write_release
        left = int(sys.argv[2])
        def count(event, arguments):
            global left
            if event in {"open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "tempfile.mkdtemp"}:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        files = {name: b"x" * 50 for name in FILES}
        sys.addaudithook(count)
        write_release(Path(sys.argv[1]), files)
    """)
    deaths = 0
    for step in range(0, 100, 3):
        folder = tmp_path / str(step) / "r"
        done = subprocess.run([sys.executable, "-c", script, str(folder), str(step)], check=False)
        if folder.exists():
            assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
            assert all(file.stat().st_size == 50 for file in folder.iterdir())
        if done.returncode == 0:
            assert folder.exists()
            break
        deaths += 1
    else:
        pytest.fail("the writer never came to its end")
    assert deaths >= 3


def test_every_error_names_a_remedy() -> None:
    with pytest.raises(FedAudioError) as caught:
        open_release({})
    assert caught.value.remedy
