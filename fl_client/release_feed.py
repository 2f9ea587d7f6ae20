"""Bringing new releases from the coordinator into the model store."""

from __future__ import annotations

import hashlib
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from pydantic import ValidationError

from common.errors import DeviceError, FedAudioError, ProtocolError
from common.files import open_atomic, write_atomic
from common.protocol.release import (
    GRAPH,
    LARGEST_GRAPH,
    LARGEST_MANIFEST,
    MANIFEST,
    SIGNATURE,
    WEIGHTS,
    Manifest,
    Version,
)
from common.protocol.signed_release import check_manifest, coordinator_of, open_manifest
from common.protocol.tensors import encoded_size
from common.security.statement import SIGNATURE_BYTES
from common.security.trust import Trust
from common.settings import Settings, first_fault
from fl_client.connection import Clock, connection_error, learn_time, refusal_of
from fl_client.store import ModelStore, Stamp
from fl_client.trial import try_release

log = logging.getLogger(__name__)

WAIT_SECONDS = 20.0
"""How long one question for a newer version stays open; an answer comes at once when there is one."""

PAUSE_SECONDS = 0.2

REFUSED_SECONDS = 600.0
"""How long a version that this device has refused is not fetched again; a newer one is."""

OBJECTION_SECONDS = 60.0
"""How long nothing is asked for while the owner's policy is against a download."""

LARGEST_ANNOUNCEMENT = 4096


class Announcement(Settings):
    """The coordinator's answer to the question for a newer version."""

    version: Version


def follow_releases(
    client: httpx.Client,
    device: str,
    trust: Callable[[], Trust],
    store: ModelStore,
    stop: threading.Event,
    on_bytes: Callable[[int], None],
    *,
    clock: Clock,
    objection: Callable[[], FedAudioError | None] = lambda: None,
) -> None:
    """Install every newer release, until `stop` is set, whatever happens to the network meanwhile.

    Args:
        client: pinned to the coordinator; its base URL is the public port, and it waits for an answer longer
            than `WAIT_SECONDS`.
        device: the device's id.
        trust: what the device trusts now; asked again when a release is signed by a key that is not in it.
        store: made with the device's marks.
        on_bytes: told how much each download brought.
        clock: of the device; set by the coordinator's before anything is installed.
        objection: why nothing may be downloaded just now; None if it may.
    """
    feed = _Feed(client, device, trust, store, on_bytes, clock)
    tries, said = 0, ""
    while not stop.is_set():
        against = objection()
        if against is not None:
            if against.code != said:
                log.info("no release is fetched for now: %s", against)
            said = against.code
            stop.wait(OBJECTION_SECONDS)
            continue
        said = ""
        try:
            if feed.look() is None:
                # A coordinator that is about to stop answers at once.
                stop.wait(PAUSE_SECONDS)
            tries = 0
        except (httpx.HTTPError, FedAudioError) as error:
            log.warning("no release: %s", error)
            stop.wait(random.uniform(0.5, 1.0) * min(10.0, 0.5 * 2**tries))  # noqa: S311 - jitter
            tries = min(tries + 1, 8)


class _Feed:
    def __init__(
        self,
        client: httpx.Client,
        device: str,
        trust: Callable[[], Trust],
        store: ModelStore,
        on_bytes: Callable[[int], None],
        clock: Clock,
    ) -> None:
        self._client = client
        self._device = device
        self._trust = trust
        self._store = store
        self._on_bytes = on_bytes
        self._clock = clock
        self._after: tuple[Stamp | None, int] | None = None
        self._refused = -1
        self._refused_until = 0.0

    def look(self) -> int | None:
        """Ask for a newer version, wait a while for it, and install it; None if there was none."""
        after = self._wanted_after()
        query = {"after": str(after), "wait": str(WAIT_SECONDS), "device": self._device}
        answer = self._get("/v1/releases", LARGEST_ANNOUNCEMENT, query)
        if not answer:
            return None
        try:
            version = Announcement.model_validate_json(answer).version
        except ValidationError as error:
            raise ProtocolError(
                "FA-3014",
                f"The announcement of a release is malformed: {first_fault(error)}.",
                "Update the device.",
            ) from error
        if version <= after:
            raise ProtocolError(
                "FA-3014",
                f"Version {version} was announced to a device that has asked for one after {after}.",
                "Ask the coordinator's operator.",
            )
        self._install(version)
        log.info("version %d is in the store", version)
        return version

    def _wanted_after(self) -> int:
        stamp = self._store.stamp()
        if self._after is None or self._after[0] != stamp:
            self._after = stamp, self._store.wanted_after()
        return max(self._after[1], self._refused if time.monotonic() < self._refused_until else -1)

    def _install(self, version: int) -> None:
        """Nothing is downloaded before it is known who made it and how large it may be."""
        data = self._get(f"/v1/releases/{version}/{MANIFEST}", LARGEST_MANIFEST)
        signature = self._get(f"/v1/releases/{version}/{SIGNATURE}", SIGNATURE_BYTES)
        manifest, coordinator = self._open(data, signature)
        if manifest.version != version:
            raise ProtocolError(
                "FA-3015",
                f"What was announced as version {version} calls itself version {manifest.version}.",
                "Ask the coordinator's operator.",
            )
        learn_time(self._client, self._clock)
        with self._refusing(version):
            check_manifest(manifest, coordinator, self._clock.now())
            self._store.check_order(manifest)
        with self._store.receiving() as folder:
            write_atomic(folder / MANIFEST, data)
            write_atomic(folder / SIGNATURE, signature)
            self._fetch_graph(folder, manifest)
            self._fetch(folder, manifest, WEIGHTS, encoded_size(manifest.schema), manifest.weights)
            with self._refusing(version):
                try_release(folder, version)
                self._store.adopt(folder)

    def _open(self, data: bytes, signature: bytes) -> tuple[Manifest, str]:
        """The manifest, and the coordinator that this device trusts."""
        trust = self._trust()
        try:
            return open_manifest(data, signature, trust.release_keys()), coordinator_of(trust)
        except ProtocolError as error:
            if error.code != "FA-3017":
                raise
        # The coordinator may have a new release key, which a newer trust statement names.
        trust = self._trust()
        return open_manifest(data, signature, trust.release_keys()), coordinator_of(trust)

    @contextmanager
    def _refusing(self, version: int) -> Iterator[None]:
        """What a genuine release is refused for does not go away by fetching it again at once."""
        try:
            yield
        except (ProtocolError, DeviceError):
            self._refused, self._refused_until = version, time.monotonic() + REFUSED_SECONDS
            raise

    def _fetch_graph(self, folder: Path, manifest: Manifest) -> None:
        graph = self._store.graph(manifest.graph.digest)
        if graph is None:
            self._fetch(folder, manifest, GRAPH, LARGEST_GRAPH, manifest.graph.digest)
        else:
            write_atomic(folder / GRAPH, graph)

    def _fetch(self, folder: Path, manifest: Manifest, name: str, limit: int, digest: str) -> None:
        """Write a file as it comes, and check it against the manifest before it gets its name."""
        hashed = hashlib.sha256()
        with open_atomic(folder / name) as file:
            for part in self._stream(f"/v1/releases/{manifest.version}/{name}", limit):
                hashed.update(part)
                file.write(part)
            if hashed.hexdigest() != digest:
                raise ProtocolError(
                    "FA-3012",
                    f"The {name} is not that of version {manifest.version}: its digest is another.",
                    "It is fetched again; if it stays, ask the coordinator's operator.",
                )

    def _get(self, path: str, limit: int, params: Mapping[str, str] | None = None) -> bytes:
        return b"".join(self._stream(path, limit, params))

    def _stream(self, path: str, limit: int, params: Mapping[str, str] | None = None) -> Iterator[bytes]:
        """The body of an answer in parts, of at most `limit` bytes together."""
        size = 0
        try:
            # Compressed, a small answer could become a large one.
            with self._client.stream(
                "GET", path, params=params, headers={"Accept-Encoding": "identity"}
            ) as response:
                if response.is_error:
                    raise _error_of(response)
                for part in response.iter_raw():
                    size += len(part)
                    if size > limit:
                        raise _too_large(path, limit)
                    yield part
        except (httpx.TransportError, ssl.SSLError) as error:
            raise connection_error(self._client.base_url.netloc.decode(), error) from error
        self._on_bytes(size)


def _too_large(path: str, limit: int) -> ProtocolError:
    return ProtocolError(
        "FA-3013",
        f"The coordinator's {path} is larger than {limit} bytes, which it may have at most.",
        "Ask the coordinator's operator.",
    )


def _error_of(response: httpx.Response) -> FedAudioError | httpx.HTTPError:
    """What an answer of status 4xx or 5xx says in words, or else its status."""
    body = b""
    for part in response.iter_raw():
        body += part
        if len(body) > LARGEST_ANNOUNCEMENT:
            break
    status = f"{response.status_code} for {response.url.path}"
    return refusal_of(body) or httpx.HTTPStatusError(status, request=response.request, response=response)
