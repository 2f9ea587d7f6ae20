"""What a device does not do, whoever asks."""

from __future__ import annotations

from common.errors import DeviceError
from common.protocol.plan import Plan
from fl_client.settings import DeviceSettings

WINDOW_LIMIT = 2_000_000
"""Band energies of one window, four bytes each; a second of speech has four thousand."""


def check_plan(plan: Plan, settings: DeviceSettings) -> None:
    """Return if the device is willing to do what `plan` asks.

    Raises:
        DeviceError: FA-4006 it gives less privacy than the device insists on, FA-4007 its windows are absurd.
    """
    size = plan.task.clip_frames * plan.task.front_end.bands
    if size > WINDOW_LIMIT:
        raise DeviceError(
            "FA-4007",
            f"The plan's windows have {size} values, and a device accepts {WINDOW_LIMIT}.",
            "Shorten task.clip_seconds, or choose a longer hop or fewer bands.",
        )
    if not settings.require_privacy and settings.least_noise is None:
        return
    if plan.kind == "evaluate":
        raise DeviceError(
            "FA-4006", "The device insists on privacy, and an evaluation is exact.", _INSIST_LESS
        )
    if plan.privacy is None:
        raise DeviceError("FA-4006", "The device insists on privacy, and the plan has none.", _INSIST_LESS)
    least = settings.least_noise or 0.0
    if plan.privacy.noise_multiplier < least:
        raise DeviceError(
            "FA-4006",
            f"The device insists on a noise multiplier of {least:g} or more, "
            f"and the plan's is {plan.privacy.noise_multiplier:g}.",
            _INSIST_LESS,
        )


_INSIST_LESS = "Set [privacy] in server.toml as the device asks, or change device.toml."
