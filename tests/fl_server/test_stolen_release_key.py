"""A release key that was stolen: devices distrust it, and are given the same versions under the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import CoordinatorError, ProtocolError
from common.protocol.release import MANIFEST, SIGNATURE
from common.protocol.signed_release import open_manifest, sign_manifest, verify_release
from common.security.trust import Trust
from fl_server.home import CoordinatorHome
from fl_server.keyring import ServerKeys, load_trust, release_keys_ever
from fl_server.registry import Registry
from fl_server.releases import release_folder
from fl_server.rotation import rotate
from fl_server.settings import DeviceRules
from fl_server.witnesses import check_releases
from tests.fl_server.made_versions import files_of, make_home, open_versions, publish_next


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    """A coordinator that has released two versions, and gives devices the second."""
    home = make_home(tmp_path / "server")
    versions = open_versions(home)
    versions.current()
    publish_next(versions)
    return home


def distrust(home: CoordinatorHome) -> Trust:
    return rotate(home, Registry(home.database), DeviceRules(), None, ["release"], compromised=True)


def test_what_the_thief_signs_is_trusted_no_more(home: CoordinatorHome) -> None:
    stolen = ServerKeys.load(home, None).release
    assert stolen is not None
    text, old = files_of(home, 1)[MANIFEST], files_of(home, 0)[SIGNATURE]
    trust = distrust(home)
    assert len(trust.release) == 1
    assert load_trust(home)[0] == trust
    with pytest.raises(ProtocolError, match="FA-3017"):
        open_manifest(text, sign_manifest(text, stolen), trust.release_keys())
    # What devices are given says what it said, under the new key; what they are not given is left alone.
    files = files_of(home, 1)
    assert files[MANIFEST] == text
    verify_release(files, trust.release_keys(), load_trust(home)[2])
    assert files_of(home, 0)[SIGNATURE] == old
    # The evidence of what was released before stands, for the root has said whose key that was.
    assert check_releases(Registry(home.database), home.releases, release_keys_ever(home)) == []
    publish_next(open_versions(home))
    verify_release(files_of(home, 2), trust.release_keys(), load_trust(home)[2])


def test_what_the_thief_has_put_there_is_not_signed(home: CoordinatorHome) -> None:
    stolen = ServerKeys.load(home, None).release
    assert stolen is not None
    folder = release_folder(home.releases, 1)
    forged = (folder / MANIFEST).read_bytes().replace(b'"participants":2', b'"participants":3')
    (folder / MANIFEST).write_bytes(forged)
    (folder / SIGNATURE).write_bytes(sign_manifest(forged, stolen))
    with pytest.raises(CoordinatorError, match="FA-5055"):
        distrust(home)
    assert load_trust(home)[0].serial == 1
