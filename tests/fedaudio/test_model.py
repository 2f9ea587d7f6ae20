"""`fedaudio model verify`: a third party finds out what it was given, and what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import ProtocolError
from common.protocol.release import FILES, GRAPH, MANIFEST, SIGNATURE, WEIGHTS
from common.protocol.tensors import encode_weights
from common.security.statement import raw_public, sign_statement
from fedaudio.model import verify_folder
from fl_server.releases import TRUST, export_release
from tests.fl_client.made_identity import Authority, of_version_7
from tests.made_manifests import make_manifest, sealed, signed, small_weights
from tests.processes import run_cli

AUTHORITY = Authority.make()
GRAPH_BYTES = b"graph"


def files_of(version: int = 3, **changes: object) -> dict[str, bytes]:
    weights = small_weights(version)
    manifest = make_manifest(version, weights, GRAPH_BYTES, **{"coordinator": AUTHORITY.pin} | changes)
    return sealed(manifest, weights, GRAPH_BYTES, AUTHORITY.release)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A release as it is handed on, with the trust statement beside it."""
    folder = tmp_path / "release"
    write(folder, files_of() | {TRUST: AUTHORITY.trust_statement()})
    return folder


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_a_genuine_model_is_found_genuine_by_folder_and_by_manifest(model: Path) -> None:
    for name in (model, model / MANIFEST):
        done = run_cli("model", "verify", str(name), "--pin", AUTHORITY.pin)
        assert done.returncode == 0, done.stderr
        assert "Version 3" in done.stdout
        assert AUTHORITY.pin in done.stdout
        assert "unproven" not in done.stdout


def test_without_a_pin_the_root_is_called_unproven(model: Path) -> None:
    done = run_cli("model", "verify", str(model))
    assert done.returncode == 0
    assert AUTHORITY.pin in done.stdout
    assert "unproven" in done.stdout
    facts = json.loads(run_cli("model", "verify", str(model), "--json").stdout)
    assert (facts["version"], facts["root"], facts["pinned"]) == (3, AUTHORITY.pin, False)


def test_what_is_wrong_is_named_and_the_status_is_4(model: Path) -> None:
    (model / WEIGHTS).write_bytes(b"")
    done = run_cli("model", "verify", str(model))
    assert done.returncode == 4
    assert "FA-3012" in done.stderr
    assert WEIGHTS in done.stderr
    document = json.loads(run_cli("model", "verify", str(model), "--json").stdout)
    assert document["error"] == "FA-3012"


def mixed() -> dict[str, bytes]:
    weights = small_weights(3) | {"b": small_weights(4)["b"]}
    own = make_manifest(3, weights, GRAPH_BYTES, coordinator=AUTHORITY.pin)
    other = make_manifest(3, small_weights(3), GRAPH_BYTES, coordinator=AUTHORITY.pin)
    manifest = own.model_copy(update={"tensors": other.tensors})
    return sealed(manifest, weights, GRAPH_BYTES, AUTHORITY.release)


def infinite() -> dict[str, bytes]:
    weights = small_weights(3) | {"b": np.array([1, np.inf], np.float32)}
    manifest = make_manifest(3, weights, GRAPH_BYTES, coordinator=AUTHORITY.pin)
    return sealed(manifest, weights, GRAPH_BYTES, AUTHORITY.release)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({WEIGHTS: encode_weights(small_weights(4))}, "FA-3012"),
        ({GRAPH: b"another"}, "FA-3012"),
        ({SIGNATURE: b""}, "FA-3016"),
        ({SIGNATURE: files_of(4)[SIGNATURE]}, "FA-3018"),
        ({MANIFEST: files_of(4)[MANIFEST]}, "FA-3018"),
        (signed(files_of(), Ed25519PrivateKey.generate()), "FA-3017"),
        (files_of(expires=datetime.now(UTC) - timedelta(days=1)), "FA-3040"),
        (files_of(created=datetime.now(UTC) + timedelta(days=3)), "FA-3041"),
        (files_of(coordinator="ab" * 32), "FA-3042"),
        (mixed(), "FA-3044"),
        (infinite(), "FA-3003"),
        ({"readme.txt": b"hello"}, "FA-3045"),
        ({TRUST: Authority.make().trust_statement()}, "FA-3017"),
        ({TRUST: b""}, "FA-3025"),
        ({TRUST: AUTHORITY.trust_statement()[:-1]}, "FA-3025"),
        ({TRUST: AUTHORITY.trust_statement()[:75] + b"\0" + AUTHORITY.trust_statement()[76:]}, "FA-3018"),
        ({TRUST: sign_statement("trust", b"{}", AUTHORITY.root_key)}, "FA-3025"),
        ({TRUST: AUTHORITY.trust_statement(expires=datetime.now(UTC) - timedelta(days=1))}, "FA-3028"),
        ({TRUST: AUTHORITY.trust_statement(root="no certificate")}, "FA-3025"),
        ({TRUST: AUTHORITY.trust_statement(release=(raw_public(AUTHORITY.plan).hex(),))}, "FA-3017"),
    ],
)
def test_everything_is_checked(change: dict[str, bytes], code: str, model: Path) -> None:
    write(model, change)
    with pytest.raises(ProtocolError, match=code):
        verify_folder(model)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, model: Path) -> None:
    (model / name).unlink()
    with pytest.raises(ProtocolError, match=name):
        verify_folder(model)


def test_a_folder_or_link_in_place_of_a_file_is_no_release(model: Path) -> None:
    (model / "more").mkdir()
    with pytest.raises(ProtocolError, match=r"FA-3045.*more"):
        verify_folder(model)
    (model / "more").rmdir()
    (model / GRAPH).unlink()
    (model / GRAPH).mkdir()
    with pytest.raises(ProtocolError, match="FA-3046"):
        verify_folder(model)


def test_another_root_than_the_pinned_one_is_refused(model: Path) -> None:
    forger = Authority.make()
    forged = files_of(coordinator=forger.pin)
    write(model, signed(forged, forger.release) | {TRUST: forger.trust_statement()})
    assert verify_folder(model)[1] == forger.pin  # anybody can make a root
    for pin in (AUTHORITY.pin, "", "0"):
        with pytest.raises(ProtocolError, match="FA-3026"):
            verify_folder(model, pin=pin)
    assert verify_folder(model, pin=forger.pin.upper())[0].version == 3


def test_a_trust_statement_given_by_name_comes_before_the_one_beside(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.fas").write_bytes(Authority.make().trust_statement())
    with pytest.raises(ProtocolError, match="FA-3017"):
        verify_folder(model, tmp_path / "mine.fas")
    (model / TRUST).rename(tmp_path / "mine.fas")
    assert verify_folder(model, tmp_path / "mine.fas")[0].version == 3
    with pytest.raises(ProtocolError, match=r"FA-3046.*--trust"):
        verify_folder(model)


def test_what_is_no_release_is_named(tmp_path: Path, model: Path) -> None:
    for path in (tmp_path / "missing", model / WEIGHTS):
        done = run_cli("model", "verify", str(path))
        assert done.returncode == 4
        assert "FA-3046" in done.stderr


def test_an_exported_release_verifies(model: Path, tmp_path: Path) -> None:
    trust = tmp_path / "keys.fas"
    (model / TRUST).rename(trust)
    os.chmod(trust, 0o600)  # noqa: PTH101 - as the coordinator keeps it
    export_release(model, trust, tmp_path / "out")
    assert verify_folder(tmp_path / "out", pin=AUTHORITY.pin)[0].version == 3
    shutil.rmtree(tmp_path / "out")


def test_a_root_of_an_impossible_version_is_explained(model: Path) -> None:
    (model / TRUST).write_bytes(AUTHORITY.trust_statement(root=of_version_7(AUTHORITY.root)))
    with pytest.raises(ProtocolError, match="FA-3025"):
        verify_folder(model)
