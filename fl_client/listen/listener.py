"""The real-time process put together: store and source in, events and status out."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import psutil

from common.files import StorageError, write_atomic
from fl_client.listen.counters import Counters
from fl_client.listen.following import Personal, first_recognizer, follow
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.sources import Source
from fl_client.listen.trigger import Event
from fl_client.store import ModelStore

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0


def run_listener(
    store: ModelStore,
    source: Source,
    sink: Callable[[Event], None],
    *,
    status_path: Path | None,
    stop: threading.Event,
    personal: Personal = lambda release: release,
) -> Counters:
    """Listen with the newest release of `store`, following it, until the sound ends or `stop` is set.

    Waits for a first release if there is none; the source is opened only then, so nothing is lost by waiting.

    Args:
        sink: called with each event in the thread that listens, which it must not hold up.
        status_path: rewritten every second with a JSON object: version, seconds (of stream), rtf (processor
            time per second of stream), rss_mb and the fields of `Counters`.
        personal: puts the device's own parameters into each release before it is put to work; what changes
            in them is heard with the next release.

    Raises:
        AudioError, DeviceError: the source cannot be opened.
    """
    found = first_recognizer(store, personal, stop)
    if found is None:
        return Counters()
    recognizer, seen = found
    done = threading.Event()
    with source, ThreadPoolExecutor(2, "listener") as threads:
        try:
            helpers = [threads.submit(follow, store, personal, recognizer, seen, done)]
            if status_path is not None:
                helpers.append(threads.submit(_report, recognizer, status_path, done))
            _hear(recognizer, source, sink, stop, helpers)
        finally:
            done.set()
    return recognizer.counters


def _hear(
    recognizer: Recognizer,
    source: Source,
    sink: Callable[[Event], None],
    stop: threading.Event,
    helpers: list[Future[None]],
) -> None:
    while not stop.is_set() and (block := source.read()) is not None:
        if block.lost or block.overruns:
            recognizer.skip(block.lost, block.overruns)
        for event in recognizer.feed(block.samples):
            sink(event)
        for helper in helpers:
            if helper.done():  # they end only by a fault, and half a listener is worse than a restarted one
                helper.result()


def _report(recognizer: Recognizer, path: Path, done: threading.Event) -> None:
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
