"""What a run comes to: its rounds, and what its last version does for the unseen and for each device."""

from __future__ import annotations

import time
from collections.abc import Mapping

from common.algorithms.registry import ALGORITHMS
from common.protocol.answer import Answer, decode_answer
from common.protocol.plan import Recipe
from common.results import Final, Initial
from simulations.checkpoint import Checkpoint
from simulations.federation import draft_exchange
from simulations.pool import Job
from simulations.results import DeviceResult, SimulationResults, TimeSpent
from simulations.scenario import Scenario
from simulations.simulation import Simulation

Scalar = str | int | float | bool | None


def conclude(simulation: Simulation, at: Checkpoint, interrupted: bool) -> SimulationResults:
    """The results of a run that ends at `at`; an interrupted one does not try every device."""
    begin = time.monotonic()
    world, scenario, facts = simulation.world, simulation.scenario, at.facts
    tested = facts.tested if facts.tested_version == facts.version else simulation.judge.test(at.weights)
    devices = () if interrupted else _devices(simulation, at)
    result, privacy = simulation.judge.evaluate(at.weights), facts.privacy
    seconds = time.monotonic() - begin
    return SimulationResults(
        config=flattened(scenario),
        speakers=world.speakers,
        initial=Initial(accuracy_unseen=facts.initial.accuracy),
        rounds=at.rounds,
        final=Final(
            accuracy_unseen=tested.accuracy,
            epsilon=privacy and privacy.epsilon,
            delta=privacy and privacy.delta,
            unit=privacy and privacy.unit,
        ),
        scenario=scenario.name,
        seed=simulation.seed,
        workers=simulation.workers,
        labels=world.task.labels,
        parameters=sum(value.size for value in at.weights.values()),
        confusion=tuple(tuple(row) for row in result.confusion.tolist()),
        unseen=simulation.judge.by_name(result),
        devices=devices,
        population=len(world.population),
        attackers=len(simulation.attackers),
        accuracy_validation=facts.metrics.validation_accuracy,
        attack_success=tested.attack_success,
        attack_turned=tested.attack_turned,
        noise=_noise(scenario),
        interrupted=interrupted,
        time=facts.time + TimeSpent(testing=seconds),
        seconds=facts.seconds + seconds,
    )


def flattened(scenario: Scenario) -> dict[str, Scalar]:
    """Every choice of a scenario by its key, as --set takes it; lists as text."""
    flat: dict[str, Scalar] = {}

    def put(prefix: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                put(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, Scalar):
            flat[prefix] = value
        else:
            flat[prefix] = str(value)

    put("", scenario.model_dump(mode="json"))
    return flat


def _noise(scenario: Scenario) -> str | None:
    if scenario.privacy is None:
        return None
    return "seed" if scenario.seeded_noise else "operating system"


def _devices(simulation: Simulation, at: Checkpoint) -> tuple[DeviceResult, ...]:
    """How the last version does for each device that keeps clips for that; nobody does under privacy."""
    if not simulation.settings.devices_evaluate:
        return ()
    population, recipe = simulation.world.population, simulation.settings.recipe
    own, shared = _tried(simulation, at, recipe), {}
    if ALGORITHMS[recipe.algorithm].personal:
        # The plain algorithm passes over what a device has of its own.
        shared = _tried(simulation, at, recipe.model_copy(update={"algorithm": "fedavg"}))
    return tuple(
        DeviceResult(
            device=population.name(device),
            trained_on=population.training_windows(device),
            clips=clips,
            correct=correct,
            correct_shared=shared[device][1] if shared else None,
        )
        for device, (clips, correct) in sorted(own.items())
    )


def _tried(simulation: Simulation, at: Checkpoint, recipe: Recipe) -> dict[int, tuple[int, int]]:
    """By device, clips that it keeps and those that were named rightly."""
    population = simulation.world.population
    settings = simulation.settings.model_copy(update={"recipe": recipe})
    order = ALGORITHMS[recipe.algorithm].order(at.weights, at.memory.algorithm)
    held = {device: len(population.held_out(device)) for device in range(len(population))}
    ids = {device: population.id(device) for device in held}
    exchange = draft_exchange(settings, at.facts.round, "evaluate", order, {}, ids)
    jobs = [Job(device, count) for device, count in held.items() if count]
    tried = dict.fromkeys(held, (0, 0))
    for device, data in simulation.pool.work(exchange.order, exchange.weights, jobs):
        answer = decode_answer(data, {})
        if isinstance(answer, Answer):
            tried[device] = answer.report.clips, answer.report.correct
    return tried
