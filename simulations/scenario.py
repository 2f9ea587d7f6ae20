"""A scenario as a value: what is simulated, from one TOML file. Nothing here says how it is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from common.audio.front_end import FrontEnd, LogMel
from common.protocol.plan import Privacy, Recipe
from common.settings import Settings
from common.task import Label, Task
from fl_server.settings import (
    Aggregation,
    GateRules,
    OptimizerConfig,
    RoundSettings,
    ServerSettings,
    check_together,
    with_default_recipe,
)

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]

AttackName = Literal[
    "none", "sign-flip", "gaussian", "zero", "stale", "label-flip", "alie", "ipm", "backdoor", "sybils"
]

TriggerName = Literal["chirp", "click", "whistle", "swept"]


class DataChoice(Settings):
    """The clips, and which of them nobody trains on."""

    path: Path | None = Field(
        None, description="a collection; looked for beside the scenario and in $FEDAUDIO_DATA"
    )
    synthetic: Literal["words", "textures"] = Field("words", description="made where path is unset")
    voices: int = Field(26, ge=3, le=999, description="of a synthetic corpus")
    takes: int = Field(8, ge=1, le=99, description="of each voice and label of a synthetic corpus")
    labels: tuple[Label, ...] | None = Field(None, description="those to use; all if unset")
    split: Literal["speaker", "group", "fold"] = Field(
        "speaker", description="what is never both trained on and tested on"
    )
    unseen: Annotated[int, Field(ge=1)] | tuple[str, ...] = Field(
        4, description="speakers (groups, folds) to test on: number or names"
    )
    validation: Annotated[int, Field(ge=0)] | tuple[str, ...] = Field(
        0, description="speakers (groups, folds) the coordinator has clips of: for the gate and for choices"
    )


class TaskChoice(Settings):
    """What the model is; its labels are those of the clips."""

    front_end: FrontEnd = LogMel()
    architecture: str = "tc-stream"
    width: int | None = Field(None, ge=4, le=1024)
    clip_seconds: float = Field(1.0, gt=0.05, le=30)


class PopulationChoice(Settings):
    """How clips come to devices, and in what each device differs from the others."""

    devices: int = Field(14, ge=1, le=1_000_000)
    partition: Literal["speaker", "iid", "dirichlet", "shared"] = Field(
        "speaker",
        description="shared: clips of one speaker, which other devices may have too",
    )
    alpha: float = Field(0.5, gt=0, le=1e6, description="of dirichlet: small alphas make devices differ")
    clips: int | None = Field(None, ge=1, le=100_000, description="most clips of a device; all if unset")
    quantity_skew: float = Field(
        0.0, ge=0, le=5, description="sigma of the log-normal by which devices' shares of their clips differ"
    )
    microphone_db: float = Field(0.0, ge=0, le=20, description="spread of each device's frequency response")
    noise_snr_db: tuple[float, float] | None = Field(
        None, description="each device has background noise at a level drawn from here"
    )


class BehaviourChoice(Settings):
    """When devices can be asked, and whether and when they answer. Time is the simulation's own."""

    trace: Path | None = Field(None, description="CSV: device,start,end in seconds; replaces availability")
    availability: float = Field(1.0, gt=0, le=1, description="share of rounds in which a device is online")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of answers that never come")
    speed_spread: float = Field(0.0, ge=0, le=5, description="sigma of the log-normal of devices' speeds")
    seconds_per_clip: float = Field(0.02, gt=0, le=100, description="of a usual device, to train on a clip")
    bytes_per_second: float = Field(250_000, gt=0, description="of a usual device's connection, either way")
    stragglers: Share = Field(0.0, description="share of devices that are slower by straggler_factor")
    straggler_factor: float = Field(10.0, ge=1, le=1e4)


class AttackChoice(Settings):
    """Who attacks, and how; see `simulations.attacks`."""

    kind: AttackName = "none"
    share: float = Field(0.2, ge=0, lt=1, description="of the devices, those that attack")
    strength: float | None = Field(None, gt=0, le=1000, description="the attack's own number")
    from_round: int = Field(1, ge=1, description="first round in which they attack")
    target: Label | None = Field(None, description="of a backdoor; the first label if unset")
    trigger: TriggerName = Field("chirp", description="sound of a backdoor")
    poisoned: Share = Field(0.5, description="share of an attacker's clips that carry it")


class WarmStart(Settings):
    """What the first version has learned from, before any device; see `fl_server.warm_start`."""

    sources: tuple[str, ...] = Field(
        min_length=1,
        description="collections of clips, of which 'babble' is synthetic; or one release or safetensors "
        "file; all looked for as data.path is",
    )
    epochs: int | None = Field(None, ge=1, le=1000, description="over the clips; as a coordinator if unset")


class SimulatedRounds(RoundSettings):
    """How a round is held."""

    min_devices: int = Field(1, ge=1, description="a round starts when so many are online")


class Scenario(Settings):
    """Everything a simulation depends on, but for the seed."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    about: str = Field("", max_length=2000)
    number_of_rounds: int = Field(40, ge=1, le=100_000)
    evaluate_every: int = Field(1, ge=1, description="rounds from one test on the unseen to the next")
    seeded_noise: bool = Field(
        False, description="draw privacy noise from the seed: can be repeated, and protects nobody"
    )
    data: DataChoice = DataChoice()
    task: TaskChoice = TaskChoice()
    warm_start: WarmStart | None = None
    population: PopulationChoice = PopulationChoice()
    behaviour: BehaviourChoice = BehaviourChoice()
    attack: AttackChoice = AttackChoice()
    rounds: SimulatedRounds = SimulatedRounds()
    recipe: Recipe = Recipe()
    privacy: Privacy | None = None
    aggregation: Aggregation = Aggregation()
    optimizer: OptimizerConfig = OptimizerConfig()
    gate: GateRules = GateRules()

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, document: object) -> object:
        return with_default_recipe(document)

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        check_together(self.recipe, self.privacy, self.aggregation, self.rounds)
        if self.privacy is not None and self.privacy.unit == "recording":
            raise ValueError("no simulated clip knows its recording: privacy.unit is 'clip' or 'speaker'")
        return self

    @property
    def largest_cohort(self) -> int:
        """Devices that are asked in a round when all are online."""
        return min(self.rounds.cohort or self.population.devices, self.population.devices)

    def server_settings(self, task: Task, seed: int) -> ServerSettings:
        """What a coordinator that held this simulation's rounds would have in its server.toml."""
        return ServerSettings(
            task=task,
            rounds=self.rounds,
            recipe=self.recipe,
            privacy=self.privacy,
            aggregation=self.aggregation,
            optimizer=self.optimizer,
            gate=self.gate,
            seed=seed,
        )
