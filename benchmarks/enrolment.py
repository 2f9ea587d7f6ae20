"""Time to enrol a fleet against one coordinator.

    python -m benchmarks.enrolment [--devices 1000] [--threads 8] [--json]

A real coordinator (`fedaudio server start`) runs beside this process. Each device opens a TLS connection of
its own, pinned to the coordinator's root, fetches the trust statement and sends its request, as `fedaudio
client enroll` does; its keys and signatures are made before the clock starts, for they are the device's work.
Beside it the bare loop: such requests through `fl_server.enrolment.enrol` in this process, one after another.
Both write every enrolment and its line of evidence to the disk before they answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.protocol.enrolment import ENROL_PATH, TRUST_PATH, EnrolmentRequest
from common.security.canonical import canonical
from common.security.certificates import make_request, prove_node_key
from common.task import Task
from fl_server import evidence
from fl_server.authority import DeviceAuthority
from fl_server.enrolment import enrol
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.registry import Registry
from fl_server.settings import DeviceRules, ServerSettings
from fl_server.tokens import make_token

HOST = "127.0.0.1"
START_SECONDS = 120.0


def make_home(folder: Path) -> tuple[CoordinatorHome, Registry]:
    """A new coordinator that draws its port."""
    home = CoordinatorHome(folder)
    initialise(home, ServerSettings(port=0, task=Task(labels=("a", "b"), width=4)), names=[HOST])
    return home, Registry(home.database)


def make_requests(token: bytes, count: int) -> list[EnrolmentRequest]:
    """What `count` devices ask, with keys of their own."""
    requests = []
    for number in range(count):
        identity, node = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
        request = make_request(f"device-{number}", identity)
        public = node.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        requests.append(
            EnrolmentRequest(
                token=token.hex(),
                request=request.decode(),
                node_key=public.decode(),
                node_proof=prove_node_key(request, node).hex(),
            )
        )
    return requests


@contextmanager
def coordinator(home: CoordinatorHome, registry: Registry) -> Iterator[int]:
    """The running coordinator's port."""
    command = [sys.executable, "-m", "fedaudio", "server", "start", "--home", str(home.root)]
    log = home.root / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while (seen := registry.presence()) is None or seen.pid != process.pid:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the coordinator did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield seen.port
        finally:
            process.terminate()


def over_tls(home: CoordinatorHome, port: int) -> Callable[[EnrolmentRequest], float]:
    """A function that enrols one device over the network and returns the seconds it took."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=str(home.root_certificate))

    def act(request: EnrolmentRequest) -> float:
        started = time.monotonic()
        connection = http.client.HTTPSConnection(HOST, port, timeout=60, context=context)
        try:
            for method, path, body in (("GET", TRUST_PATH, None), ("POST", ENROL_PATH, canonical(request))):
                connection.request(method, path, body)
                answer = connection.getresponse()
                said = answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{path}: {answer.status} {said[:300]!r}")
        finally:
            connection.close()
        return time.monotonic() - started

    return act


def measure(
    act: Callable[[EnrolmentRequest], float], requests: Sequence[EnrolmentRequest], threads: int
) -> dict[str, float]:
    """Enrol all, `threads` at a time."""
    started, latencies, errors = time.monotonic(), [], 0
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(act, request) for request in requests]:
            try:
                latencies.append(future.result())
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                errors += 1
                print(f"failed: {error}", file=sys.stderr)
    seconds = time.monotonic() - started
    milliseconds = 1e3 * np.array(latencies or [float("nan")])
    return {
        "threads": threads,
        "errors": errors,
        "seconds": seconds,
        "ms_each": 1e3 * seconds / len(requests),
        "latency_ms_median": float(np.median(milliseconds)),
        "latency_ms_p99": float(np.percentile(milliseconds, 99)),
    }


def check(home: CoordinatorHome, registry: Registry, devices: int) -> None:
    """Fail unless every device is in the registry and in the evidence."""
    assert len({device.id for device in registry.devices() if device.state == "active"}) == devices
    assert evidence.verify(registry, home.evidence_head).entries >= devices + 2


def run(folder: Path, devices: int, threads: int) -> dict[str, dict[str, float]]:
    """Both ways, each with a coordinator of its own."""
    results = {}
    home, registry = make_home(folder / "network")
    requests = make_requests(make_token(registry, timedelta(hours=1), devices), devices)
    with coordinator(home, registry) as port:
        results["over TLS"] = measure(over_tls(home, port), requests, threads)
    check(home, registry, devices - int(results["over TLS"]["errors"]))

    home, registry = make_home(folder / "bare")
    requests = make_requests(make_token(registry, timedelta(hours=1), devices), devices)
    authority, rules = DeviceAuthority.load(home, None), DeviceRules()

    def bare(request: EnrolmentRequest) -> float:
        started = time.monotonic()
        enrol(registry, authority, rules, request)
        return time.monotonic() - started

    results["enrol()"] = measure(bare, requests, 1)
    check(home, registry, devices)
    return results


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(Path(folder), options.devices, options.threads)
    print(f"{options.devices} devices enrolled, {os.cpu_count()} cores for both sides")
    print("              threads  errors  seconds  ms each  latency: median     p99")
    for name, found in results.items():
        counts = f"{found['threads']:>7.0f} {found['errors']:>7.0f} {found['seconds']:>8.2f}"
        latency = f"{found['latency_ms_median']:>13.1f} ms {found['latency_ms_p99']:>5.1f} ms"
        print(f"  {name:<11} {counts} {found['ms_each']:>8.2f} {latency}")
    if options.json:
        print(json.dumps({"benchmark": "enrolment", "devices": options.devices, "results": results}))


if __name__ == "__main__":
    main()
