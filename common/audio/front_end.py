"""What turns sound into features, as values; `batch.py` (torch) and `stream.py` (numpy) make the numbers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.files import sha256
from common.settings import Settings

SAMPLE_RATE = 16_000
"""Every sound is brought to this rate (Hz), one channel, before anything else."""

LOUDEST = 1e6
"""Largest sample believed. A float file may exceed full scale (1), but not by 120 dB."""


class _Frames(Settings):
    window: int = Field(400, ge=64, le=4096, description="samples in a frame (25 ms)")
    hop: int = Field(160, ge=16, le=4096, description="samples from one frame to the next (10 ms)")

    def frames(self, samples: int) -> int:
        """Number of whole frames in `samples`: frame i covers samples [i*hop, i*hop + window)."""
        return 0 if samples < self.window else 1 + (samples - self.window) // self.hop

    @property
    def hop_seconds(self) -> float:
        return self.hop / SAMPLE_RATE

    @property
    def digest(self) -> str:
        """Names this front end exactly; features made by another one must not be mixed with it."""
        return sha256(self.model_dump_json().encode())


class _Mel(_Frames):
    bands: int = Field(40, ge=8, le=128)
    low_hz: float = Field(60.0, ge=0)
    high_hz: float = Field(7600.0, le=SAMPLE_RATE / 2)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.low_hz >= self.high_hz:
            raise ValueError("low_hz must be below high_hz")
        return self


class LogMel(_Mel):
    """Mel power bands, compressed by per-channel energy normalisation (PCEN)."""

    kind: Literal["log-mel"] = "log-mel"

    @property
    def features(self) -> int:
        return self.bands


class Mfcc(_Mel):
    """Cosine transform of log mel bands from which a causal running mean is taken."""

    kind: Literal["mfcc"] = "mfcc"
    coefficients: int = Field(20, ge=4, le=64)

    @model_validator(mode="after")
    def _fewer_than_bands(self) -> Self:
        if self.coefficients > self.bands:
            raise ValueError("there cannot be more coefficients than bands")
        return self

    @property
    def features(self) -> int:
        return self.coefficients


class Psd(_Frames):
    """Power spectral density in decibels, less a causal running mean."""

    kind: Literal["psd"] = "psd"

    @property
    def bands(self) -> int:
        return self.window // 2 + 1

    @property
    def features(self) -> int:
        return self.bands


FrontEnd = Annotated[LogMel | Mfcc | Psd, Field(discriminator="kind")]
