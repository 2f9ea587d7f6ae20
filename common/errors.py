"""Errors a person can act on: a code, what happened, what to do.

Every code has a page in docs/errors/. The command line prints the two sentences and exits with `status`.
"""

from __future__ import annotations


class FedAudioError(Exception):
    """Something a person can cause and mend.

    Args:
        code: stable identifier, "FA-" and four digits; the first digit is the area.
        happened: one sentence.
        remedy: one sentence.
    """

    status = 1

    def __init__(self, code: str, happened: str, remedy: str) -> None:
        super().__init__(f"{code}: {happened} {remedy}")
        self.code = code
        self.happened = happened
        self.remedy = remedy


class AudioError(FedAudioError):
    """FA-1xxx: a sound file or a sound source."""

    status = 3


class DataError(FedAudioError):
    """FA-2xxx: a collection of clips."""

    status = 3


class ProtocolError(FedAudioError):
    """FA-3xxx: a message or a release that is not what it must be."""

    status = 4


class DeviceError(FedAudioError):
    """FA-4xxx: the device."""

    status = 5


class CoordinatorError(FedAudioError):
    """FA-5xxx: the coordinator."""

    status = 6


class ConfigError(FedAudioError):
    """FA-6xxx: configuration and command line."""

    status = 2


class TrainingError(FedAudioError):
    """FA-7xxx: models, training and privacy."""

    status = 7


class SimulationError(FedAudioError):
    """FA-9xxx: simulations."""

    status = 9
