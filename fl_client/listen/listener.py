"""The real-time process put together: store and source in, events and status out."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import psutil

from common.files import StorageError, write_atomic
from common.protocol.release import Release
from fl_client.listen.counters import Counters
from fl_client.listen.events import Message
from fl_client.listen.following import Personal, first_recognizer, follow
from fl_client.listen.limits import SwapLimits
from fl_client.listen.monitor import Monitor
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.recorder import Recorder
from fl_client.listen.settings import ListenSettings
from fl_client.listen.sources import Source
from fl_client.listen.trials import Trials
from fl_client.listen.trigger import is_background
from fl_client.store import ModelStore

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0

Sink = Callable[[Message], str | None]


def run_listener(
    store: ModelStore,
    source: Source,
    sink: Sink,
    *,
    status_path: Path | None,
    stop: threading.Event,
    personal: Personal = lambda release: release,
    settings: ListenSettings | None = None,
    recorder: Recorder | None = None,
    limits: SwapLimits | None = None,
    trial_path: Path | None = None,
) -> Counters:
    """Listen with the newest release of `store`, following it, until the sound ends or `stop` is set.

    Waits for a first release if there is none; the source is opened only then, so nothing is lost by waiting.

    Args:
        sink: called with each message in the thread that listens, which it must not hold up; gives the id
            that the message has from now on, if any.
        status_path: rewritten every second with a JSON object: version, seconds (of stream), rtf (processor
            time per second of stream), rss_mb and the fields of `Counters` and of `recorder`.
        personal: puts the device's own parameters into each release before it is put to work; what changes
            in them is heard with the next release.
        settings: what the owner has a say in.
        recorder: keeps the sound of events; used from here on.
        limits: what a release must keep to that takes over.
        trial_path: where it is noted that a release is on trial; see `fl_client.listen.trials`.

    Raises:
        AudioError, DeviceError: the source cannot be opened.
    """
    settings = settings or ListenSettings()

    def fitted(release: Release) -> Release:
        _warn_of_strangers(settings, release)
        return personal(release)

    trials = Trials(trial_path)
    found = first_recognizer(store, fitted, stop, settings, limits, trials)
    if found is None:
        return Counters()
    recognizer, seen = found
    done = threading.Event()
    with source, ThreadPoolExecutor(2, "listener") as threads:
        try:
            helpers = [threads.submit(follow, store, fitted, recognizer, seen, done, trials)]
            if status_path is not None:
                helpers.append(threads.submit(_report, recognizer, recorder, status_path, done))
            with recorder or nullcontext():  # all is written before the last report
                _hear(recognizer, Monitor(settings), source, sink, recorder, stop, helpers)
        finally:
            done.set()
    if trials.running:  # the owner ended it, not the release
        trials.passed()
    return recognizer.counters


def _hear(
    recognizer: Recognizer,
    monitor: Monitor,
    source: Source,
    sink: Sink,
    recorder: Recorder | None,
    stop: threading.Event,
    helpers: list[Future[None]],
) -> None:
    while not stop.is_set() and (block := source.read()) is not None:
        if block.lost or block.overruns:
            recognizer.skip(block.lost, block.overruns)
            monitor.skip(block.lost)
        for samples in monitor.cut(block.samples):
            for event in recognizer.feed(samples):
                name = sink(event)
                if recorder is not None:
                    recorder.keep(name, event, recognizer)
                _tell(sink, *monitor.heard(event))
            if recorder is not None:
                recorder.keep_window(recognizer)
            _tell(sink, *recognizer.swaps())
            _tell(sink, *monitor.feed(samples, recognizer.held_seconds))
        for helper in helpers:
            if helper.done():  # they end only by a fault, and half a listener is worse than a restarted one
                helper.result()
    _tell(sink, *recognizer.swaps(), *monitor.end(recognizer.held_seconds))


def _tell(sink: Sink, *messages: Message) -> None:
    for message in messages:
        sink(message)


def _warn_of_strangers(settings: ListenSettings, release: Release) -> None:
    known = {label for label in release.manifest.task.labels if not is_background(label)}
    if strangers := sorted(settings.thresholds.keys() - known):
        log.warning("version %d never reports %s: no use of the thresholds", release.version, strangers)


def _report(recognizer: Recognizer, recorder: Recorder | None, path: Path, done: threading.Event) -> None:
    """Write the status every second and once at the end; a full disk does not stop the listening."""
    process = psutil.Process()
    began, writable = time.process_time(), True
    while True:
        ended = done.wait(REPORT_SECONDS)
        seconds = recognizer.seconds
        status = {
            "version": recognizer.version,
            "seconds": round(seconds, 3),
            "rtf": round((time.process_time() - began) / seconds, 5) if seconds else None,
            "rss_mb": round(process.memory_info().rss / 1e6, 1),
            **asdict(recognizer.counters),
            **(recorder.counters if recorder is not None else {}),
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
