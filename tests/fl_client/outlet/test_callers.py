"""Who may call: the device's own programs, and nobody a web page or another machine sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import DeviceError
from fl_client.callers import Callers
from fl_client.secret_file import read_secret
from tests.processes import free_port

TOKEN = "w-TOKEN_x"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "outlet.token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def status(callers: Callers, *headers: tuple[str, str], host: str = "localhost:8660") -> int | None:
    objection = callers.objection([("host", host), *headers], None)
    return objection and objection.status


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8660", "127.0.0.1:1", "[::1]:8660", "kitchen.lan:8660"]
)
def test_own_names(tmp_path: Path, host: str) -> None:
    assert status(Callers("127.0.0.1", tmp_path / "none", ("kitchen.lan",)), host=host) is None


STRANGE = [
    "",
    "evil.com",
    "localhost.evil.com:8660",
    "127.0.0.1.evil.com",
    "::1",
    "localhost:1:1",
    "a@localhost",
]


@pytest.mark.parametrize("host", STRANGE)
def test_a_name_of_somebody_elses_choosing(tmp_path: Path, host: str) -> None:
    assert status(Callers("127.0.0.1", tmp_path / "none"), host=host) == 403


@pytest.mark.parametrize(
    ("host", "address", "fits"),
    [
        ("192.0.2.7:8660", "192.0.2.7", True),
        ("[2001:db8::7]:8660", "2001:db8::7", True),
        ("192.0.2.8:8660", "192.0.2.7", False),
        ("192.0.2.7.evil.com:8660", "192.0.2.7", False),
        ("evil.com:8660", "192.0.2.7", False),
        ("", "192.0.2.7", False),
        ("192.0.2.7:8660", None, False),
    ],
)
def test_the_connections_own_address_is_no_name(
    token: Path, host: str, address: str | None, fits: bool
) -> None:
    headers = [("host", host), ("authorization", f"Bearer {TOKEN}")]
    assert (Callers("0.0.0.0", token).objection(headers, address) is None) == fits


def test_no_host_and_two_hosts(tmp_path: Path) -> None:
    callers = Callers("127.0.0.1", tmp_path / "none")
    for headers in ([], [("host", "localhost"), ("host", "evil.com")]):
        objection = callers.objection(headers, None)
        assert objection is not None
        assert objection.status == 403


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("origin", "http://localhost:8660", None),
        ("origin", "https://localhost:8660", None),
        ("origin", "http://localhost:3000", 403),
        ("origin", "https://evil.com", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "same-origin", None),
        ("sec-fetch-site", "none", None),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "cross-site", 403),
    ],
)
def test_web_pages(tmp_path: Path, name: str, value: str, expected: int | None) -> None:
    assert status(Callers("127.0.0.1", tmp_path / "none"), (name, value)) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("authorization", f"Bearer {TOKEN}")], None),
        ([("authorization", f"bearer  {TOKEN} ")], None),
        ([("sec-websocket-protocol", f"fedaudio, fedaudio.{TOKEN}")], None),
        ([], 401),
        ([("authorization", f"Basic {TOKEN}")], 401),
        ([("authorization", f"Bearer {TOKEN}x")], 401),
        ([("authorization", "Bearer ")], 401),
        ([("authorization", "Bearer \xe9\ud800")], 401),
        ([("sec-websocket-protocol", "fedaudio")], 401),
        ([("sec-websocket-protocol", f"fedaudio, {TOKEN}")], 401),
        ([("sec-websocket-protocol", f"other.{TOKEN}")], 401),
        ([("cookie", TOKEN)], 401),
    ],
)
def test_where_there_is_a_token_it_is_needed_on_loopback_too(
    token: Path, headers: list[tuple[str, str]], expected: int | None
) -> None:
    assert status(Callers("127.0.0.1", token), *headers) == expected


def test_a_new_token_counts_at_once_and_a_lost_one_lets_only_loopback_in(token: Path) -> None:
    near, far = Callers("127.0.0.1", token), Callers("0.0.0.0", token)
    bearer = ("authorization", f"Bearer {TOKEN}")
    assert status(near, bearer) is status(far, bearer) is None
    token.write_text("another")
    assert status(near, bearer) == status(far, bearer) == 401
    token.unlink()
    assert status(near) is None
    assert status(far) == 401
    token.write_text(TOKEN)
    token.chmod(0o640)
    assert status(near, bearer) == status(far, bearer) == 403


def test_where_the_token_lies_is_for_the_log_alone(token: Path, caplog: pytest.LogCaptureFixture) -> None:
    token.chmod(0o644)
    for _ in range(3):
        objection = Callers("127.0.0.1", token).objection([("host", "localhost")], None)
        assert objection is not None
        assert objection.status == 403
        assert str(token) not in objection.reason
    assert caplog.text.count(str(token)) == 1


def test_strangers_need_a_token_before_anything_listens(tmp_path: Path, token: Path) -> None:
    with pytest.raises(DeviceError, match="FA-4230"):
        Callers("0.0.0.0", tmp_path / "none").listen(free_port())
    with Callers("0.0.0.0", token).listen(free_port()) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    callers = Callers("127.0.0.1", tmp_path / "none")
    with callers.listen(0) as listener, pytest.raises(DeviceError, match="FA-4231"):
        callers.listen(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "mode"), [("secret", 0o604), ("secret", 0o620), ("", 0o600), ("\nx", 0o600)]
)
def test_a_secret_that_is_none(tmp_path: Path, text: str, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(DeviceError, match="FA-4232"):
        read_secret(path)
