"""Bringing new releases from the coordinator into the model store."""

from __future__ import annotations

import logging
import random
import ssl
import threading
from collections.abc import Callable, Mapping

import httpx
from pydantic import ValidationError

from common.errors import FedAudioError, ProtocolError
from common.protocol.release import FILES, GRAPH, MANIFEST, Version, parse_manifest
from common.settings import Settings, first_fault
from fl_client.store import ModelStore

log = logging.getLogger(__name__)

WAIT_SECONDS = 20.0
"""How long one question for a newer version stays open; an answer comes at once when there is one."""

PAUSE_SECONDS = 0.2

LARGEST_FILE = 256 << 20


class Announcement(Settings):
    """The coordinator's answer to the question for a newer version."""

    version: Version


def follow_releases(
    address: str, ca: bytes, store: ModelStore, stop: threading.Event, on_bytes: Callable[[int], None]
) -> None:
    """Install every newer release, until `stop` is set, whatever happens to the network meanwhile.

    Args:
        address: "host:port".
        ca: PEM the coordinator is pinned to.
        on_bytes: told how much each download brought.
    """
    trust = ssl.create_default_context(cadata=ca.decode("ascii"))
    tries = 0
    with httpx.Client(
        base_url=f"https://{address}", verify=trust, timeout=WAIT_SECONDS + 10, trust_env=False
    ) as client:
        while not stop.is_set():
            try:
                version = _newer_than(client, store.current_version())
                if version is None:
                    # A coordinator that is about to stop answers at once.
                    stop.wait(PAUSE_SECONDS)
                else:
                    release = store.install(_download(client, version, store, on_bytes))
                    log.info("version %d is in the store", release.version)
                tries = 0
            except (httpx.HTTPError, FedAudioError) as error:
                log.warning("no release: %s", error)
                stop.wait(random.uniform(0.5, 1.0) * min(10.0, 0.5 * 2**tries))  # noqa: S311 - jitter
                tries = min(tries + 1, 8)


def _newer_than(client: httpx.Client, current: int | None) -> int | None:
    after = -1 if current is None else current
    answer = _get(client, "/v1/releases", params={"after": str(after), "wait": str(WAIT_SECONDS)})
    if not answer:
        return None
    try:
        return Announcement.model_validate_json(answer).version
    except ValidationError as error:
        raise ProtocolError(
            "FA-3014",
            f"The announcement of a release is malformed: {first_fault(error)}.",
            "Update the device.",
        ) from error


def _download(
    client: httpx.Client, version: int, store: ModelStore, on_bytes: Callable[[int], None]
) -> dict[str, bytes]:
    def fetch(name: str) -> bytes:
        data = _get(client, f"/v1/releases/{version}/{name}")
        on_bytes(len(data))
        return data

    files = {MANIFEST: fetch(MANIFEST)}
    manifest = parse_manifest(files[MANIFEST])
    if manifest.version != version:
        raise ProtocolError(
            "FA-3015",
            f"What was announced as version {version} calls itself version {manifest.version}.",
            "Ask the coordinator's operator.",
        )
    current = store.load_current()
    if current is not None and current.manifest.graph.digest == manifest.graph.digest:
        # One graph serves every version of an architecture.
        files[GRAPH] = current.graph
    return files | {name: fetch(name) for name in FILES if name not in files}


def _get(client: httpx.Client, path: str, params: Mapping[str, str] | None = None) -> bytes:
    data = bytearray()
    with client.stream("GET", path, params=params) as response:
        response.raise_for_status()
        for part in response.iter_bytes():
            data += part
            if len(data) > LARGEST_FILE:
                raise ProtocolError(
                    "FA-3013",
                    f"The coordinator's {path} is larger than {LARGEST_FILE >> 20} MB.",
                    "Check the server.",
                )
    return bytes(data)
