"""server.toml as a value."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.protocol.plan import Privacy, Recipe
from common.settings import Settings
from common.task import Task
from fl_server.server_optimizer import OptimizerConfig


class RoundSettings(Settings):
    """How a round is held."""

    min_devices: int = Field(2, ge=1, description="a round starts when so many are online")
    cohort: int | None = Field(None, ge=1, description="devices drawn for a round; all if unset")
    min_answers: int = Field(1, ge=1, description="valid updates without which a round is void")
    wait_seconds: float = Field(120, gt=0, description="how long to wait for min_devices")
    answer_seconds: float = Field(600, gt=0, description="how long devices have to answer")
    evaluate: bool = Field(
        True, description="let devices evaluate each candidate on held-out clips; never under privacy"
    )
    holdout: float = Field(0.1, ge=0, le=0.5, description="share of a device's clips kept for that")
    weighting: Literal["uniform", "clips"] = Field(
        "uniform",
        description="uniform: no device gains weight by claiming clips",
    )
    max_clips: int = Field(10_000, ge=1, le=100_000, description="largest count a device may claim")
    max_update_norm: float = Field(
        100.0, gt=0, le=1000, description="an update with a larger L2 norm is refused"
    )


class ServerSettings(Settings):
    """All there is to configure at a coordinator."""

    host: str = "127.0.0.1"
    port: int = Field(8650, ge=0, le=65_535)
    task: Task
    rounds: RoundSettings = RoundSettings()
    recipe: Recipe = Recipe()
    privacy: Privacy | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    validation: Path | None = Field(None, description="folder of the coordinator's own labelled clips")
    seed: int = Field(0, ge=0)

    @property
    def devices_evaluate(self) -> bool:
        """Whether devices are asked how a candidate does on their clips: exact counts are not private."""
        return self.rounds.evaluate and self.privacy is None
