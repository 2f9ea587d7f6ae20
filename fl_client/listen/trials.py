"""Remembers across restarts which release has proved itself, which have failed, and which are being tried.

A listener begins with the release that has proved itself, and a newer one is tried beside it. One that is
tried is noted before any of it is run. If the process ends before the trial does, by whatever but its owner's
wish, that release has failed: so one that brings the process down does so once, not on and on.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from pydantic import Field, ValidationError

from common.files import StorageError, read_if_there, sha256, write_atomic
from common.protocol.release import Manifest, Release
from common.security.canonical import canonical
from common.settings import Settings

log = logging.getLogger(__name__)

MOST = 64
"""Failed releases that are remembered; a store holds far fewer."""

HANGS = "its graph does not come to an end"

DIED = "the listener ended while it was on trial"


class Mark(Settings):
    """A release: its version, and the SHA-256 of its manifest, which differs if it was made anew."""

    version: int
    digest: str


class Failure(Mark):
    """A release that is used only where nothing else runs."""

    reason: str


class Note(Settings):
    """What is in the file.

    Attributes:
        proved: the last release whose watch went well.
        at_work: the release at work, while it is not proved.
        on_trial: the one that shadows it, or is being prepared for that.
        failed: in the order in which they did.
    """

    proved: Mark | None = None
    at_work: Mark | None = None
    on_trial: Mark | None = None
    failed: tuple[Failure, ...] = Field((), max_length=MOST)

    @property
    def in_use(self) -> set[int]:
        """The versions that must not be lost."""
        marks = (self.proved, self.at_work, self.on_trial)
        return {mark.version for mark in marks if mark is not None}

    def with_failed(self, mark: Mark, reason: str) -> Note:
        """A note in which `mark` has failed, and is nothing else."""
        failure = Failure(version=mark.version, digest=mark.digest, reason=reason)
        others = [one for one in self.failed if one.version != mark.version]
        kept = {name: None for name in ("proved", "at_work", "on_trial") if getattr(self, name) == mark}
        return self.model_copy(update={**kept, "failed": (*others, failure)[-MOST:]})


def read_note(path: Path) -> Note:
    """What is in the file `path`; nothing, with a warning, if it is damaged."""
    try:
        data = read_if_there(path)
        return Note.model_validate_json(data) if data is not None else Note()
    except (StorageError, ValidationError) as error:
        log.warning("what is known of earlier trials is not used: %s", error)
        return Note()


class Trials:
    """The trials of one task, in a small file. Any thread may call it.

    Args:
        path: the file, its owner's alone; None to remember nothing.

    Attributes:
        died: the release during whose trial the listener ended last time; it has failed by that.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._last: tuple[Release, Mark] | None = None
        self._note = self._on_disk = read_note(path) if path is not None else Note()
        self._has_ended = self._has_warned = False
        # Of two, the one at work: the other came later, and is given a trial of its own.
        self.died = self._note.at_work or self._note.on_trial
        if self.died is not None:
            note = self._note.model_copy(update={"at_work": None, "on_trial": None})
            self._write_or_warn(note.with_failed(self.died, DIED))

    @property
    def proved(self) -> int | None:
        """The version that has proved itself, if one has."""
        return self._note.proved.version if self._note.proved is not None else None

    def is_proved(self, release: Release) -> bool:
        """Whether that is `release`."""
        return self._note.proved == self._mark(release)

    def failed_as(self, release: Release) -> int | None:
        """How many of those remembered failed before `release` did; None if it has not failed."""
        mark = self._mark(release)
        failed = [Mark(version=one.version, digest=one.digest) for one in self._note.failed]
        return failed.index(mark) if mark in failed else None

    def hung(self, release: Release) -> bool:
        """Whether `release` failed as one that does not come to an end."""
        failure = Failure(**self._mark(release).model_dump(), reason=HANGS)
        return failure in self._note.failed

    def begin(self, release: Release) -> None:
        """Note, on the disk before this returns, that `release` is on trial from now on.

        Raises:
            StorageError: FA-8001; it cannot be noted, so it had better not be tried.
        """
        with self._lock:
            if not self._has_ended:
                self._write(self._note.model_copy(update={"on_trial": self._mark(release)}))

    def fail(self, release: Release, reason: str) -> None:
        """`release` is not to be tried again."""
        with self._lock:
            self._write_or_warn(self._note.with_failed(self._mark(release), reason))

    def fail_if_tried(self, manifest: Manifest, reason: str) -> None:
        """As `fail`, of the release of `manifest`, if it is at work or on trial here."""
        mark = _mark(manifest)
        with self._lock:
            if mark in {self._note.proved, self._note.at_work, self._note.on_trial}:
                self._write_or_warn(self._note.with_failed(mark, reason))

    def settle(self, at_work: Release, *, proved: bool, shadowed: bool) -> None:
        """Note which release is at work.

        Args:
            proved: whether its watch went well.
            shadowed: whether another is on trial beside it.
        """
        mark = self._mark(at_work)
        with self._lock:
            if self._has_ended:
                return
            note = self._note
            changes: dict[str, object] = {"at_work": None if proved or mark == note.proved else mark}
            if proved:
                others = tuple(one for one in note.failed if one.version != mark.version)
                changes |= {"proved": mark, "failed": others}
            if not shadowed or note.on_trial == mark:
                changes["on_trial"] = None
            self._write_or_warn(note.model_copy(update=changes))

    def end(self) -> None:
        """The listening has ended by no fault of a release: what was being tried has neither failed nor
        proved itself. Nothing else is noted after that but what fails.
        """
        with self._lock:
            self._has_ended = True
            self._write_or_warn(self._note.model_copy(update={"at_work": None, "on_trial": None}))

    def _mark(self, release: Release) -> Mark:
        last = self._last
        if last is None or last[0] is not release:  # it is asked for several times a second
            self._last = last = release, _mark(release.manifest)
        return last[1]

    def _write_or_warn(self, note: Note) -> None:
        try:
            self._write(note)
            self._has_warned = False
        except StorageError as error:
            self._note = note
            if not self._has_warned:  # it is tried several times a second
                log.warning("a trial is not remembered: %s", error.happened)
            self._has_warned = True

    def _write(self, note: Note) -> None:
        if note != self._on_disk and self._path is not None:
            write_atomic(self._path, json.dumps(note.model_dump()).encode(), mode=0o600)
        self._note = self._on_disk = note


def _mark(manifest: Manifest) -> Mark:
    return Mark(version=manifest.version, digest=sha256(canonical(manifest)))
