"""The order for one round, and what it asks a device to do."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, model_validator

from common.errors import ProtocolError
from common.protocol.algorithms import AlgorithmName, Trained
from common.protocol.unit import Unit
from common.security.canonical import canonical, read_canonical
from common.security.statement import open_statement, sign_statement
from common.settings import Settings
from common.task import Task

Decibels = Annotated[float, Field(ge=-200, le=200)]


class Augmentation(Settings):
    """Random changes to a clip, drawn anew each time it is used. Zero switches one off."""

    shift_seconds: float = Field(0.1, ge=0, le=1, description="largest shift in time, either way")
    gain_db: float = Field(6.0, ge=0, le=40, description="largest change of level, either way")
    noise_probability: float = Field(0.5, ge=0, le=1)
    noise_snr_db: tuple[Decibels, Decibels] = Field((5.0, 25.0), description="range the SNR is drawn from")
    time_masks: int = Field(1, ge=0, le=10, description="SpecAugment (Park et al. 2019)")
    time_mask_seconds: float = Field(0.15, ge=0, le=5)
    band_masks: int = Field(1, ge=0, le=10)
    band_mask_bands: int = Field(6, ge=0, le=64)

    @property
    def is_off(self) -> bool:
        """Whether nothing is ever changed."""
        masks = min(self.time_masks, self.time_mask_seconds) or min(self.band_masks, self.band_mask_bands)
        return not (self.shift_seconds or self.gain_db or self.noise_probability or masks)


STILL = Augmentation(shift_seconds=0.0, gain_db=0.0, noise_probability=0.0, time_masks=0, band_masks=0)
"""Nothing is ever changed."""


class Recipe(Settings):
    """How a device trains. The defaults suit keyword models of about 100k parameters."""

    algorithm: AlgorithmName = Field("fedavg", description="see `common.algorithms`")
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(2e-3, gt=0, le=10)
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.01, ge=0, le=1)
    trained: Trained = Field(
        "all", description="head: only the last layer; the rest stays as it is, and costs no privacy"
    )
    batch_size: int = Field(16, ge=1, le=4096)
    epochs: int = Field(2, ge=1, le=1000, description="passes over the clips, unless `steps` is given")
    steps: int | None = Field(None, ge=0, le=100_000, description="optimiser steps instead of epochs")
    proximal: float = Field(0.01, ge=0, le=100, description="mu of fedprox (Li et al. 2020)")
    head_epochs: int = Field(
        1,
        ge=1,
        le=1000,
        description="of fedrep: passes that train the head alone, before `epochs` that train the rest; "
        "`steps` are shared out in the same proportion",
    )
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    gradient_clip: float = Field(5.0, ge=0, le=1e9, description="largest gradient norm; 0: any")
    l1: float = Field(0.0, ge=0, le=1, description="L1 penalty on the weights")
    negatives: int = Field(
        0,
        ge=0,
        le=8,
        description="windows without a word that are made of each clip each time it is used, where the task "
        "has a label for them",
    )
    augmentation: Augmentation = Augmentation()

    @property
    def passes(self) -> int:
        """Passes over the clips in all, unless `steps` is given."""
        return self.epochs + (self.head_epochs if self.algorithm == "fedrep" else 0)

    @model_validator(mode="after")
    def _suits_its_algorithm(self) -> Self:
        if self.algorithm == "scaffold" and (self.optimizer != "sgd" or self.momentum or self.gradient_clip):
            raise ValueError("scaffold needs optimizer = 'sgd', momentum = 0 and gradient_clip = 0")
        if self.algorithm == "fedrep" and self.steps is not None and self.steps < 2:
            raise ValueError("fedrep needs 2 steps or more: the head has some and the body has some")
        if self.trained == "head" and self.algorithm not in {"fedavg", "fedprox"}:
            raise ValueError(f"{self.algorithm} needs trained = 'all'")
        return self


Clipping = Literal["flat", "per-layer", "adaptive"]
EngineName = Literal["fused", "functorch", "opacus"]


class Privacy(Settings):
    """Differential privacy on the device (DP-SGD, Abadi et al. 2016)."""

    noise_multiplier: float = Field(
        2.86, gt=0, le=1000, description="2.86: an epsilon of 8 in 20 rounds of `PRIVATE_RECIPE`"
    )
    clipping_norm: float = Field(1.0, gt=0, le=1000, description="largest gradient norm of one unit")
    delta: float = Field(1e-5, gt=0, lt=0.1)
    unit: Unit = Field("clip", description="what one epsilon protects")
    units: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="how many a device is taken to have, so that nothing tells how many (but none) it has; "
        "0: as many as it has, which its report then tells",
    )
    clipping: Clipping = Field("flat", description="see `common.privacy.clipping`")
    quantile: float = Field(0.5, gt=0, lt=1, description="of adaptive: share of units below the norm")
    views: int = Field(1, ge=1, le=64, description="augmented views of a clip whose gradients are averaged")
    average: float = Field(0.0, ge=0, lt=1, description="decay of the weights' moving average; 0: none")
    engine: EngineName = Field("fused", description="see `common.privacy.engines.registry`")

    @model_validator(mode="after")
    def _says_how_many_there_are(self) -> Self:
        # The default is a number of clips; a device has far fewer speakers, and a step divides by this.
        if self.unit != "clip" and "units" not in self.model_fields_set:
            raise ValueError(f"unit = '{self.unit}' needs units: how many a device is taken to have")
        return self


PRIVATE_RECIPE = Recipe(
    trained="head",
    optimizer="sgd",
    learning_rate=1.4,
    momentum=0.0,
    weight_decay=0.0,
    batch_size=4096,
    steps=1,
    label_smoothing=0.0,
    augmentation=STILL,
)
"""How a device trains by default where there is privacy: what learned most under noise
(`benchmarks/RESULTS.md`).

Noise falls on every parameter that is trained, so only the head is, on a body that has learned from other
sounds. A round is one step over all clips: as many signals as there can be for the noise of one step. The
step divides by `Privacy.units`, not by the clips there are: a device with more of them takes a longer step,
as its signal stands out more.
"""


class Plan(Settings):
    """One order to the devices of a cohort.

    Args:
        coordinator: fingerprint of the root it is signed under.
        run, round, kind: in a run, a device takes (round, train) before (round, evaluate), and that before a
            higher round.
        nonce: random, so that no two plans are the same bytes.
        expires: seconds since 1970 after which it is void.
        cohort: devices that are asked.
        recipient: id of the envelope key that answers are sealed to.
        base: digest of the weights sent along.
    """

    coordinator: str = Field(pattern=r"^[0-9a-f]{64}$")
    run: str = Field(pattern=r"^[0-9a-f]{16}$")
    round: int = Field(ge=0, lt=2**32)
    kind: Literal["train", "evaluate"] = "train"
    nonce: str = Field(pattern=r"^[0-9a-f]{64}$", default_factory=lambda: secrets.token_hex(32))
    expires: int = Field(ge=0, lt=2**53)
    cohort: int = Field(ge=1, lt=2**32)
    recipient: str = Field(pattern=r"^[0-9a-f]{16}$")
    task: Task
    recipe: Recipe = Recipe()
    privacy: Privacy | None = None
    base: str = Field(pattern=r"^[0-9a-f]{64}$")
    holdout: float = Field(0.1, ge=0, le=0.5, description="share of a device's clips kept for evaluation")
    seed: int = Field(0, ge=0, le=2**53, description="of augmentation and batches; never of privacy noise")
    seconds: float = Field(600.0, gt=0, le=86_400, description="time the devices have to answer")

    @model_validator(mode="after")
    def _algorithm_takes_average(self) -> Self:
        # Its control variates are the sum of a training's steps, which an average of the weights is not.
        if self.recipe.algorithm == "scaffold" and self.privacy is not None and self.privacy.average:
            raise ValueError("scaffold needs privacy.average = 0")
        return self


def sign_plan(plan: Plan, key: Ed25519PrivateKey) -> bytes:
    """The bytes that devices are sent; an answer is bound to their SHA-256."""
    return sign_statement("plan", canonical(plan), key)


def open_plan(data: bytes, signers: Iterable[bytes]) -> Plan:
    """Check who signed a plan, and read it.

    Args:
        signers: raw Ed25519 keys that may sign plans.

    Raises:
        ProtocolError: FA-3005 malformed, FA-3016..FA-3018 its signature.
    """
    if len(data) > LARGEST_PLAN:
        raise _malformed("it is too long")
    return parse_plan(open_statement("plan", data, signers))


def parse_plan(body: bytes) -> Plan:
    """Read the body of a plan whose signature has been checked elsewhere.

    Raises:
        ProtocolError: FA-3005.
    """
    plan = read_canonical(Plan, body)
    if isinstance(plan, str):
        raise _malformed(plan)
    return plan


LARGEST_PLAN = 1 << 20


def _malformed(why: str) -> ProtocolError:
    return ProtocolError("FA-3005", f"The plan is malformed: {why}.", "Update the device.")
