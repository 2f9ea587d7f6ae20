"""From one checkpoint to the next: hold a round, test what came of it, write both down."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch

from common.errors import SimulationError
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.tensors import Weights, schema_of
from fl_server.warm_start import warm_model
from simulations.attacks.registry import draw_attackers, make_attack
from simulations.behaviour import make_behaviour
from simulations.checkpoint import Checkpoint, Facts
from simulations.federation import Federation, Held, check_rule
from simulations.fleet import Attackers, SimulatedFleet
from simulations.judge import Judge
from simulations.pool import Pool
from simulations.population import World
from simulations.progress import Doing, Progress
from simulations.results import SimulatedRound, TimeSpent
from simulations.scenario import Scenario
from simulations.spending import Spending


class Simulation:
    """A scenario with a seed, at work.

    Args:
        world: what they make of the clips.
        pool: of so many workers.
        body: all parameters but the head's that the first version begins with; random ones if there are none.
        watch: told of the progress, several times a round.

    Raises:
        SimulationError: FA-9103 the trace, FA-9201 the attack, FA-9204 nobody attacks.
        ConfigError: FA-6040, FA-6041, the rule can work in no round.
        TrainingError: FA-7001, the architecture.
    """

    def __init__(
        self,
        world: World,
        scenario: Scenario,
        seed: int,
        pool: Pool,
        workers: int = 1,
        watch: Callable[[Progress], None] = lambda progress: None,
        body: Weights | None = None,
    ) -> None:
        self.world, self.scenario, self.seed, self.workers = world, scenario, seed, workers
        self.settings = scenario.server_settings(world.task, seed)
        self.pool, self._watch = pool, watch
        attack, population = make_attack(scenario.attack), world.population
        self.attackers = draw_attackers(len(population), scenario.attack, seed)
        if scenario.attack.kind != "none" and not self.attackers:
            raise _nobody_attacks(scenario, len(population))
        self.judge = Judge(world, attack)
        self.untrained = (
            get_weights(build_model(world.task, torch.Generator().manual_seed(seed)))
            if body is None
            else warm_model(world.task, body)
        )
        schema = schema_of(self.untrained)
        check_rule(self.settings, schema, scenario.largest_cohort, world.validation)
        self._fleet = SimulatedFleet(
            pool,
            population,
            make_behaviour(scenario.behaviour, len(population), seed),
            Attackers(attack, self.attackers, scenario.attack.from_round, seed),
            schema,
            lambda answered, cohort: self.tell("training", answered, cohort),
        )
        self._progress = Progress("preparing", scenario.number_of_rounds)
        self._begin, self._begun_after = time.monotonic(), 0

    def start(self, known: Checkpoint | None) -> Checkpoint:
        """Go on from `known`, or begin with the untrained model. Comes before everything else."""
        at = known
        if at is None:
            tested = self.judge.test(self.untrained)
            at = Checkpoint(Facts(world=self.world.key, initial=tested, tested=tested), self.untrained)
        # Sums over tensors are in the model's own order, which no file keeps.
        at = replace(at, weights={name: at.weights[name] for name in self.untrained})
        self._fleet.clock = at.facts.clock
        self.spending = Spending(self.settings.privacy, at.facts.spent)
        self._federation = Federation(
            self.settings, self._fleet, len(self.world.population), self.world.validation, self.spending
        )
        self._begin, self._begun_after = time.monotonic(), at.facts.round
        self._note(at.facts)
        return at

    def after(self, at: Checkpoint) -> Checkpoint:
        """Hold the next round.

        Raises:
            SimulationError: FA-9001, workers die.
            StorageError: FA-8001.
        """
        begin, working, trained = time.monotonic(), time.process_time(), self.pool.training_seconds
        number = at.facts.round + 1
        self._progress = replace(self._progress, round=number, void=None)
        held = self._federation.hold(number, at.weights, at.memory, at.step)
        held_at, working = time.monotonic(), time.process_time() - working
        facts = self._facts(at.facts, at.weights, number, held)
        end, trained = time.monotonic(), self.pool.training_seconds - trained
        spent = TimeSpent(
            training=trained,
            idle=max(0.0, self.workers * (end - begin) - trained),
            coordinating=working,
            testing=end - held_at,
        )
        facts = facts.model_copy(update={"time": facts.time + spent, "seconds": facts.seconds + end - begin})
        self._note(facts)
        self._progress = replace(self._progress, void=held.void)
        self.tell("over", held.cohort, held.cohort)
        record = self._record(facts, held, held_at - begin, trained)
        if held.candidate is None:
            return replace(at, facts=facts, step={}, rounds=(*at.rounds, record))
        weights = held.candidate.weights
        step = {name: weights[name] - at.weights[name] for name in weights}
        return Checkpoint(facts, weights, held.candidate.memory, step, (*at.rounds, record))

    def tell(self, doing: Doing, answered: int = 0, cohort: int = 0) -> None:
        """Tell whoever watches where the run is."""
        self._progress = replace(self._progress, doing=doing, answered=answered, cohort=cohort)
        self._watch(self._progress)

    def _facts(self, before: Facts, weights: Weights, number: int, held: Held) -> Facts:
        """What is known after a round; it is time for a test or not, and a version may wait for one."""
        facts = before.model_copy(
            update={
                "round": number,
                "clock": self._fleet.clock,
                "spent": dict(self.spending.devices),
                "privacy": self.spending.largest,
            }
        )
        if held.candidate is not None:
            weights = held.candidate.weights
            facts = facts.model_copy(update={"version": before.version + 1, "metrics": held.metrics})
        due = number % self.scenario.evaluate_every == 0 or number == self.scenario.number_of_rounds
        if not due or facts.version == facts.tested_version:
            return facts
        self.tell("testing")
        tested = {"tested": self.judge.test(weights), "tested_version": facts.version}
        return facts.model_copy(update=tested)

    def _record(self, facts: Facts, held: Held, seconds: float, trained: float) -> SimulatedRound:
        """A round as results state it.

        Args:
            seconds: it took, without the test.
            trained: workers' seconds at the devices' work.
        """
        trained_by, tried_by = held.trained, held.tried
        failures = [*trained_by.failures, *tried_by.failures]
        epsilon = None if facts.privacy is None else facts.privacy.epsilon
        return SimulatedRound(
            round=facts.round,
            version=facts.version,
            accuracy_unseen=facts.tested.accuracy,
            loss=facts.tested.loss,
            seconds=seconds,
            overhead_seconds=max(0.0, seconds - trained / self.workers),
            bytes_up=trained_by.bytes_up + tried_by.bytes_up,
            bytes_down=trained_by.bytes_down + tried_by.bytes_down,
            participants=len(trained_by.parts),
            failed=len(failures),
            cohort=held.cohort,
            accuracy_devices=held.metrics.device_accuracy,
            accuracy_validation=held.metrics.validation_accuracy,
            void=held.void,
            failures=dict(sorted(Counter(failure.code for failure in failures).items())),
            late=self._fleet.late,
            dropped=self._fleet.dropped,
            clock_seconds=facts.clock,
            epsilon=epsilon,
            attack_success=facts.tested.attack_success,
            attack_turned=facts.tested.attack_turned,
        )

    def _note(self, facts: Facts) -> None:
        """Tell of these figures from now on."""
        left, held = self.scenario.number_of_rounds - facts.round, facts.round - self._begun_after
        epsilon = None if facts.privacy is None else facts.privacy.epsilon
        self._progress = replace(
            self._progress,
            round=facts.round,
            accuracy=facts.tested.accuracy,
            epsilon=epsilon,
            attack_success=facts.tested.attack_success,
            seconds_left=(time.monotonic() - self._begin) / held * left if held else None,
        )


def _nobody_attacks(scenario: Scenario, devices: int) -> SimulationError:
    return SimulationError(
        "FA-9204",
        f"The scenario has an attack ({scenario.attack.kind}), and {scenario.attack.share:g} of {devices} "
        "devices is nobody.",
        f"Set attack.share to {0.5 / devices:.2g} or more, or attack.kind to none.",
    )
