"""What anybody accepts as a release: signed, of the coordinator, of this time, and whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.files import sha256
from common.protocol.release import FILES, GRAPH, MANIFEST, SIGNATURE, WEIGHTS, parse_manifest
from common.protocol.signed_release import (
    CLOCK_TOLERANCE,
    check_manifest,
    read_part,
    sign_manifest,
    verify_release,
)
from common.protocol.tensors import encode_weights
from common.security.statement import raw_public, sign_detached
from common.version import VERSION
from tests.made_manifests import (
    COORDINATOR,
    CREATED,
    EXPIRES,
    KEY,
    NOW,
    SIGNERS,
    make_manifest,
    sealed,
    signed,
    small_release,
    small_weights,
)

GRAPH_BYTES = b"graph"


def files_of(version: int = 3, **changes: object) -> dict[str, bytes]:
    return small_release(version, GRAPH_BYTES, **changes)


def verified(files: dict[str, bytes], now: datetime = NOW) -> int:
    return verify_release(files, SIGNERS, COORDINATOR, now).version


def test_what_was_signed_is_accepted() -> None:
    assert verified(files_of()) == 3
    another = raw_public(Ed25519PrivateKey.generate())
    assert verify_release(files_of(), [another, *SIGNERS], COORDINATOR, NOW).version == 3


@given(name=st.sampled_from(FILES), data=st.data())
def test_no_mutant_is_accepted(name: str, data: st.DataObject) -> None:
    files = files_of()
    original = files[name]
    place = data.draw(st.integers(0, len(original) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "double", "append", "insert"])):
        case "flip":
            changed = bytearray(original)
            changed[place] ^= 1 << data.draw(st.integers(0, 7))
            mutant = bytes(changed)
        case "cut":
            mutant = original[:place]
        case "double":
            mutant = original + original
        case "append":
            mutant = original + data.draw(st.binary(min_size=1, max_size=3))
        case _:
            mutant = original[:place] + data.draw(st.binary(min_size=1, max_size=3)) + original[place:]
    if mutant == original:
        return
    with pytest.raises(ProtocolError):
        verified(files | {name: mutant})


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"FA-3012.*{name}"):
        verified({key: value for key, value in files_of().items() if key != name})


@pytest.mark.parametrize("name", ["extra.txt", "weights.bin", "../manifest.json", ""])
def test_a_file_too_many_is_named(name: str) -> None:
    with pytest.raises(ProtocolError, match="FA-3045"):
        verified(files_of() | {name: b""})


def test_files_of_two_versions_do_not_mix() -> None:
    ours, theirs = files_of(3), files_of(4)
    theirs[GRAPH] = b"another graph"
    for name in FILES:
        with pytest.raises(ProtocolError, match=r"FA-3012|FA-3018"):
            verified(ours | {name: theirs[name]})
    # One tensor of another version under right digests of the file, and signed with another key.
    mixed = small_weights(3) | {"w": small_weights(4)["w"]}
    manifest = parse_manifest(ours[MANIFEST]).model_copy(update={"weights": sha256(encode_weights(mixed))})
    with pytest.raises(ProtocolError, match="FA-3044"):
        verified(sealed(manifest, mixed, GRAPH_BYTES))
    with pytest.raises(ProtocolError, match="FA-3017"):
        verified(sealed(manifest, mixed, GRAPH_BYTES, Ed25519PrivateKey.generate()))


def test_only_a_release_key_signs_releases() -> None:
    files = files_of()
    with pytest.raises(ProtocolError, match="FA-3017"):
        verified(signed(files, Ed25519PrivateKey.generate()))
    with pytest.raises(ProtocolError, match="FA-3018"):
        verified(files | {SIGNATURE: sign_detached("plan", files[MANIFEST], KEY)})
    with pytest.raises(ProtocolError, match="FA-3016"):
        verified(files | {SIGNATURE: b""})
    # A key's name is the start of its hash; with the right name on it, a foreign signature is still wrong.
    foreign = sign_manifest(files[MANIFEST], Ed25519PrivateKey.generate())
    with pytest.raises(ProtocolError, match="FA-3018"):
        verified(files | {SIGNATURE: files[SIGNATURE][:12] + foreign[12:]})


def test_a_release_of_another_coordinator_is_refused_though_its_key_is_trusted() -> None:
    with pytest.raises(ProtocolError, match="FA-3042"):
        verified(files_of(coordinator="ab" * 32))


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (EXPIRES, None),
        (EXPIRES + timedelta(seconds=1), "FA-3040"),
        (NOW + timedelta(days=3653 * 11), "FA-3040"),
        (CREATED, None),
        (CREATED - timedelta(minutes=10), None),
        (CREATED - CLOCK_TOLERANCE, None),
        (CREATED - CLOCK_TOLERANCE - timedelta(seconds=1), "FA-3041"),
        (CREATED - timedelta(days=3653), "FA-3041"),
    ],
)
def test_a_release_has_its_time_and_the_refusal_names_the_clock(now: datetime, code: str | None) -> None:
    if code is None:
        assert verified(files_of(), now) == 3
        return
    with pytest.raises(ProtocolError, match=f"{code}.*clock says {now:%Y-%m-%d %H:%M}"):
        verified(files_of(), now)


def test_without_a_given_time_it_is_now() -> None:
    with pytest.raises(ProtocolError, match="FA-3041"):
        verify_release(files_of(created=datetime.now(UTC) + timedelta(days=2)), SIGNERS, COORDINATOR)
    assert verify_release(files_of(), SIGNERS, COORDINATOR).version == 3


@pytest.mark.parametrize(
    ("needed", "client", "fits"),
    [
        ("0.1.0", "0.1.0", True),
        ("0.1.0", "0.2.0", True),
        ("0.9.0", "0.10.0", True),
        ("0.10.0", "0.9.9", False),
        ("1.0.0", "0.99.99", False),
        ("1.0.1", "1.0.0", False),
    ],
)
def test_versions_of_the_software_are_compared_as_numbers(needed: str, client: str, fits: bool) -> None:
    manifest = make_manifest(1, small_weights(1), GRAPH_BYTES, minimum_client=needed)
    if fits:
        check_manifest(manifest, COORDINATOR, NOW, client)
    else:
        with pytest.raises(ProtocolError, match=f"FA-3043.*{needed}.*{client}"):
            check_manifest(manifest, COORDINATOR, NOW, client)


def test_this_software_runs_what_it_releases() -> None:
    check_manifest(make_manifest(1, small_weights(1), GRAPH_BYTES), COORDINATOR, NOW, VERSION)


def test_nothing_is_believed_before_the_signature_is_checked() -> None:
    """A manifest that would be malformed too: only the signature is spoken of."""
    with pytest.raises(ProtocolError, match="FA-3017"):
        verified(signed({MANIFEST: b"{", WEIGHTS: b"", GRAPH: b""}, Ed25519PrivateKey.generate()))


def test_no_more_is_read_than_may_be_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"123")
    assert read_part(path, 3) == b"123"
    with pytest.raises(ProtocolError, match=r"FA-3046.*larger than 2"):
        read_part(path, 2)
    with pytest.raises(ProtocolError, match=r"FA-3046.*missing"):
        read_part(tmp_path / "missing", 2)
    with pytest.raises(ProtocolError, match="FA-3046"):
        read_part(Path("/dev/zero"), 1000)
    with pytest.raises(ProtocolError, match="FA-3046"):
        read_part(tmp_path, 1000)
