"""Watches the store and puts each new release to work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeAlias, TypeVar

from common.errors import FedAudioError
from common.protocol.release import Release
from fl_client.listen.limits import SwapLimits
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.settings import ListenSettings
from fl_client.listen.trials import Trials
from fl_client.store import ModelStore, Stamp

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2

Made = TypeVar("Made")

Personal: TypeAlias = Callable[[Release], Release]
"""Puts the device's own parameters into a release; asked each time a release is put to work."""


def first_recognizer(
    store: ModelStore,
    personal: Personal,
    stop: threading.Event,
    owner: ListenSettings | None = None,
    limits: SwapLimits | None = None,
    trials: Trials | None = None,
) -> tuple[Recognizer, Stamp | None] | None:
    """Wait for a release that can be run; the newest such one, and the state of the store it was found in.

    A version that failed its trial is the last to be taken.

    Returns:
        None if `stop` was set first.
    """
    trials = trials or Trials(None)
    died, seen = trials.died(), None
    while not stop.is_set():
        stamp = store.stamp()
        if stamp != seen:
            seen = stamp
            for release in _failed_last(store.newest_first(), trials, seen):
                try:
                    recognizer = _put_to_work(
                        release, personal, partial(Recognizer, owner=owner, limits=limits)
                    )
                except FedAudioError as error:
                    log.warning("%s %s", error.happened, error.remedy)
                    continue
                if died is not None and trials.failed(died, seen) and release.version != died:
                    recognizer.goes_back_from(died, trials.reason)
                log.info("listening with version %d", release.version)
                return recognizer, seen
        stop.wait(POLL_SECONDS)
    return None


def follow(
    store: ModelStore,
    personal: Personal,
    recognizer: Recognizer,
    seen: Stamp | None,
    stop: threading.Event,
    trials: Trials | None = None,
) -> None:
    """Swap every release installed from now on into `recognizer`; one that cannot be used is logged, once.

    Runs until `stop` is set.
    """
    trials = trials or Trials(None)
    while not stop.wait(POLL_SECONDS):
        _conclude(trials, recognizer)
        stamp = store.stamp()
        if stamp == seen or stamp is None:
            continue
        seen = stamp
        release = store.load_current()
        if release is None or release.version == recognizer.version:
            continue
        # Before anything of it is run: it may do worse than fail.
        trials.begin(release.version, stamp)
        try:
            _put_to_work(release, personal, recognizer.swap)
        except FedAudioError as error:
            trials.fail(error.happened)
            log.warning("version %d stays: %s", recognizer.version, error.happened)
        else:
            log.info("version %d is on trial beside version %d", release.version, recognizer.version)


def _failed_last(releases: Iterable[Release], trials: Trials, seen: Stamp | None) -> Iterator[Release]:
    """`releases` as they come, which are read when they are asked for, but for one that failed its trial."""
    failed = []
    for release in releases:
        if trials.failed(release.version, seen):
            failed.append(release)
        else:
            yield release
    yield from failed


def _conclude(trials: Trials, recognizer: Recognizer) -> None:
    """Note how the trial ended, if it did."""
    if not trials.running or recognizer.on_trial:
        return
    if recognizer.version == trials.version:
        trials.passed()
    else:
        trials.fail("it was refused or taken back")


def _put_to_work(release: Release, personal: Personal, use: Callable[[Release], Made]) -> Made:
    """`use` the release with the device's own parameters, or without them if it cannot be run with them.

    Raises:
        FedAudioError: what `use` raises of the release as it came.
    """
    own = personal(release)
    if own is not release:
        try:
            return use(own)
        except FedAudioError as error:
            log.warning(
                "version %d does without the device's own parameters: %s", release.version, error.happened
            )
    return use(release)
