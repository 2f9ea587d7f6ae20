"""What a device refuses, and how little it says when it does."""

from __future__ import annotations

import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DeviceError
from common.files import sha256
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.answer import Refusal, decode_answer
from common.protocol.plan import Plan
from common.protocol.tensors import encode_weights
from fl_client.consent import WINDOW_LIMIT, check_plan
from fl_client.home import DeviceHome
from fl_client.orders import answer_order
from fl_client.settings import DeviceSettings
from tests.processes import SMALL

FACTS = {"run": "r", "round": 1, "task": SMALL["task"], "base": "0" * 64}


def plan(**changes: object) -> Plan:
    return Plan.model_validate(FACTS | changes)


def private(noise: float) -> Plan:
    return plan(privacy={"noise_multiplier": noise})


def device_with(**changes: object) -> DeviceSettings:
    return DeviceSettings.model_validate({"name": "kitchen", "server": "127.0.0.1:1"} | changes)


def willing(plan: Plan, settings: DeviceSettings) -> bool:
    try:
        check_plan(plan, settings)
    except DeviceError as error:
        return error.code != "FA-4006"
    return True


def test_who_does_not_insist_does_what_is_asked() -> None:
    for order in (plan(), plan(kind="evaluate"), private(0.01)):
        assert willing(order, device_with())


@pytest.mark.parametrize("insisting", [{"require_privacy": True}, {"least_noise": 0.5}])
def test_who_insists_trains_with_privacy_only_and_never_counts(insisting: dict[str, object]) -> None:
    settings = device_with(**insisting)
    assert willing(private(0.5), settings)
    assert not willing(plan(), settings)
    assert not willing(plan(kind="evaluate"), settings)
    assert not willing(plan(kind="evaluate", privacy={"noise_multiplier": 0.5}), settings)


@given(st.floats(0.01, 1000), st.floats(0.01, 1000))
def test_less_noise_than_the_least_is_refused(noise: float, least: float) -> None:
    assert willing(private(noise), device_with(least_noise=least)) == (noise >= least)


@given(
    st.floats(0.3, 30),
    st.integers(400, 4096),
    st.integers(16, 4096),
    st.sampled_from(["log-mel", "psd"]),
)
def test_no_window_is_larger_than_the_limit(seconds: float, window: int, hop: int, kind: str) -> None:
    front_end = {"kind": kind, "window": window, "hop": hop}
    order = plan(task=SMALL["task"] | {"clip_seconds": seconds, "front_end": front_end})
    size = order.task.clip_frames * order.task.front_end.bands
    if size <= WINDOW_LIMIT:
        assert willing(order, device_with())
    else:
        with pytest.raises(DeviceError, match="FA-4007"):
            check_plan(order, device_with())


class TestRefusals:
    """The bytes that leave the device."""

    def refusal(self, home: DeviceHome, **changes: object) -> Refusal:
        weights = encode_weights({})
        data = plan(base=sha256(weights), **changes).model_dump_json().encode()
        answer = decode_answer(answer_order(data, weights, home, device_with(require_privacy=True)), {})
        assert isinstance(answer, Refusal)
        return answer

    def test_an_order_without_privacy_is_refused(self, device: DeviceHome) -> None:
        assert self.refusal(device).code == "FA-4006"

    def test_nothing_is_computed_for_it(self, device: DeviceHome) -> None:
        self.refusal(device)
        assert not device.cache.exists()


ORDER_CODES = {"damaged": "FA-2007", "none": "FA-2002", "disk": "FA-8001"}


@pytest.mark.parametrize("fault", ORDER_CODES)
def test_no_file_and_no_speaker_is_named_to_the_coordinator(
    device: DeviceHome, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    for file in device.clips.glob("*/*.flac"):
        file.unlink()
    if fault == "damaged":
        (device.clips / "high" / "Alice_0123.flac").write_bytes(b"not a sound")
    if fault == "disk":
        soundfile.write(device.clips / "high" / "Alice_0123.flac", [0.1, -0.1] * 2000, 16_000)
        device.cache.write_text("a file in the place of the folder")
    weights = encode_weights(get_weights(build_model(plan().task, torch.Generator())))
    data = plan(base=sha256(weights)).model_dump_json().encode()
    answer = answer_order(data, weights, device, device_with())
    refusal = decode_answer(answer, {})
    assert isinstance(refusal, Refusal)
    assert refusal.code == ORDER_CODES[fault]
    assert refusal.reason
    for secret in ("Alice", str(device.root), "/"):
        assert secret not in refusal.reason
    # Its owner is told everything.
    assert str(device.root) in caplog.text
    assert ("Alice" in caplog.text) == (fault == "damaged")
