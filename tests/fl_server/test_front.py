"""What the public port shows to whom, and how the front starts and stops."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.main import create_app
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, CoordinatorError
from common.protocol.enrolment import ENROL_PATH, LARGEST_REQUEST, RENEW_PATH, TRUST_PATH, Enrolled
from common.protocol.release import FILES, MANIFEST, WEIGHTS
from common.security.canonical import canonical
from common.security.certificates import issue_tls, make_root
from common.security.keys import KeyFolder, load_key_file
from common.security.trust import fingerprint, open_trust
from fl_server.door import PER_ADDRESS
from fl_server.front import private_folder, require_loopback
from fl_server.front_process import FrontProcess
from fl_server.gate import LIMITS
from fl_server.home import CoordinatorHome
from fl_server.limits import Bucket, Failures, neighbourhood
from fl_server.refusal import RefusedError
from fl_server.registry import Device
from fl_server.releases import (
    give,
    in_stage,
    largest_weights,
    stages,
    store_release,
    version_for,
)
from fl_server.rotation import rotate
from tests.fl_server.made_devices import MadeDevice
from tests.fl_server.made_front import PASSPHRASE, Front, point_to, running_front
from tests.processes import wait_for


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running_front(tmp_path_factory.mktemp("front"), passphrase=PASSPHRASE) as front:
        yield front


def handshake(front: Front, context: ssl.SSLContext, name: str = "127.0.0.1") -> str | None:
    address = ("127.0.0.1", front.process.port)
    with (
        socket.create_connection(address, timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return connection.version()


def test_tls_is_1_3_and_nothing_older(front: Front) -> None:
    assert handshake(front, front.trust()) == "TLSv1.3"
    old = front.trust()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(front, old)


def test_who_has_pinned_another_root_does_not_connect(front: Front) -> None:
    other, _ = make_root()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=other.public_bytes(Encoding.PEM).decode())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(front, context)


def test_the_certificate_is_for_its_names_only(front: Front) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(front, front.trust(), "elsewhere.example")


def test_a_man_in_the_middle_is_found_out(front: Front, tmp_path: Path) -> None:
    """He has a certificate of a root of his own, for the very same address."""
    root, root_key = make_root()
    certificate, key = issue_tls(root, root_key, ["127.0.0.1"])
    chain = tmp_path / "chain.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def intercept() -> None:
            victim, _ = listener.accept()
            try:
                with context.wrap_socket(victim, server_side=True) as connection:
                    heard.append(connection.recv(10_000))
            except OSError:
                victim.close()

        thread = threading.Thread(target=intercept)
        thread.start()
        port = listener.getsockname()[1]
        with (
            httpx.Client(verify=front.trust(), trust_env=False) as web,
            pytest.raises(httpx.ConnectError, match=r"(?i)certificate"),
        ):
            web.post(f"https://127.0.0.1:{port}{ENROL_PATH}", content=b"a secret token")
        thread.join(timeout=60)
    assert b"secret" not in b"".join(heard)


def test_plain_http_is_not_spoken(front: Front) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{front.process.port}/health", trust_env=False)


def paths_of_flower() -> set[str]:
    app = create_app()
    return {*app.openapi()["paths"], *(path for _, path in PROTOBUF_REQUEST_TYPES)} | {
        getattr(route, "path", "/") for route in app.routes
    }


CLOSED = [
    "/",
    "/redoc",
    "/v1",
    "/v1/fleet",
    "/v1/fleet/",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol%2flist-runs",
    "/v1/fleet//../../docs",
    "/v1/fleet/pull%2dmessages",
    "/v1/fleet/pull-messages/",
    "/v1/Fleet/pull-messages",
    "//v1/control/list-runs",
    "/V1/control/list-runs",
    "/v1/releases/0",
    "/v1/releases/0/",
    "/v1/releases/0/coordinator.db",
    "/v1/releases/0/..%2f..%2fserver.toml",
    "/v1/releases/0/../../server.toml",
    "/v1/releases/0/../../keys/tls.key",
    "/v1/releases/..%2fkeys/tls.key",
    "/v1/releases/current",
    "/v1/releases/-1/manifest.json",
    "/v1/releases/1e3/manifest.json",
    "/v1/releases/99999999/manifest.json",
    "/v1/releases/" + "9" * 300 + "/manifest.json",
    "/v1/releases/" + "9" * 5000 + "/manifest.json",
    "/v1/releases/0/" + "x" * 300,
    "/v1/releases/0/%00",
]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_everything_else_does_not_exist_on_the_public_port(front: Front, method: str) -> None:
    store_release(front.home.releases, 0, dict.fromkeys(FILES, b"x"))
    point_to(front.home.releases, 0)
    passed = {f"/v1/fleet/{kind}" for kind in LIMITS}
    flowers = paths_of_flower()
    assert passed < flowers, "Flower has renamed something"
    assert len(flowers) > 70
    closed = sorted(flowers - passed - {"/health"}) + CLOSED
    for path in closed + (sorted(passed) if method != "POST" else []):
        # http.client sends a path as it is; others would tidy it up first.
        connection = http.client.HTTPSConnection(
            "127.0.0.1", front.process.port, context=front.trust(), timeout=30
        )
        connection.request(method, path, body=b"" if method == "POST" else None)
        status = connection.getresponse().status
        connection.close()
        assert status == 404, path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health/"),
        ("POST", "/health"),
        ("GET", ENROL_PATH),
        ("GET", RENEW_PATH),
        ("DELETE", TRUST_PATH),
        ("GET", TRUST_PATH + "/"),
        ("POST", ENROL_PATH + "/"),
        ("GET", "/v1/releases/"),
        ("POST", "/v1/releases"),
    ],
)
def test_a_path_of_ours_is_one_in_its_one_spelling_and_with_its_method(
    front: Front, method: str, path: str
) -> None:
    with front.web() as web:
        response = web.request(method, path, headers={"host": "elsewhere.example"})
    assert response.status_code == 404
    assert not {"location", "allow"} & set(response.headers)
    assert b"elsewhere" not in response.content


def test_health_tells_the_time(front: Front) -> None:
    with front.web() as web:
        said = web.get("/health").json()
    assert said["status"] == "ok"
    assert abs(said["time"] - time.time()) < 60


def test_the_trust_statement_is_there_for_everybody(front: Front) -> None:
    with front.web() as web:
        data = web.get(TRUST_PATH).raise_for_status().content
    trust = open_trust(data, fingerprint(x509.load_pem_x509_certificate(front.root.encode())))
    assert trust.device_ca == front.home.device_ca_certificate.read_text()


def test_a_new_trust_statement_is_served_at_once(tmp_path: Path) -> None:
    with running_front(tmp_path / "rotated") as front, front.web() as web:
        before = web.get(TRUST_PATH).content
        for serial in (2, 3):
            rotate(front.home, front.registry, front.settings.devices, None, ["plan"])
            served = web.get(TRUST_PATH).content
            assert served == front.home.trust.read_bytes() != before
            assert (
                open_trust(served, fingerprint(x509.load_pem_x509_certificate(front.root.encode()))).serial
                == serial
            )


def test_a_device_enrols_and_renews_over_the_wire(front: Front) -> None:
    device = MadeDevice("wire")
    with front.web() as web:
        request = canonical(device.request(front.invite()))
        answer = web.post(ENROL_PATH, content=request).raise_for_status()
        enrolled = Enrolled.model_validate_json(answer.content)
        assert enrolled.state == "active"
        said = front.authority.read(enrolled.certificate)
        assert (said.identity, said.device) == (device.raw, enrolled.device)
        assert web.post(ENROL_PATH, content=request).json() == json.loads(answer.content), "once more"
        new = MadeDevice("wire")
        renewed = web.post(RENEW_PATH, content=new.renewal(enrolled.device, said.serial, signer=device))
        again = front.authority.read(
            Enrolled.model_validate_json(renewed.raise_for_status().content).certificate
        )
        assert again.serial != said.serial


GOOD = canonical(MadeDevice("malformed").request(b"x" * 16))

MALFORMED = {
    "nothing": b"",
    "no JSON": b"\x00\xff\xfe",
    "an array": b"[]",
    "deep": b"[" * 10_000,
    "a space": GOOD.replace(b":", b": ", 1),
    "a key twice": GOOD.replace(b"{", b'{"token":"' + b"0" * 32 + b'",', 1),
    "a key too many": GOOD.replace(b"{", b'{"admin":true,', 1),
    "a key missing": GOOD[: GOOD.index(b',"node_proof"')] + b"}",
    "cut off": GOOD[:-20],
    "no request": GOOD.replace(b"BEGIN CERTIFICATE REQUEST", b"BEGIN SOMETHING ELSE"),
    "a long number": b'{"token":' + b"9" * 10_000 + b"}",
}


@pytest.fixture
def neighbour(front: Front) -> Iterator[httpx.Client]:
    """A client with a network address of its own, from which nothing has failed yet."""
    address = f"127.1.0.{next(neighbours)}"
    transport = httpx.HTTPTransport(verify=front.trust(), local_address=address)
    with httpx.Client(base_url=front.base_url, transport=transport, timeout=60) as web:
        yield web


neighbours = iter(range(1, 250))


@pytest.mark.parametrize("path", [ENROL_PATH, RENEW_PATH])
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_to_enrol_is_refused_in_words(
    neighbour: httpx.Client, path: str, body: bytes
) -> None:
    response = neighbour.post(path, content=body)
    assert response.status_code == 400, response.content
    assert set(response.json()) == {"code", "happened", "remedy"}
    assert len(response.content) < 1500


def test_an_unknown_token_is_refused_and_not_repeated(neighbour: httpx.Client) -> None:
    token = b"0123456789abcdef"
    response = neighbour.post(ENROL_PATH, content=canonical(MadeDevice("thief").request(token)))
    assert response.status_code == 403
    assert response.json()["code"] == "FA-5044"
    assert token.hex() not in response.text


@pytest.mark.parametrize("path", [ENROL_PATH, RENEW_PATH])
def test_a_long_request_to_enrol_is_refused_before_it_is_sent(front: Front, path: str) -> None:
    connection = http.client.HTTPSConnection(
        "127.0.0.1",
        front.process.port,
        context=front.trust(),
        timeout=60,
        source_address=(f"127.1.0.{next(neighbours)}", 0),
    )
    connection.putrequest("POST", path)
    connection.putheader("content-length", str(LARGEST_REQUEST + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_enrolments_that_fail_are_limited_and_those_that_succeed_are_not(tmp_path: Path) -> None:
    with running_front(tmp_path / "limits") as front, front.web() as web:
        invitation = front.invite(uses=60)
        for number in range(60):
            request = canonical(MadeDevice(f"device{number}").request(invitation))
            assert web.post(ENROL_PATH, content=request).is_success
        statuses = [web.post(ENROL_PATH, content=b"{}").status_code for _ in range(60)]
        assert statuses[:30] == [400] * 30
        assert statuses[-1] == 429
        late = canonical(MadeDevice("late").request(front.invite()))
        refused = web.post(ENROL_PATH, content=late)
        assert (refused.status_code, refused.json()["code"]) == (429, "FA-5092")
        time.sleep(int(refused.headers["retry-after"]))
        wait_for(lambda: web.post(ENROL_PATH, content=late).is_success, "forgiveness")


def test_a_neighbour_who_cannot_enrol_stops_nobody_from_renewing(tmp_path: Path) -> None:
    with running_front(tmp_path / "neighbours") as front, front.web() as web:
        device = front.enrol("honest", now=datetime.now(UTC) - timedelta(hours=2))
        with front.registry.session() as session:
            serial = front.authority.read(session.get_one(Device, device.id).certificate).serial
        statuses = [web.post(ENROL_PATH, content=b"{}").status_code for _ in range(40)]
        assert statuses[-1] == 429
        assert web.post(RENEW_PATH, content=device.made.renewal(device.id, serial)).is_success
        renewals = [web.post(RENEW_PATH, content=b"{}").status_code for _ in range(40)]
        assert renewals[0] == 400
        assert renewals[-1] == 429


def test_what_goes_wrong_inside_is_not_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with running_front(tmp_path / "broken") as front, front.web() as web:
        with front.registry.session() as session:
            session.connection().exec_driver_sql("DROP TABLE tokens")
        request = canonical(MadeDevice("kitchen").request(bytes(16)))
        response = web.post(ENROL_PATH, content=request)
        assert (response.status_code, response.json()["code"]) == (503, "FA-5093")
        assert "token" not in response.text
    assert "tokens" in capfd.readouterr().err, "the operator is told"


def test_a_thousand_devices_enrol_side_by_side(tmp_path: Path) -> None:
    """Here a hundred; the benchmark enrols a thousand."""
    count = 100
    with running_front(tmp_path / "many") as front:
        token = front.invite(uses=count)

        def enrol(number: int) -> int:
            with front.web() as web:
                request = canonical(MadeDevice(f"device{number}").request(token))
                return web.post(ENROL_PATH, content=request).status_code

        with ThreadPoolExecutor(16) as threads:
            assert set(threads.map(enrol, range(count))) == {200}
        with front.registry.session() as session:
            assert session.query(Device).filter_by(state="active").count() == count


def test_releases_are_offered_and_downloaded(front: Front) -> None:
    contents = dict.fromkeys(FILES, b"x") | {MANIFEST: b'{"a": 1}', WEIGHTS: b"w" * 100_000}
    store_release(front.home.releases, 7, contents)
    with front.web() as web:
        point_to(front.home.releases, 0)
        wait_for(lambda: web.get("/v1/releases").json() == {"version": 0}, "the older one")
        assert web.get("/v1/releases/7/manifest.json").status_code == 404, "not given to devices yet"
        point_to(front.home.releases, 7)
        assert web.get("/v1/releases", params={"after": 6, "wait": 30}).json() == {"version": 7}
        assert web.get("/v1/releases", params={"after": 7}).status_code == 204
        for name, data in contents.items():
            assert web.get(f"/v1/releases/7/{name}").content == data


def test_a_version_in_stages_is_for_some_devices_only(front: Front) -> None:
    early = next(f"{n:032x}" for n in range(10_000) if in_stage(f"{n:032x}", 9, 1.0))
    late = next(f"{n:032x}" for n in range(10_000) if not in_stage(f"{n:032x}", 9, 50.0))
    store_release(front.home.releases, 7, dict.fromkeys(FILES, b"x"))
    store_release(front.home.releases, 9, dict.fromkeys(FILES, b"y"))
    give(front.home.releases, [(9, 1.0), (7, 100.0)])
    with front.web() as web:

        def offered(**who: str) -> int:
            return int(web.get("/v1/releases", params=who).json()["version"])

        wait_for(lambda: offered(device=early) == 9, "the new version")
        assert offered(device=late) == offered() == offered(device="nonsense") == 7
        assert web.get("/v1/releases/9/manifest.json").content == b"y"
        give(front.home.releases, [(9, 100.0), (7, 100.0)])
        wait_for(lambda: offered(device=late) == 9, "the new version for all")


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"after": "x"}, 400),
        ({"wait": "soon"}, 400),
        ({"after": "9" * 5000}, 400),
        ({"after": "-5", "wait": "-5"}, 200),
        ({"after": "99999", "wait": "nan"}, 204),
        ({"after": "-1", "wait": "inf"}, 200),
        ({"device": "x" * 5000}, 200),
        ({"device": "\udcff\x00".encode("utf-8", "surrogateescape").decode("latin-1")}, 200),
    ],
)
def test_questions_that_make_no_sense(front: Front, parameters: dict[str, str], status: int) -> None:
    point_to(front.home.releases, 7)
    with front.web() as web:
        assert web.get("/v1/releases", params=parameters).status_code == status


def test_a_waiting_device_hears_of_a_release_at_once(front: Front) -> None:
    point_to(front.home.releases, 7)
    heard: list[int] = []

    def listen() -> None:
        with front.web() as web:
            heard.append(web.get("/v1/releases", params={"after": 7, "wait": 30}).json()["version"])

    with front.web() as web:
        wait_for(lambda: web.get("/v1/releases").json() == {"version": 7}, "the older one")
    waiting = threading.Thread(target=listen)
    waiting.start()
    store_release(front.home.releases, 8, dict.fromkeys(FILES, b"x"))
    point_to(front.home.releases, 8)
    waiting.join(timeout=60)
    assert heard == [8]


@given(device=st.text("0123456789abcdef", min_size=32, max_size=32), version=st.integers(0, 2**53))
def test_a_higher_percentage_only_adds_devices(device: str, version: int) -> None:
    asked = [in_stage(device, version, percent) for percent in (0.0, 0.1, 1.0, 10.0, 50.0, 99.9, 100.0)]
    assert asked == sorted(asked)
    assert (asked[0], asked[-1]) == (False, True)


def test_a_percentage_is_one() -> None:
    chosen = sum(in_stage(f"{number:032x}", 3, 10.0) for number in range(20_000))
    assert 1800 < chosen < 2200
    both = sum(in_stage(f"{n:032x}", 3, 10.0) and in_stage(f"{n:032x}", 4, 10.0) for n in range(20_000))
    assert 120 < both < 290, "others are first with another version"


def test_the_place_of_a_device_is_as_written_down() -> None:
    """Frozen: other implementations compute the same."""
    assert not in_stage("00" * 16, 1, 79.3)
    assert in_stage("00" * 16, 1, 79.4)


def test_the_pointer_ends_with_what_all_devices_are_given(tmp_path: Path) -> None:
    assert stages(tmp_path) == []
    assert version_for(None, stages(tmp_path)) is None
    assert largest_weights(tmp_path) == 0
    give(tmp_path, [(5, 100.0), (7, 1.0), (6, 10.0), (4, 100.0)])
    assert stages(tmp_path) == [(7, 1.0), (6, 10.0), (5, 100.0)]
    assert version_for(None, stages(tmp_path)) == 5
    give(tmp_path, [(0, 1.0)])
    assert version_for(None, stages(tmp_path)) is None
    assert version_for(None, stages(tmp_path)) is None
    for damaged in (b"", b"7\n", b"[[7]]", b'[["a", 1]]', b"{}"):
        (tmp_path / "current").write_bytes(damaged)
        assert stages(tmp_path) == []


def test_the_newest_weights_on_disk_count_even_before_they_are_given(tmp_path: Path) -> None:
    store_release(tmp_path, 1, dict.fromkeys(FILES, b"x") | {WEIGHTS: bytes(100)})
    point_to(tmp_path, 1)
    store_release(tmp_path, 2, dict.fromkeys(FILES, b"x") | {WEIGHTS: bytes(200)})
    assert largest_weights(tmp_path) == 200


def test_no_secret_is_in_an_argument_or_the_environment(front: Front) -> None:
    process = psutil.Process(front.process.pid)
    shown = " ".join([*process.cmdline(), *process.environ().values()])
    assert front.process.secret.hex() not in shown
    assert PASSPHRASE.decode() not in shown
    assert front.home.root.name in shown


def test_the_front_is_not_given_what_opens_the_other_keys(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process in its place, which writes down what it is given."""
    note = front.home.root / "given"
    taker = front.home.root / "taker"
    taker.write_text(f"#!/bin/sh\nread -r line; printf %s \"$line\" > '{note}'\n")
    taker.chmod(0o700)
    password = password_of(front)
    assert password is not None
    monkeypatch.setattr("sys.executable", str(taker))
    with pytest.raises(CoordinatorError, match="FA-5008"):
        FrontProcess(front.home, front.settings, password)
    given = json.loads(note.read_text())["password"].encode()
    assert password.decode() not in note.read_text()
    assert load_key_file(front.home.keys / "tls.key", given, EllipticCurvePrivateKey)
    assert load_key_file(front.home.keys / "device-ca.key", given, Ed25519PrivateKey)
    for name in ("root", "plan", "release"):
        with pytest.raises(ConfigError, match="FA-6006"):
            load_key_file(front.home.keys / f"{name}.key", given, Ed25519PrivateKey)
        with pytest.raises(ConfigError, match="FA-6006"):
            KeyFolder(front.home.keys, given).load(name, Ed25519PrivateKey)


def test_only_one_port_is_open(front: Front) -> None:
    process = psutil.Process(front.process.pid)
    listening = {link.laddr for link in process.net_connections("inet") if link.status == "LISTEN"}
    assert {(address.ip, address.port) for address in listening} == {("127.0.0.1", front.process.port)}


def test_the_front_may_have_thousands_of_connections(front: Front) -> None:
    most, _ = psutil.Process(front.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    if os.uname().sysname == "Linux":
        assert most >= PER_ADDRESS


def test_an_address_that_is_not_ours_is_explained(front: Front, capfd: pytest.CaptureFixture[str]) -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    settings = front.settings.model_copy(update={"host": "192.0.2.1"})
    with pytest.raises(CoordinatorError, match="FA-5013"):
        FrontProcess(front.home, settings, password_of(front))
    assert "Traceback" not in capfd.readouterr().err


def password_of(front: Front) -> bytes | None:
    return KeyFolder.unlock(front.home.keys, PASSPHRASE).password


def test_a_port_in_use_is_explained(front: Front) -> None:
    settings = front.settings.model_copy(update={"port": front.process.port})
    with pytest.raises(CoordinatorError, match="FA-5002"):
        FrontProcess(front.home, settings, password_of(front))


def test_insecure_is_for_this_machine_only(front: Front) -> None:
    settings = front.settings.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(CoordinatorError, match="FA-5090"):
        FrontProcess(front.home, settings, password_of(front), insecure=True)


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1",
        "localhost",
        "::",
        "",
        "example.org",
        "127.0.0.1.example.org",
        "127.0.0.2",
        "::1%lo",
        "::ffff:127.0.0.1",
        "0:0:0:0:0:0:0:1",
    ],
)
def test_this_machine_is_one_by_address(host: str) -> None:
    with pytest.raises(CoordinatorError, match="FA-5090"):
        require_loopback(host)
    require_loopback("127.0.0.1")
    require_loopback("::1")


@pytest.mark.parametrize(
    ("password", "code"), [(None, "FA-6006"), (b"00" * 32, "FA-6006")], ids=["none", "wrong"]
)
def test_keys_that_cannot_be_opened_are_explained(front: Front, password: bytes | None, code: str) -> None:
    with pytest.raises(CoordinatorError, match=code):
        FrontProcess(front.home, front.settings, password)


def test_a_certificate_for_another_key_is_explained(tmp_path: Path) -> None:
    with running_front(tmp_path / "ours") as front:
        root, root_key = make_root()
        other, _ = issue_tls(root, root_key, ["127.0.0.1"])
        front.home.certificate.write_bytes(other.public_bytes(Encoding.PEM))
        with pytest.raises(CoordinatorError, match="FA-5091"):
            FrontProcess(front.home, front.settings)
        front.home.certificate.unlink()
        with pytest.raises(CoordinatorError, match="FA-5091"):
            FrontProcess(front.home, front.settings)


def test_a_deep_temporary_folder_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    folder = private_folder()
    assert len(str(folder)) < 90
    folder.rmdir()
    assert not any(deep.iterdir())


def test_an_end_while_a_device_waits_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answers: list[int] = []
    with running_front(tmp_path / "ending") as front:
        url, trust = f"{front.base_url}/v1/releases?wait=30", front.trust()

        def wait() -> None:
            answers.append(httpx.get(url, verify=trust, trust_env=False, timeout=60).status_code)

        waiting = threading.Thread(target=wait)
        waiting.start()
        process = psutil.Process(front.process.pid)
        wait_for(lambda: any(link.status == "ESTABLISHED" for link in process.net_connections()), "a device")
        with front.web() as web:
            assert web.get("/health").is_success
    waiting.join(timeout=30)
    assert answers == [204]
    assert capfd.readouterr().err == ""


def test_a_front_ends_with_its_coordinator(tmp_path: Path) -> None:
    with running_front(tmp_path / "orphan") as front:
        process = psutil.Process(front.process.pid)
        front.process._stdin.close()
        process.wait(timeout=60)


def test_a_bucket_fills_again() -> None:
    bucket = Bucket(3, 1000)
    assert bucket.level() == 3
    assert [bucket.take() for _ in range(3)] == [True] * 3
    wait_for(lambda: bucket.level() == 3, "the bucket")
    slow = Bucket(2, 0.001)
    assert [slow.take() for _ in range(4)] == [True, True, False, False]


def test_addresses_that_are_one_are_counted_as_one() -> None:
    assert neighbourhood("192.0.2.7") == "192.0.2.7"
    assert neighbourhood("::ffff:192.0.2.7") == "192.0.2.7"
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:1") == "2001:db8::/64"
    assert neighbourhood("fe80::1%eth0") == "fe80::/64"
    assert neighbourhood("") == ""


def test_failures_are_counted_by_address_and_not_for_ever() -> None:
    failures = Failures(most=3, addresses=10)
    for _ in range(3):
        failures.check("192.0.2.1")
        failures.note("192.0.2.1")
    with pytest.raises(RefusedError, match="FA-5092"):
        failures.check("192.0.2.1")
    failures.check("192.0.2.2")
    for number in range(100):
        failures.note(f"198.51.100.{number}")
    failures.check("192.0.2.1")
    assert len(failures._buckets._buckets) == 10


def test_a_device_whose_clock_is_wrong_can_learn_the_time(front: Front) -> None:
    device = front.enrol("wrong-clock")
    wrong = timedelta(minutes=14)
    ours = datetime.now(UTC) + wrong
    with front.web() as web:
        theirs = datetime.fromtimestamp(web.get("/health").json()["time"], UTC)
    offset = theirs - ours
    request = device.signed(datetime.now(UTC) + wrong + offset)
    assert device.web.post("/v1/fleet/pull-messages", content=b"", headers=request).status_code != 403
    assert device.activate().is_success


def test_there_is_no_coordinator_without_a_home(tmp_path: Path, front: Front) -> None:
    with pytest.raises(CoordinatorError, match="FA-6005"):
        FrontProcess(CoordinatorHome(tmp_path / "nowhere"), front.settings)
