"""Watches the store of one task and puts each new release to work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from common.errors import FedAudioError
from common.files import StorageError
from common.protocol.release import Manifest, Release
from common.task import is_background
from fl_client.listen.counters import Counters
from fl_client.listen.events import MAIN
from fl_client.listen.front_ends import FrontEnds
from fl_client.listen.limits import SwapLimits
from fl_client.listen.memory import give_back
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.room import Room
from fl_client.listen.trials import DIED, HANGS, Trials
from fl_client.store import Stamp

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2

RETRY_SECONDS = 60.0
"""Until a release is looked at again that could not be noted as on trial, for a disk may be full for long."""

Made = TypeVar("Made")


class Follower:
    """Puts to work what the store of a room holds: a first release, and each one after it.

    One thread at a time calls `begin` and `follow`.

    Args:
        room: the task.
        limits: what a release must keep to that takes over.
        front_ends: shared with those who hear the same stream, if there are any.
        alone: whether no other room is heard for, to which a release that hangs would be a harm, too.

    Attributes:
        recognizer: runs the release at work; None until there is one that can be run.
    """

    def __init__(
        self,
        room: Room,
        limits: SwapLimits | None = None,
        front_ends: FrontEnds | None = None,
        *,
        alone: bool = True,
    ) -> None:
        self.room = room
        self.recognizer: Recognizer | None = None
        self._limits, self._front_ends, self._alone = limits, front_ends, alone
        self._trials = Trials(room.trial_path)
        self._seen: Stamp | None = None
        self._offered: Stamp | None = None
        self._called = "" if room.name == MAIN else f"{room.name}: "

    @property
    def counters(self) -> Counters:
        """A copy of what has been counted so far."""
        return self.recognizer.counters if self.recognizer is not None else Counters()

    def begin(self, beside: Recognizer | None = None) -> Recognizer | None:
        """What runs the best release that can be run, if there is one; which is not looked for again before
        the store changes. The one that has proved itself is the first to be taken, and one that failed the
        last.

        Args:
            beside: hears the stream that is to be joined.
        """
        stamp = self.room.store.stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        for release in self._best_first():
            # Before anything of it is run: it may do worse than fail.
            self._trials.settle(release, proved=False, shadowed=False)
            try:
                found = self._put_to_work(release, self._recognizer)
            except FedAudioError as error:
                self._trials.fail(release, error.happened)
                log.warning("%s%s %s", self._called, error.happened, error.remedy)
                continue
            died = self._trials.died
            if died is not None and release.version != died.version:
                found.goes_back_from(died.version, DIED)
            if beside is not None:
                found.join(beside)
            self.recognizer = found
            log.info("%slistening with version %d", self._called, release.version)
            give_back()
            return found
        return None

    def follow(self, stop: threading.Event, beside: Recognizer | None = None) -> None:
        """Swap in each newest release of the store, one that was there before included, until `stop` is set;
        one that cannot be used is logged, once. Where none is at work yet, wait for one and let it join
        `beside`.
        """
        recognizer = self.recognizer
        while recognizer is None:
            if stop.wait(POLL_SECONDS):
                return
            recognizer = self.begin(beside)
        pause = POLL_SECONDS
        while not stop.wait(pause):
            self._conclude(recognizer)
            pause = self._look(recognizer)

    def failed_at_work(self, reason: str) -> None:
        """Note that the release at work does what nobody can live with."""
        if self.recognizer is not None:
            self._trials.fail(self.recognizer.release, reason)

    def hangs(self, manifest: Manifest) -> None:
        """Note, if the release of `manifest` is one of this room, that it does not come to an end; and that
        no other is to blame for the end of the listening."""
        self._trials.fail_if_tried(manifest, HANGS)
        self._trials.end()

    def stops(self) -> None:
        """Note that the listening ends by no fault of a release, or that this is noted."""
        self._trials.end()

    def end(self) -> None:
        """Note the last failures, and that the listening has ended by nothing else."""
        if self.recognizer is not None:
            self._conclude(self.recognizer)
        self._trials.end()

    def _look(self, recognizer: Recognizer) -> float:
        """Offer the newest release, unless that was done; the seconds until it is worth another look."""
        stamp = self.room.store.stamp()
        # One after the other: if the process dies it must be known by which.
        if stamp in {None, self._offered} or recognizer.shadowed:
            return POLL_SECONDS
        work = recognizer.version
        release = self.room.store.load_current() if self.room.store.current_version() != work else None
        if release is not None and release.version != work and self._trials.failed_as(release) is None:
            try:
                self._trials.begin(release)  # before anything of it is run: it may do worse than fail
            except StorageError as error:
                log.warning("%sversion %d is not tried: %s", self._called, release.version, error.happened)
                return RETRY_SECONDS
            self._try(recognizer, release)
        self._offered = stamp
        return POLL_SECONDS

    def _try(self, recognizer: Recognizer, release: Release) -> None:
        work = recognizer.version
        try:
            self._put_to_work(release, recognizer.swap)
        except FedAudioError as error:
            self._trials.fail(release, error.happened)
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

    def _best_first(self) -> Iterator[Release]:
        """What the store holds, read when it is asked for: the release that proved itself, those that are
        new, and those that failed, the one that did so longest ago first, so that each has its turn.
        """
        trials, store, failed = self._trials, self.room.store, list[tuple[int, Release]]()
        proved = store.find(trials.proved) if trials.proved is not None else None
        if proved is not None and not trials.is_proved(proved):
            proved = None
        if proved is not None:
            yield proved
        for release in store.newest_first():
            place = trials.failed_as(release)
            if proved is not None and release.version == proved.version:
                continue
            if place is None:
                yield release
            elif not self._alone and trials.hung(release):
                log.warning("%sversion %d is not run again: it hangs", self._called, release.version)
            else:
                failed.append((place, release))
        yield from (release for _, release in sorted(failed, key=lambda one: one[0]))

    def _conclude(self, recognizer: Recognizer) -> None:
        """Note what has become of trials."""
        for release, reason in recognizer.failures():
            self._trials.fail(release, reason)
        shadowed, proved = recognizer.shadowed, recognizer.proved
        self._trials.settle(proved or recognizer.release, proved=proved is not None, shadowed=shadowed)

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
