"""The real-time process put together: rooms and source in, events and status out."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from common.files import StorageError, write_atomic
from common.protocol.release import Manifest
from fl_client.listen.counters import Counters
from fl_client.listen.events import Message
from fl_client.listen.following import POLL_SECONDS, Follower
from fl_client.listen.front_ends import FrontEnds
from fl_client.listen.hearing import Hearing
from fl_client.listen.limits import SwapLimits
from fl_client.listen.memory import resident
from fl_client.listen.monitor import Monitor
from fl_client.listen.pipeline import blocks
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.room import Room
from fl_client.listen.settings import ListenSettings
from fl_client.listen.sources import Source
from fl_client.listen.watchdog import watch

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0

Sink = Callable[[Message], str | None]


def run_listener(
    rooms: Sequence[Room],
    source: Source,
    sink: Sink,
    *,
    status_path: Path | None,
    stop: threading.Event,
    settings: ListenSettings | None = None,
    limits: SwapLimits | None = None,
) -> Counters:
    """Listen with the newest release of each of `rooms`, and follow them, until the sound ends or `stop` is
    set.

    Waits for a first release if there is none; the source is opened only then, so nothing is lost by waiting.
    A room whose first release comes later joins the others then. All hear the same samples, and what goes
    wrong with the release of one is nothing to the others.

    Args:
        rooms: one or more, of different names; the first is that of the device itself.
        sink: called with each message in the thread that listens, which it must not hold up; gives the id
            that the message has from now on, if any.
        status_path: rewritten every second with a JSON object: seconds (of stream), rtf (processor time per
            second of stream), rss_mb; of the first room version, null before there is one, and
            the fields of `Counters` and of its recorder; and the same of the others by name, as tasks.
        settings: of levels and alarms, which are about the stream and not about a room.
        limits: what a release must keep to that takes over.

    Returns:
        The counters of the first room.

    Raises:
        AudioError, DeviceError: the source cannot be opened.
    """
    front_ends = FrontEnds()
    followers = [Follower(room, limits, front_ends, alone=len(rooms) == 1) for room in rooms]
    done = threading.Event()

    def blame(manifest: Manifest) -> None:
        for follower in followers:
            follower.hangs(manifest)

    watch(blame, done)
    try:
        first = _first(followers, stop)
        if first is None:
            return Counters()
        with source, ThreadPoolExecutor(len(rooms) + 1, "listener") as threads:
            try:
                helpers = [threads.submit(follower.follow, done, first) for follower in followers]
                if status_path is not None:
                    helpers.append(threads.submit(_report, followers, first, status_path, done))
                with ExitStack() as recorders:  # all is written before the last report
                    for room in rooms:
                        if room.recorder is not None:
                            recorders.enter_context(room.recorder)
                    monitor = Monitor(settings or ListenSettings())
                    try:
                        _hear(Hearing(followers), monitor, source, sink, stop, helpers)
                    finally:
                        # At once: what follows may take longer than the supervisor waits.
                        for follower in followers:
                            follower.stops()
            finally:
                done.set()
    finally:
        done.set()
        for follower in followers:
            follower.end()
    return followers[0].counters


def _first(followers: Sequence[Follower], stop: threading.Event) -> Recognizer | None:
    """Wait until there is a release for one of them at least; the first that has one, when all were asked."""
    while not stop.is_set():
        for found in [follower.begin() for follower in followers]:
            if found is not None:
                return found
        stop.wait(POLL_SECONDS)
    return None


def _hear(
    hearing: Hearing,
    monitor: Monitor,
    source: Source,
    sink: Sink,
    stop: threading.Event,
    helpers: Sequence[Future[None]],
) -> None:
    while not stop.is_set() and (block := source.read()) is not None:
        if block.lost or block.overruns:
            hearing.skip(block.lost, block.overruns)
            monitor.skip(block.lost)
        hearing.admit()
        for samples in chain.from_iterable(map(blocks, monitor.cut(block.samples))):
            for room, recognizer, events in hearing.feed(samples):
                for event in events:
                    name = sink(event)
                    if room.recorder is not None:
                        room.recorder.keep(name, event, recognizer)
                    _tell(sink, *monitor.heard(event))
                if room.recorder is not None:
                    room.recorder.keep_window(recognizer)
            _tell(sink, *hearing.swaps(), *monitor.feed(samples, hearing.held_seconds))
        _tell(sink, *hearing.swaps())  # also while the source is silent
        for helper in helpers:
            if helper.done():  # they end only by a fault, and half a listener is worse than a restarted one
                helper.result()
    _tell(sink, *hearing.swaps(), *monitor.end(hearing.held_seconds))


def _tell(sink: Sink, *messages: Message) -> None:
    for message in messages:
        sink(message)


def _report(followers: Sequence[Follower], first: Recognizer, path: Path, done: threading.Event) -> None:
    """Write the status every second and once at the end; a full disk does not stop the listening."""
    began, writable = time.process_time(), True
    while True:
        ended = done.wait(REPORT_SECONDS)
        seconds = first.seconds
        own, *others = followers
        status = {
            "seconds": round(seconds, 3),
            "rtf": round((time.process_time() - began) / seconds, 5) if seconds else None,
            "rss_mb": round(resident() / 1e6, 1),
            **_facts(own),
            "tasks": {other.room.name: _facts(other) for other in others},
        }
        try:
            write_atomic(path, json.dumps(status).encode(), mode=0o600, lasting=False)
            writable = True
        except StorageError as error:
            if writable:
                log.warning("no status is written: %s", error.happened)
            writable = False
        if ended:
            return


def _facts(follower: Follower) -> dict[str, object]:
    recognizer, recorder = follower.recognizer, follower.room.recorder
    return {
        "version": recognizer.version if recognizer is not None else None,
        **asdict(follower.counters),
        **(recorder.counters if recorder is not None else {}),
    }
