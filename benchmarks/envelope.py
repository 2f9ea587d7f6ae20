"""Cost of sealing, signing, verifying and opening one update, beside a bare loop of the primitives in it.

    python -m benchmarks.envelope [--json]

One thread. Every round times each contender, so that a busy machine hits all alike; medians over the rounds.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from hashlib import sha256

import cryptography
import numpy as np
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.protocol.tensors import decode_weights, encode_weights, schema_of
from common.security.envelope import Binding, open_envelope, parse_envelope, seal
from common.security.sealing import OpeningKey, Suite
from common.security.statement import raw_public

ROUNDS, CALLS = 41, 5
UPDATE_BYTES = 400_000
KEMS = {Suite.X25519: hpke.KEM.X25519, Suite.HYBRID: hpke.KEM.MLKEM768_X25519}
BINDING = Binding(bytes(8), 1, bytes(16), 1, bytes(32), bytes(32), 2**40)

Call = Callable[[], object]


def bare_loops(suite: Suite, key: OpeningKey, device: Ed25519PrivateKey, update: bytes) -> tuple[Call, Call]:
    """Sending and receiving with the primitives alone: HPKE, SHA-256 and Ed25519, and no format."""
    algorithms = hpke.Suite(KEMS[suite], hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    x25519 = key.x25519
    private = x25519 if key.mlkem is None else hpke.MLKEM768X25519PrivateKey(key.mlkem, x25519)
    public, verifier = private.public_key(), device.public_key()
    sealed = algorithms.encrypt(update, public, info=b"")
    signature = device.sign(sha256(sealed).digest())

    def send() -> object:
        return device.sign(sha256(algorithms.encrypt(update, public, info=b"")).digest())

    def receive() -> object:
        verifier.verify(signature, sha256(sealed).digest())
        return algorithms.decrypt(sealed, private, info=b"")

    return send, receive


def contenders() -> tuple[dict[str, Call], dict[str, int]]:
    """By name: calls to time; and the bytes that an envelope adds."""
    weights = {"w": np.random.default_rng(0).standard_normal(UPDATE_BYTES // 4).astype(np.float32)}
    update, schema, device = encode_weights(weights), schema_of(weights), Ed25519PrivateKey.generate()
    signer = raw_public(device)
    calls: dict[str, Call] = {}
    added: dict[str, int] = {}
    for suite in Suite:
        key, name = OpeningKey.generate(suite), suite.name.lower()
        data = seal(update, BINDING, device, key.public)
        added[name] = len(data) - len(update)
        public = key.public

        def send(public=public) -> object:
            return seal(update, BINDING, device, public)

        def receive(data=data, key=key) -> object:
            return open_envelope(parse_envelope(data, len(data)), signer, key)

        calls[f"{name}: bare send"], calls[f"{name}: bare receive"] = bare_loops(suite, key, device, update)
        calls[f"{name}: seal and sign"], calls[f"{name}: verify and open"] = send, receive
    calls["SHA-256 of it"] = lambda: sha256(update).digest()
    calls["decode and check the tensors"] = lambda: decode_weights(update, schema)
    return calls, added


PEERS = {"seal and sign": "bare send", "verify and open": "bare receive"}


def measure(calls: dict[str, Call]) -> dict[str, float]:
    """Median microseconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(CALLS):
                call()
            times[name].append((time.perf_counter() - begin) / CALLS * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def ratio(name: str, results: dict[str, float]) -> float | None:
    """To the bare loop, where there is one."""
    suite, _, what = name.partition(": ")
    return results[name] / results[f"{suite}: {PEERS[what]}"] if what in PEERS else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    calls, added = contenders()
    results = measure(calls)
    print(f"{'an update of 400 kB':34} {'us':>8} {'x bare':>7} {'bytes added':>12}")
    for name, microseconds in results.items():
        times = ratio(name, results)
        grown = added[name.partition(":")[0]] if name.endswith("seal and sign") else ""
        print(f"{name:34} {microseconds:8.0f} {'' if times is None else f'{times:.2f}':>7} {grown:>12}")
    if arguments.json:
        versions = {"python": platform.python_version(), "cryptography": cryptography.__version__}
        rows = [
            {
                "name": name,
                "us": round(value, 1),
                "ratio": round(times, 3) if (times := ratio(name, results)) else None,
            }
            for name, value in results.items()
        ]
        print(
            json.dumps({"benchmark": "envelope", "versions": versions, "overhead_bytes": added, "rows": rows})
        )


if __name__ == "__main__":
    main()
