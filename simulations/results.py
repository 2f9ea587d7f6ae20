"""What a simulation found: results.json, in the demo's shape and with what only a simulation can know."""

from __future__ import annotations

from pydantic import Field

from common.results import Results, RoundResult
from common.settings import Settings


class SimulatedRound(RoundResult):
    """One round. `version` stays as it was if the round made none; accuracies are of the newest version.

    Args:
        accuracy_unseen, loss: of the last test, if there was none in this round.
        accuracy_devices: of the round's own version, on the clips that the cohort keeps for that; None if
            there is none, or they were not asked.
        accuracy_validation: of the same, on the coordinator's clips; None without such.
        void: code of the error for which the round made no version.
        late, dropped: devices that answered too late or never; they are among `failed`. Their work is not
            done, so they keep nothing and spend no privacy; deployed devices that are late have done both.
        failures: how many devices failed for each code, in training and in trying the version.
        clock_seconds: time on the simulation's clock when the round was over.
        epsilon: spent so far by the device that spent most; None without privacy.
        attack_success: share of the unseen clips, not of the target, that are called it with the trigger.
        attack_turned: of these, only those that are called otherwise without the trigger.
    """

    cohort: int
    accuracy_devices: float | None = None
    accuracy_validation: float | None = None
    void: str | None = None
    failures: dict[str, int] = Field(default_factory=dict)
    late: int = 0
    dropped: int = 0
    clock_seconds: float = 0.0
    epsilon: float | None = None
    attack_success: float | None = None
    attack_turned: float | None = None


class DeviceResult(Settings):
    """How the last version does for one device, on clips that it keeps for that.

    Args:
        clips, correct: kept for that; named rightly by the model as it is on the device.
        correct_shared: named rightly by the shared model, where the device's own differs from it.
    """

    device: str
    trained_on: int
    clips: int
    correct: int
    correct_shared: int | None = None


class UnseenResult(Settings):
    """How the last version does on one unseen speaker (group, fold)."""

    name: str
    clips: int
    correct: int


class TimeSpent(Settings):
    """What the seconds of this machine went for. Only the workers' are summed over them.

    Args:
        preparing: the world, the workers and the test of the untrained model; again whenever it is resumed.
        training: workers' time at devices' work in rounds, trying a version on their clips among it.
        idle: workers' time without any in rounds, tests on the unseen among them.
        coordinating: processor time of the coordinator's own: answers, aggregation, gate, validation.
        testing: on the unseen, and in the end on the clips of all devices.
    """

    preparing: float = 0.0
    training: float = 0.0
    idle: float = 0.0
    coordinating: float = 0.0
    testing: float = 0.0

    def __add__(self, other: TimeSpent) -> TimeSpent:
        ours, others = self.model_dump(), other.model_dump()
        return TimeSpent(**{name: ours[name] + others[name] for name in ours})


class SimulationResults(Results):
    """All of one run, with one seed.

    Args:
        labels: in the order of the confusion matrix.
        confusion: of the last version on the unseen: clips by true label (row) and given label (column).
        accuracy_validation, attack_success, attack_turned: of the last version, as in `SimulatedRound`.
        noise: where privacy noise came from: "operating system", "seed" or, without privacy, None.
        interrupted: whether the run was stopped before its last round.
        seconds: of real time: preparing, rounds and tests, of all runs that were resumed.
    """

    rounds: tuple[SimulatedRound, ...]
    scenario: str
    seed: int
    workers: int
    labels: tuple[str, ...]
    parameters: int
    confusion: tuple[tuple[int, ...], ...]
    unseen: tuple[UnseenResult, ...]
    devices: tuple[DeviceResult, ...]
    population: int
    attackers: int = 0
    accuracy_validation: float | None = None
    attack_success: float | None = None
    attack_turned: float | None = None
    noise: str | None = None
    interrupted: bool = False
    time: TimeSpent
    seconds: float = 0.0
