"""policy.toml: what a device's owner agrees to, whoever asks. Each refusal has a code and public words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import time as TimeOfDay
from pathlib import Path

from pydantic import Field

from common.errors import DeviceError
from common.files import is_there, write_atomic
from common.privacy.accounting import epsilon_of
from common.protocol.plan import Plan
from common.protocol.unit import Unit
from common.settings import Settings, load_settings
from fl_client.account import Account, Cost
from fl_client.conditions import Conditions

WINDOW_LIMIT = 2_000_000
"""Band energies of one window, four bytes each; a second of speech has four thousand."""


MOST_ROUNDS = 1_000_000
"""More than anybody will wait for."""


class Policy(Settings):
    """The owner's rules. What is unset is not limited."""

    allowed_coordinators: tuple[str, ...] = Field(
        (), description="fingerprints of roots; empty: the one the device is enrolled with"
    )
    rounds_per_day: int | None = Field(None, ge=0, description="rounds taken on in a day, local time")
    minimum_cohort: int = Field(1, ge=1, description="smallest number of devices asked together")
    require_privacy: bool = Field(
        False, description="refuse to train without differential privacy, and to evaluate"
    )
    least_noise: float | None = Field(
        None, gt=0, le=1000, description="smallest noise_multiplier; implies require_privacy"
    )
    maximum_epsilon_per_round: float | None = Field(
        None, gt=0, description="largest cost of one round; implies require_privacy"
    )
    maximum_epsilon: float | None = Field(
        None, gt=0, description="largest cost of all rounds together; implies require_privacy"
    )
    delta: float = Field(1e-5, gt=0, lt=0.1, description="that the two are meant at, whatever a plan says")
    unit: Unit | None = Field(
        None,
        description="what the two are meant for: a clip, a recording, a speaker; implies require_privacy",
    )
    architectures: tuple[str, ...] = Field((), description="models that may be trained; empty: all")
    maximum_bytes_down: int | None = Field(None, ge=0, description="size of an order with its weights")
    maximum_bytes_up: int | None = Field(None, ge=0, description="size of an answer")
    hours: str | None = Field(
        None,
        pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$",
        description="when to work, local time; may go over midnight: 22:00-06:30",
    )
    require_charger: bool = Field(False, description="work only while plugged in")
    minimum_battery_percent: float | None = Field(None, ge=0, le=100, description="work only above it")
    maximum_load: float | None = Field(None, gt=0, description="busy processes per core, mean of a minute")
    allow_metered: bool = Field(True, description="work also when only a mobile network is up")

    @property
    def insists_on_privacy(self) -> bool:
        """Whether nothing exact may leave the device."""
        limits = (self.least_noise, self.maximum_epsilon_per_round, self.maximum_epsilon, self.unit)
        return self.require_privacy or any(limit is not None for limit in limits)

    def check_plan(self, plan: Plan, bytes_down: int, bytes_up: int) -> None:
        """Return if the owner agrees to `plan`, as far as it can be said without the clips.

        Args:
            bytes_down: size of the plan and its weights.
            bytes_up: size that the answer will have at most.

        Raises:
            DeviceError: FA-4006, FA-4007, FA-4030, FA-4032, FA-4035..FA-4037.
        """
        _check_window(plan)
        if self.allowed_coordinators and plan.coordinator not in self.allowed_coordinators:
            raise _refusal(
                "FA-4030", "The device's owner does not allow this coordinator.", "allowed_coordinators"
            )
        if plan.cohort < self.minimum_cohort:
            raise _refusal(
                "FA-4032",
                f"The device works in cohorts of {self.minimum_cohort} or more; this one has {plan.cohort}.",
                "minimum_cohort",
            )
        if self.architectures and plan.task.architecture not in self.architectures:
            raise _refusal("FA-4035", "The device's owner does not allow this architecture.", "architectures")
        self._check_size("FA-4036", "The order has", bytes_down, "maximum_bytes_down")
        self._check_size("FA-4037", "The answer would have", bytes_up, "maximum_bytes_up")
        self.check_privacy(plan)

    def _check_size(self, code: str, what: str, size: int, rule: str) -> None:
        limit: int | None = getattr(self, rule)
        if limit is not None and size > limit:
            raise _refusal(code, f"{what} {size} bytes, and the device accepts {limit}.", rule)

    def check_privacy(self, plan: Plan) -> None:
        """Return if `plan` is as private as the owner wants it.

        Raises:
            DeviceError: FA-4006.
        """
        if plan.kind == "evaluate" and plan.privacy is not None:
            raise _too_little("An evaluation is exact, and the plan says that it is private.")
        if not self.insists_on_privacy:
            return
        if plan.kind == "evaluate":
            raise _too_little("The device insists on privacy, and an evaluation is exact.")
        if plan.privacy is None:
            raise _too_little("The device insists on privacy, and the plan has none.")
        least = self.least_noise or 0.0
        if plan.privacy.noise_multiplier < least:
            raise _too_little(
                f"The device insists on a noise multiplier of {least:g} or more, "
                f"and the plan's is {plan.privacy.noise_multiplier:g}."
            )
        if self.unit is not None and plan.privacy.unit != self.unit:
            raise _too_little(
                f"The device insists on privacy of each {self.unit}, and the plan's is of each "
                f"{plan.privacy.unit}."
            )

    def check_cost(self, account: Account, cost: Cost) -> None:
        """Return if the owner agrees to spend `cost` after what is in `account`.

        Raises:
            DeviceError: FA-4033 it is too much for one round, FA-4034 for all together, FA-4045 there are too
                many different costs, FA-4060 it is for another unit than what was spent before, FA-4044 exact
                answers were given before.
        """
        limit = self.maximum_epsilon_per_round
        if limit is not None and epsilon_of(Account().steps_with(cost), self.delta) > limit:
            raise _refusal(
                "FA-4033",
                f"The round would cost the device more than the epsilon of {limit:g} it gives for one.",
                "maximum_epsilon_per_round",
            )
        limit = self.maximum_epsilon
        if limit is None:
            return
        if account.exact:
            raise _unbounded(account)
        others = account.steps.keys() - {cost.unit}
        if others:
            raise _refusal(
                "FA-4060",
                f"The device has spent privacy per {', '.join(sorted(others))}, and would now spend it per "
                f"{cost.unit}: there is no sum of the two.",
                "maximum_epsilon",
            )
        if epsilon_of(account.steps_with(cost), self.delta) > limit:
            raise _refusal(
                "FA-4034",
                f"With this round the device would have spent more than the epsilon of {limit:g} it gives.",
                "maximum_epsilon",
            )

    def spent(self, account: Account) -> dict[Unit, float]:
        """Epsilon for each unit, at the owner's delta, of all trainings with privacy in `account` together.

        It bounds what the device has told only if `account.exact` is 0 and there is one unit.
        """
        return {unit: epsilon_of(steps, self.delta) for unit, steps in account.steps.items()}

    def rounds_left(self, account: Account, cost: Cost) -> int | None:
        """How many trainings that cost `cost` each may follow; None if there is no limit to them."""
        limit = self.maximum_epsilon
        if limit is None:
            return None
        if account.exact or account.steps.keys() - {cost.unit}:
            return 0

        def too_many(count: int) -> bool:
            more = cost.model_copy(update={"steps": count * cost.steps})
            return epsilon_of(account.steps_with(more), self.delta) > limit

        return bisect_left(range(1, MOST_ROUNDS), True, key=too_many)

    def objections(
        self, now: Conditions, account: Account, another_round: bool = True
    ) -> Iterator[DeviceError]:
        """Why the owner would not have the device work at this moment: FA-4031, FA-4038..FA-4042, FA-4044.

        What the platform does not tell is no objection.

        Args:
            another_round: whether the work is of a round that today's count does not hold yet.
        """
        limit = self.rounds_per_day
        if limit is not None and another_round and account.rounds_on(now.time.date()) >= limit:
            yield _refusal("FA-4031", f"The device has done its {limit} rounds of today.", "rounds_per_day")
        if self.maximum_epsilon is not None and account.exact:
            yield _unbounded(account)
        yield from self.objections_to_a_download(now)
        if self.require_charger and now.charging is False:
            yield _refusal("FA-4039", "The device is not plugged in.", "require_charger")
        percent = self.minimum_battery_percent
        if percent is not None and now.battery is not None and now.battery < percent:
            yield _refusal("FA-4040", "The device's battery is too low.", "minimum_battery_percent")
        if self.maximum_load is not None and now.load is not None and now.load > self.maximum_load:
            yield _refusal("FA-4041", "The device has other work to do.", "maximum_load")

    def objections_to_a_download(self, now: Conditions) -> Iterator[DeviceError]:
        """Why the owner would not have a release fetched at this moment: FA-4038, FA-4042."""
        if self.hours is not None and not within(self.hours, now.time.time()):
            yield _refusal("FA-4038", "The device does not work at this time of day.", "hours")
        if not self.allow_metered and now.metered:
            yield _refusal("FA-4042", "The device has only a metered network.", "allow_metered")

    def untold(self, now: Conditions) -> list[str]:
        """Rules that have no effect because the platform does not tell what they are about."""
        rules = {
            "require_charger": self.require_charger and now.charging is None,
            "minimum_battery_percent": self.minimum_battery_percent is not None and now.battery is None,
            "maximum_load": self.maximum_load is not None and now.load is None,
            "allow_metered": not self.allow_metered and now.metered is None,
        }
        return [name for name, without_effect in rules.items() if without_effect]


def load_policy(path: Path) -> Policy:
    """The policy in `path`; one without limits if there is none.

    Raises:
        ConfigError: FA-6002, FA-6003.
        StorageError: FA-8001, it cannot be told whether there is one.
    """
    return load_settings(Policy, path) if is_there(path) else Policy()


def write_default_policy(path: Path) -> None:
    """Put a policy without limits, which explains each rule, at `path`, unless there is one.

    Raises:
        StorageError: FA-8001.
    """
    if path.exists():
        return
    lines = ["# What this device agrees to, whoever asks. What is commented out is not limited.", ""]
    for name, rule in Policy.model_fields.items():
        lines += [f"# {rule.description or name.replace('_', ' ')}", f"# {name} = {_EXAMPLES[name]}", ""]
    write_atomic(path, "\n".join(lines).encode(), mode=0o600)


_EXAMPLES = {
    "allowed_coordinators": "[]",
    "rounds_per_day": "24",
    "minimum_cohort": "1",
    "require_privacy": "false",
    "least_noise": "0.8",
    "maximum_epsilon_per_round": "1.0",
    "maximum_epsilon": "8.0",
    "delta": "1e-5",
    "unit": '"clip"',
    "architectures": '["tc-stream"]',
    "maximum_bytes_down": "20_000_000",
    "maximum_bytes_up": "20_000_000",
    "hours": '"22:00-06:30"',
    "require_charger": "false",
    "minimum_battery_percent": "40",
    "maximum_load": "0.7",
    "allow_metered": "true",
}


def within(hours: str, moment: TimeOfDay) -> bool:
    """Whether `moment` is in `hours` (HH:MM-HH:MM, the end not included); a span may go over midnight.

    From a time to itself is the whole day.
    """
    begin, end = (TimeOfDay.fromisoformat(part) for part in hours.split("-"))
    moment = moment.replace(tzinfo=None)
    if begin < end:
        return begin <= moment < end
    return moment >= begin or moment < end


def _check_window(plan: Plan) -> None:
    size = plan.task.clip_frames * plan.task.front_end.bands
    if size > WINDOW_LIMIT:
        raise DeviceError(
            "FA-4007",
            f"The plan's windows have {size} values, and a device accepts {WINDOW_LIMIT}.",
            "Shorten task.clip_seconds, or choose a longer hop or fewer bands.",
        )


def _too_little(happened: str) -> DeviceError:
    return DeviceError(
        "FA-4006", happened, "Set [privacy] in server.toml as the device asks, or change its policy.toml."
    )


def _unbounded(account: Account) -> DeviceError:
    return DeviceError(
        "FA-4044",
        f"The device has given {account.exact} exact answers, and no epsilon bounds them.",
        "Enrol it in another folder, with other clips; or take maximum_epsilon out of policy.toml.",
    )


def _refusal(code: str, happened: str, rule: str) -> DeviceError:
    return DeviceError(code, happened, f"The device's owner may change {rule} in policy.toml.")
