"""Where a simulation stands after a round, on disk: what goes on from there ends as an unbroken run would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from common.errors import SimulationError
from common.files import locked, make_folder, read_if_there, sha256, write_atomic
from common.protocol.answer import PrivacySpent
from common.protocol.release import Metrics
from common.protocol.tensors import Weights, schema_of
from common.settings import Settings
from fl_server.memory import Memory, decode_memory, made_by
from simulations.results import SimulatedRound, TimeSpent
from simulations.scenario import Scenario


class Tested(Settings):
    """How a version does on the unseen; see `SimulatedRound`."""

    accuracy: float
    loss: float
    attack_success: float | None = None
    attack_turned: float | None = None


class Facts(Settings):
    """All of a checkpoint that is neither tensors nor rounds.

    Args:
        round, version: the last of each.
        clock: seconds since the simulation began, on its own clock.
        world: key of the world it is about.
        initial, tested: how the untrained model did, and the last version that was tested: `tested_version`.
        metrics: of the newest version.
        spent: by device, what it has spent of its privacy; `privacy` the device that has spent most.
        seconds: of real time, as `SimulationResults`.
    """

    round: int = 0
    version: int = 0
    clock: float = 0.0
    world: str
    initial: Tested
    tested: Tested
    tested_version: int = 0
    metrics: Metrics = Metrics()
    spent: dict[str, tuple[PrivacySpent, ...]] = Field(default_factory=dict)
    privacy: PrivacySpent | None = None
    time: TimeSpent = TimeSpent()
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """After a round, or before the first.

    Args:
        weights: of the newest version.
        step: by how much the last round changed the model; empty if by nothing.
        rounds: all so far.
    """

    facts: Facts
    weights: Weights = field(repr=False)
    memory: Memory = field(default_factory=Memory, repr=False)
    step: Weights = field(default_factory=dict, repr=False)
    rounds: tuple[SimulatedRound, ...] = ()

    def prepared(self, seconds: float) -> Checkpoint:
        """The same, for which the run was prepared for so many seconds."""
        time = self.facts.time + TimeSpent(preparing=seconds)
        spent = {"time": time, "seconds": self.facts.seconds + seconds}
        return replace(self, facts=self.facts.model_copy(update=spent))


class RunFolder:
    """What a run is about and where it stands: scenario.json, checkpoint/ and rounds.jsonl."""

    def __init__(self, root: Path, scenario: Scenario, seed: int) -> None:
        self.root, self._scenario = root, scenario
        self._text = scenario.model_dump_json(indent=1).encode()
        self._key = sha256(self._text + str(seed).encode())
        self._checkpoint = make_folder(root / "checkpoint") / "newest.safetensors"
        self._log = root / "rounds.jsonl"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other run out of the folder.

        Raises:
            SimulationError: FA-9003, another is in it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self._checkpoint.with_name(".lock"), wait=False))
            except BlockingIOError as error:
                raise SimulationError(
                    "FA-9003",
                    f"Another simulation is running in {self.root}.",
                    "Wait for its end, or give this one another folder with --out.",
                ) from error
            yield

    def open(self, resume: bool) -> Checkpoint | None:
        """Where the run in this folder stands; None if there is none yet.

        Raises:
            SimulationError: FA-9002 there is one, which is another or must not go on, FA-9004 it is damaged.
            StorageError: FA-8001.
        """
        data = read_if_there(self._checkpoint)
        if data is None:
            write_atomic(self.root / "scenario.json", self._text)
            return None
        try:
            with safe_open(self._checkpoint, "numpy") as file:
                texts = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no dict
            key, facts = texts["key"], Facts.model_validate_json(texts["facts"])
            rounds = self._rounds(facts.round)
        except (SafetensorError, ValidationError, KeyError, TypeError) as error:
            raise SimulationError(
                "FA-9004",
                f"The simulation in {self.root} cannot be gone on with, for its files are damaged.",
                "Run it anew in another folder.",
            ) from error
        if not resume or key != self._key:
            why = "of another scenario or seed" if resume else "already"
            raise SimulationError(
                "FA-9002",
                f"There is a simulation {why} in {self.root}.",
                "Go on with the same scenario and --resume, or give another folder with --out.",
            )
        weights = _under("weights.", tensors)
        made = made_by(self._scenario.recipe, self._scenario.optimizer, schema_of(weights))
        memory = decode_memory(tensors.pop("memory").tobytes(), made)
        return Checkpoint(facts, weights, memory, _under("step.", tensors), rounds)

    def save(self, at: Checkpoint) -> None:
        """Write down where the run stands now.

        Nothing is forced to the disk: what a power cut takes is computed again.

        Raises:
            StorageError: FA-8001.
        """
        lines = at.rounds[-1].model_dump_json() + "\n" if at.rounds else ""
        with self._log.open("a" if at.rounds else "w") as log:
            log.write(lines)
        tensors = {f"weights.{name}": value for name, value in at.weights.items()}
        tensors |= {f"step.{name}": value for name, value in at.step.items()}
        memory = np.frombuffer(at.memory.encode(), np.uint8)
        texts = {"key": self._key, "facts": at.facts.model_dump_json()}
        write_atomic(self._checkpoint, save({**tensors, "memory": memory}, texts), lasting=False)

    def _rounds(self, count: int) -> tuple[SimulatedRound, ...]:
        """The first `count` rounds; what was noted of one that did not come to its end is forgotten."""
        lines = (read_if_there(self._log) or b"").splitlines(keepends=True)[:count]
        rounds = tuple(map(SimulatedRound.model_validate_json, lines))
        if len(rounds) < count:
            raise KeyError(count)
        write_atomic(self._log, b"".join(lines))
        return rounds


def _under(prefix: str, tensors: Mapping[str, NDArray[np.float32]]) -> Weights:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
