"""server.toml as a value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from common.protocol.plan import PRIVATE_RECIPE, Privacy, Recipe
from common.settings import Settings
from common.task import Task

BABBLE = "babble"
"""The source of a warm start that is made on the spot: synthetic voices say words without a meaning."""


ARCHITECTURE = "tc-stream"

PRIVATE_ARCHITECTURE = "tc-window"
"""Made for a head that is trained under noise, as `PRIVATE_RECIPE` does."""


class OptimizerConfig(Settings):
    """Which server optimiser, and its numbers. FedAvg with rate 1 takes the mean as it is."""

    kind: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="1 for the averages, 0.01 for the others"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of FedAvgM; beta 1 of the adaptive ones")
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, gt=0, le=1, description="adaptivity of FedAdam and FedYogi")


RuleName = Literal[
    "mean", "median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "centred-clipping", "trust"
]


Mixing = Literal["off", "distance", "direction"]


class Aggregation(Settings):
    """How the updates of a round become one.

    Updates are taken in as they come by the rule "mean" without mixing, and by "mean" with mixing and
    "trimmed-mean" where the share of attackers is less than one device, as among four by default: both are
    then the mean. All else keeps the updates of a round in memory. With norm clipping every rule does so in
    the first round, whose limit follows from the norms of all.
    """

    rule: RuleName = "trimmed-mean"
    norm_clipping: float = Field(
        1.0, ge=0, le=100, description="longest update, in running medians of the updates' norms; 0: any"
    )
    mixing: Mixing = Field(
        "direction",
        description="average each update with its nearest neighbours before the rule; near by what",
    )
    attackers: float = Field(0.2, ge=0, lt=0.5, description="share of attackers that a rule allows for")

    @model_validator(mode="after")
    def _directions_need_a_length(self) -> Self:
        if self.mixing == "direction" and not self.norm_clipping:
            raise ValueError('mixing = "direction" takes long updates for near ones: set norm_clipping too')
        return self


class GateRules(Settings):
    """What a candidate must show to be released; 0 asks nothing. All but the step need `validation`."""

    accuracy_drop: float = Field(0.1, ge=0, le=1, description="largest loss of accuracy to the parent")
    label_drop: float = Field(0.5, ge=0, le=1, description="largest loss of accuracy on any label")
    trigger_success: float = Field(
        0.1, ge=0, le=1, description="largest share of clips that a sound mixed in turns into one label"
    )
    step: float = Field(5.0, ge=0, le=1000, description="longest step, in medians of earlier steps")


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


class DeviceRules(Settings):
    """Who may be a device, and for how long."""

    approval: bool = Field(False, description="an operator approves each device after its enrolment")
    certificate_days: int = Field(60, ge=1, le=90, description="devices renew at two thirds of it")
    envelope: Literal["hybrid", "x25519"] = Field(
        "hybrid", description="what answers are sealed with: ML-KEM-768 and X25519, or X25519 alone"
    )


class ReleaseRules(Settings):
    """How a version reaches devices."""

    first_stage: float = Field(100.0, gt=0, le=100, description="per cent of the devices given a new version")
    valid_days: float = Field(365.0, gt=0, le=3650, description="after which devices refuse a version")
    minimum_client: str = Field(
        "0.1.0",
        pattern=r"^\d{1,6}\.\d{1,6}\.\d{1,6}$",
        description="oldest version of fedaudio that is to run a version",
    )


def with_default_recipe(document: object) -> object:
    """Settings before they are checked, with what their recipe leaves open where there is privacy.

    Of `PRIVATE_RECIPE`, no part is taken that something given would not go with: its one step beside epochs,
    its learning rate beside another optimiser, and nothing for algorithms that it is not made for.
    """
    if not isinstance(document, Mapping) or document.get("privacy") is None:
        return document
    given = document.get("recipe", {})
    if not isinstance(given, Mapping) or given.get("algorithm", "fedavg") not in {"fedavg", "fedprox"}:
        return document
    defaults = PRIVATE_RECIPE.model_dump(exclude_unset=True)
    if "epochs" in given:
        del defaults["steps"]
    if given.get("optimizer", PRIVATE_RECIPE.optimizer) != PRIVATE_RECIPE.optimizer:
        del defaults["learning_rate"]
    return {**document, "recipe": _completed(given, defaults)}


def _completed(given: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    whole = {**defaults, **given}
    for name, default in defaults.items():
        inner = whole[name]
        if isinstance(inner, Mapping) and isinstance(default, Mapping):
            whole[name] = _completed(inner, default)
    return whole


def check_together(
    recipe: Recipe, privacy: Privacy | None, aggregation: Aggregation, rounds: RoundSettings
) -> None:
    """Refuse settings each of which is right, and which together are not.

    Raises:
        ValueError: what does not go with what.
    """
    is_mean = aggregation.rule == "mean" and aggregation.mixing == "off"
    if recipe.algorithm == "scaffold" and not (is_mean and aggregation.norm_clipping == 0):
        raise ValueError(
            "scaffold needs aggregation.rule = 'mean', mixing = 'off' and norm_clipping = 0: "
            "anything else shifts its control variates for good"
        )
    if rounds.weighting == "clips" and not is_mean:
        raise ValueError(
            "rounds.weighting = 'clips' needs aggregation.rule = 'mean' and mixing = 'off': "
            "with anything else every update counts as one"
        )
    if privacy is None:
        return
    if recipe.algorithm == "scaffold" and privacy.average:
        raise ValueError("scaffold needs privacy.average = 0")
    if privacy.units > rounds.max_clips:
        raise ValueError("privacy.units is more than rounds.max_clips, so every update would be refused")
    if rounds.weighting == "clips":
        raise ValueError(
            "rounds.weighting = 'clips' does not go with [privacy], under which no device says how many "
            "clips it has"
        )


class ServerSettings(Settings):
    """All there is to configure at a coordinator."""

    host: str = "127.0.0.1"
    port: int = Field(8650, ge=0, le=65_535)
    task: Task
    rounds: RoundSettings = RoundSettings()
    recipe: Recipe = Recipe()
    privacy: Privacy | None = None
    aggregation: Aggregation = Aggregation()
    optimizer: OptimizerConfig = OptimizerConfig()
    gate: GateRules = GateRules()
    devices: DeviceRules = DeviceRules()
    releases: ReleaseRules = ReleaseRules()
    validation: Path | None = Field(None, description="folder of the coordinator's own labelled clips")
    seed: int = Field(0, ge=0, le=2**53)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, document: object) -> object:
        return with_default_recipe(document)

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        check_together(self.recipe, self.privacy, self.aggregation, self.rounds)
        return self

    @property
    def devices_evaluate(self) -> bool:
        """Whether devices are asked how a candidate does on their clips: exact counts are not private."""
        return self.rounds.evaluate and self.privacy is None
