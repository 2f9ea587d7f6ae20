"""Who is given which version: a few devices first, never fewer later, and nothing that is not signed."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import CoordinatorError
from common.protocol.release import MANIFEST, SIGNATURE
from common.protocol.signed_release import sign_manifest
from common.security.keys import KeyFolder
from fl_server import evidence
from fl_server.home import CoordinatorHome
from fl_server.keyring import load_trust
from fl_server.registry import Model, Registry
from fl_server.releases import in_stage, release_folder, stages, store_release, version_for
from fl_server.rollout import STAGES, hand_out, promote
from tests.made_manifests import CREATED, small_release

DEVICES = [hashlib.sha256(b"%d" % number).hexdigest()[:32] for number in range(10_000)]


@pytest.fixture
def registry(home: CoordinatorHome) -> Registry:
    """Version 0 for all devices, version 1 signed and 2 not, both for none yet."""
    home.releases.mkdir(exist_ok=True)
    registry = Registry(home.database)
    for version in range(3):
        files = small_release(version)
        key = KeyFolder.unlock(home.keys, None).load("release", Ed25519PrivateKey)
        files[SIGNATURE] = sign_manifest(files[MANIFEST], key)
        if version == 2:
            del files[SIGNATURE]
        store_release(home.releases, version, files)
        with registry.session() as session:
            session.add(
                Model(
                    version=version,
                    parent=version - 1 if version else None,
                    created=CREATED,
                    weights="",
                    metrics="{}",
                    participants=0,
                    signed=version != 2,
                    rollout=100.0 if version == 0 else 0.0,
                )
            )
    hand_out(home, registry)
    return registry


def raise_to(home: CoordinatorHome, registry: Registry, version: int, **options: object) -> float:
    trust, _, _ = load_trust(home)
    return promote(home, registry, trust, version, **options).rollout  # type: ignore[arg-type]


def given(home: CoordinatorHome, version: int) -> set[str]:
    now = stages(home.releases)
    return {device for device in DEVICES if version_for(device, now) == version}


def test_each_stage_adds_devices_and_takes_none_away(home: CoordinatorHome, registry: Registry) -> None:
    seen: list[set[str]] = []
    for stage in STAGES:
        assert raise_to(home, registry, 1) == stage
        seen.append(given(home, 1))
        assert given(home, 0) | given(home, 1) == set(DEVICES)
    first, second, third = seen
    # Four standard deviations about the mean.
    assert 60 <= len(first) <= 140
    assert 880 <= len(second) <= 1120
    assert first < second < third == set(DEVICES)
    assert stages(home.releases) == [(1, 100.0)]


def test_another_version_has_other_devices_first() -> None:
    one, other = ({device for device in DEVICES if in_stage(device, version, 1)} for version in (1, 2))
    assert len(one & other) < 10


def test_a_share_may_be_named_and_only_grows(home: CoordinatorHome, registry: Registry) -> None:
    assert raise_to(home, registry, 1, percent=25.0) == 25
    quarter = given(home, 1)
    assert 2250 <= len(quarter) <= 2750
    for percent in (25.0, 10.0):
        with pytest.raises(CoordinatorError, match="FA-5035"):
            raise_to(home, registry, 1, percent=percent)
    assert given(home, 1) == quarter
    # The next stage above what it has.
    assert raise_to(home, registry, 1) == 100
    with pytest.raises(CoordinatorError, match="FA-5035"):
        raise_to(home, registry, 1)


def test_every_step_is_in_the_evidence(home: CoordinatorHome, registry: Registry) -> None:
    raise_to(home, registry, 1)
    raise_to(home, registry, 1, percent=50.0)
    lines = list(evidence.lines(registry))[-2:]
    assert '"kind":"rollout","version":1,"percent":1.0' in lines[0]
    assert '"percent":50.0' in lines[1]
    with pytest.raises(CoordinatorError):
        raise_to(home, registry, 1, percent=2.0)
    assert list(evidence.lines(registry))[-1] == lines[1]


def test_what_is_not_signed_is_given_to_nobody(home: CoordinatorHome, registry: Registry) -> None:
    with pytest.raises(CoordinatorError, match=r"FA-5031.*models sign"):
        raise_to(home, registry, 2)
    assert stages(home.releases) == [(0, 100.0)]


def test_a_wrong_signature_is_refused_and_not_kept(home: CoordinatorHome, registry: Registry) -> None:
    folder = release_folder(home.releases, 2)
    text = (folder / MANIFEST).read_bytes()
    stranger = sign_manifest(text, Ed25519PrivateKey.generate())
    of_another = (release_folder(home.releases, 1) / SIGNATURE).read_bytes()
    for signature in (stranger, of_another, b"", bytes(76)):
        with pytest.raises(CoordinatorError, match=r"FA-5032.*trust\.fas"):
            raise_to(home, registry, 2, signature=signature)
        assert not (folder / SIGNATURE).exists()
        assert stages(home.releases) == [(0, 100.0)]
    row = registry.model(2)
    assert row is not None
    assert not row.signed


def test_a_signature_from_elsewhere_is_checked_and_kept(home: CoordinatorHome, registry: Registry) -> None:
    folder = release_folder(home.releases, 2)
    key = KeyFolder.unlock(home.keys, None).load("release", Ed25519PrivateKey)
    signature = sign_manifest((folder / MANIFEST).read_bytes(), key)
    assert raise_to(home, registry, 2, signature=signature) == 1
    assert (folder / SIGNATURE).read_bytes() == signature
    assert stages(home.releases) == [(2, 1.0), (0, 100.0)]
    # It lies in the folder from now on.
    assert raise_to(home, registry, 2) == 10


def test_a_signature_that_was_put_into_the_folder_is_checked_too(
    home: CoordinatorHome, registry: Registry
) -> None:
    folder = release_folder(home.releases, 2)
    (folder / SIGNATURE).write_bytes(bytes(76))
    with pytest.raises(CoordinatorError, match="FA-5032"):
        raise_to(home, registry, 2)
    key = KeyFolder.unlock(home.keys, None).load("release", Ed25519PrivateKey)
    (folder / SIGNATURE).write_bytes(sign_manifest((folder / MANIFEST).read_bytes(), key))
    assert raise_to(home, registry, 2, percent=100.0) == 100


def test_what_is_behind_a_version_for_all_is_not_promoted(home: CoordinatorHome, registry: Registry) -> None:
    raise_to(home, registry, 1, percent=100.0)
    with pytest.raises(CoordinatorError, match=r"FA-5035.*version 1"):
        raise_to(home, registry, 0)


def test_a_version_that_was_never_made_is_named(home: CoordinatorHome, registry: Registry) -> None:
    with pytest.raises(CoordinatorError, match=r"FA-5007.*7"):
        raise_to(home, registry, 7)


def test_two_stages_stand_one_behind_the_other(home: CoordinatorHome, registry: Registry) -> None:
    key = KeyFolder.unlock(home.keys, None).load("release", Ed25519PrivateKey)
    signature = sign_manifest((release_folder(home.releases, 2) / MANIFEST).read_bytes(), key)
    raise_to(home, registry, 1, percent=50.0)
    raise_to(home, registry, 2, signature=signature, percent=50.0)
    assert stages(home.releases) == [(2, 50.0), (1, 50.0), (0, 100.0)]
    newest, middle, oldest = given(home, 2), given(home, 1), given(home, 0)
    assert newest | middle | oldest == set(DEVICES)
    assert 4800 < len(newest) < 5200
    assert 2300 < len(middle) < 2700
