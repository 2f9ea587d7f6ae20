"""A log that was written anew fits itself; the releases, here and elsewhere, tell."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import CoordinatorError, ProtocolError
from common.files import sha256
from common.protocol.release import GRAPH, MANIFEST, SIGNATURE, WEIGHTS, Anchor, parse_manifest
from common.protocol.signed_release import sign_manifest
from common.security.canonical import canonical
from common.security.statement import raw_public
from fl_server import evidence
from fl_server.registry import Registry
from fl_server.releases import give, release_folder, store_release
from fl_server.witnesses import check_kept, check_releases
from tests.fl_server.test_evidence import digest, tamper
from tests.made_manifests import COORDINATOR, KEY, make_manifest, small_weights

SIGNERS = [raw_public(KEY)]


class Line:
    """A log with releases in it, and their folders."""

    def __init__(self, root: Path) -> None:
        self.registry = Registry(root / "coordinator.db")
        self.releases = root / "releases"
        self.releases.mkdir()

    def release(self, version: int, *, signed: bool = True, anchor: Anchor | None = None) -> None:
        self.revoke("somebody")
        entries, head = evidence.head(self.registry)
        anchor = anchor or Anchor(entries=entries, head=head)
        manifest = make_manifest(version, small_weights(version), b"graph", evidence=anchor)
        data = canonical(manifest)
        files = {MANIFEST: data, WEIGHTS: b"w", GRAPH: b"g"}
        if signed:
            files[SIGNATURE] = sign_manifest(data, KEY)
        store_release(self.releases, version, files)
        with self.registry.session() as session:
            percent = 100.0 if signed else 0.0
            evidence.append(session, "release", version=version, manifest=sha256(data), percent=percent)
        if signed:
            give(self.releases, [(version, 100.0)])

    def revoke(self, device: str) -> None:
        with self.registry.session() as session:
            evidence.append(session, "revoked", device=device)

    def folder(self, version: int) -> Path:
        return release_folder(self.releases, version)

    def check(self, signers: list[bytes] = SIGNERS) -> list[str]:
        return check_releases(self.registry, self.releases, signers)

    def rewrite(self, change: Callable[[dict[str, object]], object]) -> None:
        """Change facts of lines, and give the whole chain new digests; the head as well."""

        def anew(rows: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
            previous, new = evidence.BEGINNING, []
            for seq, line, _ in rows:
                fields = json.loads(line)
                change(fields)
                text = json.dumps(fields | {"previous": previous}, separators=(",", ":"))
                previous = digest(text)
                new.append((seq, text, previous))
            return new

        tamper(self.registry.path, anew)
        entries, last = evidence.head(self.registry)
        text = json.dumps({"seq": entries, "digest": last}, separators=(",", ":"))
        self.registry.path.with_name(evidence.HEAD).write_text(text)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    line = Line(tmp_path)
    for version in range(3):
        line.release(version)
    return line


def test_what_fits_is_believed(line: Line) -> None:
    assert line.check() == []
    line.release(3, signed=False)  # waits for its signature
    assert line.check() == []


def test_a_log_written_anew_does_not_fit_the_releases(line: Line) -> None:
    line.rewrite(lambda fields: fields.update(device="nobody") if fields["seq"] == 3 else None)
    evidence.verify(line.registry, line.registry.path.with_name(evidence.HEAD))
    with pytest.raises(CoordinatorError, match=r"FA-5055: Line 3 .* was changed"):
        line.check()


def forge(line: Line, version: int, *, sign: bool, key: Ed25519PrivateKey = KEY, **changes: object) -> None:
    """Write a manifest anew, with what the log says now."""
    path = line.folder(version) / MANIFEST
    data = canonical(parse_manifest(path.read_bytes()).model_copy(update=changes))
    path.write_bytes(data)
    path.with_name(SIGNATURE).unlink(missing_ok=True)
    if sign:
        path.with_name(SIGNATURE).write_bytes(sign_manifest(data, key))

    def tell(fields: dict[str, object]) -> None:
        if fields.get("version") == version:
            fields["manifest"] = sha256(data)

    line.rewrite(tell)


@pytest.mark.parametrize(
    ("forged", "found"),
    [
        (lambda line: forge(line, 2, sign=False), "does not vouch"),
        (lambda line: forge(line, 2, sign=True, key=Ed25519PrivateKey.generate()), "does not vouch"),
        (lambda line: forge(line, 2, sign=True, evidence=Anchor(entries=0, head="0" * 64)), "after line 0"),
        (lambda line: forge(line, 2, sign=True, evidence=Anchor(entries=5, head="1" * 64)), "was changed"),
        (lambda line: (line.folder(1) / SIGNATURE).unlink(), "does not vouch"),
        (lambda line: (line.folder(1) / MANIFEST).write_bytes(b"{}"), "does not vouch"),
        (lambda line: shutil.copytree(line.folder(0), line.folder(1), dirs_exist_ok=True),
         "is not the manifest"),
        (lambda line: shutil.rmtree(line.folder(2)), "Devices are given version 2"),
        (lambda line: line.rewrite(lambda fields: fields["seq"] == 4 and fields.update(kind="round")),
         "No line tells of the release of version 1"),
        (lambda line: line.rewrite(lambda fields: fields["seq"] == 6 and fields.update(kind="round")),
         "no line tells of its release"),
        (lambda line: line.rewrite(lambda fields: fields.pop("manifest", None)), "Line 2 .* is not what"),
        (lambda line: line.rewrite(lambda fields: fields.update(percent="all")), "Line 2 .* is not what"),
    ],
)  # fmt: skip
def test_what_was_forged_is_named(line: Line, forged: Callable[[Line], object], found: str) -> None:
    forged(line)
    with pytest.raises(CoordinatorError, match=f"FA-5055: .*{found}"):
        line.check()


def test_a_version_that_was_given_out_by_a_promotion_must_be_signed(line: Line) -> None:
    line.release(3, signed=False)
    with line.registry.session() as session:
        evidence.append(session, "rollout", version=3, percent=1.0)
    with pytest.raises(CoordinatorError, match=r"FA-5055: .*does not vouch"):
        line.check()


def test_what_an_operator_removed_or_a_crash_left_is_told(line: Line) -> None:
    shutil.rmtree(line.folder(0))
    shutil.copytree(line.folder(2), line.folder(7))
    findings = line.check()
    assert len(findings) == 2
    assert "version 0 is not there" in findings[0]
    assert "version 7" in findings[1]


def test_an_older_release_key_vouches_still(line: Line) -> None:
    assert line.check([raw_public(Ed25519PrivateKey.generate()), *SIGNERS]) == []
    with pytest.raises(CoordinatorError, match="FA-5055"):
        line.check([raw_public(Ed25519PrivateKey.generate())])


class TestKeptElsewhere:
    @pytest.fixture
    def kept(self, line: Line, tmp_path: Path) -> Path:
        shutil.copytree(line.folder(1), tmp_path / "device")
        return tmp_path / "device" / MANIFEST

    def test_it_agrees(self, line: Line, kept: Path) -> None:
        assert check_kept(line.registry, kept, SIGNERS, COORDINATOR).version == 1

    def test_somebody_with_the_release_key_cannot_reach_it(self, line: Line, kept: Path) -> None:
        # The operator rewrites everything on the coordinator: log, head, and manifests, signed anew.
        line.rewrite(lambda fields: fields.update(device="nobody") if fields["seq"] == 1 else None)
        for version in range(3):
            with closing(sqlite3.connect(line.registry.path)) as connection:
                (last,) = connection.execute(
                    "SELECT digest FROM evidence WHERE seq = ?", (2 * version + 1,)
                ).fetchone()
            forge(line, version, sign=True, evidence=Anchor(entries=2 * version + 1, head=last))
        assert line.check() == []
        with pytest.raises(CoordinatorError, match=r"FA-5055: .*is not the manifest that line 4 tells of"):
            check_kept(line.registry, kept, SIGNERS, COORDINATOR)

    def test_a_release_that_was_cut_off_the_log(self, line: Line, kept: Path) -> None:
        tamper(line.registry.path, lambda rows: rows[:3])
        with pytest.raises(CoordinatorError, match="FA-5055: No line tells of the release of version 1"):
            check_kept(line.registry, kept, SIGNERS, COORDINATOR)

    def test_what_vouches_for_nothing(self, line: Line, kept: Path) -> None:
        with pytest.raises(ProtocolError, match="FA-3042"):
            check_kept(line.registry, kept, SIGNERS, "d0" * 32)
        with pytest.raises(ProtocolError, match="FA-3017"):
            check_kept(line.registry, kept, [bytes(32)], COORDINATOR)
        kept.write_bytes(kept.read_bytes().replace(b'"version":1', b'"version":2'))
        with pytest.raises(ProtocolError, match="FA-3018"):
            check_kept(line.registry, kept, SIGNERS, COORDINATOR)
        kept.with_name(SIGNATURE).unlink()
        with pytest.raises(ProtocolError, match="FA-3046"):
            check_kept(line.registry, kept, SIGNERS, COORDINATOR)
