"""Watches the store of one task and puts each new release to work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from common.errors import FedAudioError
from common.protocol.release import Release
from common.task import is_background
from fl_client.listen.counters import Counters
from fl_client.listen.events import MAIN
from fl_client.listen.front_ends import FrontEnds
from fl_client.listen.limits import SwapLimits
from fl_client.listen.memory import give_back
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.room import Room
from fl_client.listen.trials import Trials
from fl_client.store import Stamp

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2

Made = TypeVar("Made")


class Follower:
    """Puts to work what the store of a room holds: a first release, and each one after it.

    One thread at a time calls `begin` and `follow`.

    Args:
        room: the task.
        limits: what a release must keep to that takes over.
        front_ends: shared with those who hear the same stream, if there are any.

    Attributes:
        recognizer: runs the release at work; None until there is one that can be run.
    """

    def __init__(
        self, room: Room, limits: SwapLimits | None = None, front_ends: FrontEnds | None = None
    ) -> None:
        self.room = room
        self.recognizer: Recognizer | None = None
        self._limits, self._front_ends = limits, front_ends
        self._trials = Trials(room.trial_path)
        self._died = self._trials.died()
        self._seen: Stamp | None = None
        self._called = "" if room.name == MAIN else f"{room.name}: "

    @property
    def counters(self) -> Counters:
        """A copy of what has been counted so far."""
        return self.recognizer.counters if self.recognizer is not None else Counters()

    def begin(self, beside: Recognizer | None = None) -> Recognizer | None:
        """What runs the newest release that can be run, if there is one; which is not looked for again before
        the store changes. A version that failed its trial is the last to be taken.

        Args:
            beside: hears the stream that is to be joined.
        """
        stamp = self.room.store.stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        for release in self._failed_last(self.room.store.newest_first()):
            try:
                found = self._put_to_work(release, self._recognizer)
            except FedAudioError as error:
                log.warning("%s%s %s", self._called, error.happened, error.remedy)
                continue
            died, trials = self._died, self._trials
            if died is not None and trials.failed(died, stamp) and release.version != died:
                found.goes_back_from(died, trials.reason)
            if beside is not None:
                found.join(beside)
            self.recognizer = found
            log.info("%slistening with version %d", self._called, release.version)
            give_back()
            return found
        return None

    def follow(self, stop: threading.Event, beside: Recognizer | None = None) -> None:
        """Swap in every release that is installed from now on, until `stop` is set; one that cannot be used
        is logged, once. Where none is at work yet, wait for one and let it join `beside`.
        """
        recognizer = self.recognizer
        while recognizer is None:
            if stop.wait(POLL_SECONDS):
                return
            recognizer = self.begin(beside)
        while not stop.wait(POLL_SECONDS):
            self._conclude(recognizer)
            stamp = self.room.store.stamp()
            if stamp != self._seen and stamp is not None:
                self._seen = stamp
                self._try(recognizer, stamp)

    def end(self) -> None:
        """Note that the owner ended the listening, and not a release that was on trial."""
        if self._trials.running:
            self._trials.passed()

    def _try(self, recognizer: Recognizer, stamp: Stamp) -> None:
        release = self.room.store.load_current()
        if release is None or release.version == recognizer.version:
            return
        # Before anything of it is run: it may do worse than fail.
        self._trials.begin(release.version, stamp)
        work = recognizer.version
        try:
            self._put_to_work(release, recognizer.swap)
        except FedAudioError as error:
            self._trials.fail(error.happened)
            log.warning("%sversion %d stays: %s", self._called, work, error.happened)
        else:
            log.info("%sversion %d is on trial beside version %d", self._called, release.version, work)

    def _recognizer(self, release: Release) -> Recognizer:
        return Recognizer(
            release,
            self.room.settings,
            self._limits,
            name=self.room.name,
            front_ends=self._front_ends,
        )

    def _failed_last(self, releases: Iterable[Release]) -> Iterator[Release]:
        """`releases` as they come, read when they are asked for, but for one that failed its trial."""
        failed = []
        for release in releases:
            if self._trials.failed(release.version, self._seen):
                failed.append(release)
            else:
                yield release
        yield from failed

    def _conclude(self, recognizer: Recognizer) -> None:
        """Note how the trial ended, if it did."""
        if not self._trials.running or recognizer.on_trial:
            return
        if recognizer.version == self._trials.version:
            self._trials.passed()
        else:
            self._trials.fail("it was refused or taken back")

    def _put_to_work(self, release: Release, use: Callable[[Release], Made]) -> Made:
        """`use` the release with the device's own parameters, or without them if it cannot be run with them.

        Raises:
            FedAudioError: what `use` raises of the release as it came.
        """
        self._warn_of_thresholds(release)
        own = self.room.personal(release)
        if own is not release:
            try:
                return use(own)
            except FedAudioError as error:
                log.warning(
                    "%sversion %d does without the device's own parameters: %s",
                    self._called,
                    release.version,
                    error.happened,
                )
        return use(release)

    def _warn_of_thresholds(self, release: Release) -> None:
        another = self.room.settings.measured_with_another(release.version)
        if another is not None:
            log.warning(
                "%sthe thresholds were measured with version %d, not with version %d: calibrate again",
                self._called,
                another,
                release.version,
            )
        known = {label for label in release.manifest.task.labels if not is_background(label)}
        if strangers := sorted(self.room.settings.thresholds.keys() - known):
            log.warning(
                "%sversion %d never reports %s: no use of the thresholds",
                self._called,
                release.version,
                strangers,
            )
