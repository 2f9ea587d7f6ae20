"""The order for one round, and what it asks a device to do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from common.errors import ProtocolError
from common.settings import Settings, first_fault
from common.task import Task


class Augmentation(Settings):
    """Random changes to a clip, drawn anew each time it is used. Zero switches one off."""

    shift_seconds: float = Field(0.1, ge=0, le=1, description="largest shift in time, either way")
    gain_db: float = Field(6.0, ge=0, le=40, description="largest change of level, either way")
    noise_probability: float = Field(0.5, ge=0, le=1)
    noise_snr_db: tuple[float, float] = Field((5.0, 25.0), description="range the SNR is drawn from")
    time_masks: int = Field(1, ge=0, le=10, description="SpecAugment (Park et al. 2019)")
    time_mask_seconds: float = Field(0.15, ge=0, le=5)
    band_masks: int = Field(1, ge=0, le=10)
    band_mask_bands: int = Field(6, ge=0, le=64)


class Recipe(Settings):
    """How a device trains. The defaults suit keyword models of about 100k parameters."""

    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(2e-3, gt=0, le=10)
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.01, ge=0, le=1)
    batch_size: int = Field(16, ge=1, le=4096)
    epochs: int = Field(2, ge=1, le=1000, description="passes over the clips, unless `steps` is given")
    steps: int | None = Field(None, ge=0, le=100_000, description="optimiser steps instead of epochs")
    proximal: float = Field(0.0, ge=0, le=100, description="FedProx mu (Li et al. 2020)")
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    gradient_clip: float | None = Field(5.0, gt=0, description="largest gradient norm")
    l1: float = Field(0.0, ge=0, le=1, description="L1 penalty on the weights")
    augmentation: Augmentation = Augmentation()


class Privacy(Settings):
    """Example-level differential privacy on the device (DP-SGD, Abadi et al. 2016)."""

    noise_multiplier: float = Field(1.0, gt=0, le=1000)
    clipping_norm: float = Field(1.0, gt=0, le=1000, description="largest gradient norm of one clip")
    delta: float = Field(1e-5, gt=0, lt=0.1)


class Plan(Settings):
    """One order to the devices of a cohort. `base` is the digest of the weights sent along."""

    run: str = Field(min_length=1, max_length=64)
    round: int = Field(ge=0)
    kind: Literal["train", "evaluate"] = "train"
    task: Task
    recipe: Recipe = Recipe()
    privacy: Privacy | None = None
    base: str = Field(min_length=64, max_length=64)
    holdout: float = Field(0.1, ge=0, le=0.5, description="share of a device's clips kept for evaluation")
    seed: int = Field(0, ge=0, description="of augmentation and batch order; never of privacy noise")
    seconds: float = Field(600.0, gt=0, le=86_400, description="time the devices have to answer")


def parse_plan(data: bytes) -> Plan:
    """Read and check a plan.

    Raises:
        ProtocolError: FA-3005.
    """
    try:
        return Plan.model_validate_json(data)
    except ValidationError as error:
        raise ProtocolError(
            "FA-3005", f"The plan is malformed: {first_fault(error)}.", "Update the device."
        ) from error
