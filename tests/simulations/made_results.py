"""Results that no simulation has found, of any shape."""

from __future__ import annotations

import math
import random

from common.results import Final, Initial, Speakers
from simulations.results import DeviceResult, SimulatedRound, SimulationResults, TimeSpent, UnseenResult


def made_results(
    seed: int = 0,
    *,
    rounds: int = 40,
    labels: tuple[str, ...] = ("down", "go", "left", "right", "stop", "up"),
    devices: tuple[str, ...] = tuple(f"speaker {number:02}" for number in range(14)),
    unseen: tuple[str, ...] = ("amal", "basma", "dina", "hadi"),
    private: bool = False,
    attacked: bool = False,
    personal: bool = False,
    interrupted: bool = False,
) -> SimulationResults:
    rng = random.Random(seed)
    made, clock = [], 0.0
    for number in range(1, rounds + 1):
        accuracy = 0.96 - 0.8 * math.exp(-number / 8) + rng.uniform(-0.02, 0.02)
        late, dropped = rng.choice((0, 0, 1, 2)), rng.choice((0, 1))
        clock += rng.uniform(8, 14)
        made.append(
            SimulatedRound(
                round=number,
                version=number,
                accuracy_unseen=max(0.0, min(1.0, accuracy)),
                loss=2 * math.exp(-number / 10) + 0.15 + rng.uniform(0, 0.03),
                seconds=0.7,
                overhead_seconds=0.02,
                bytes_up=14 * 84_000,
                bytes_down=14 * 84_200,
                participants=14 - late - dropped,
                failed=late + dropped,
                cohort=14,
                accuracy_devices=min(1.0, accuracy + 0.02),
                void="FA-5106" if number % 17 == 0 else None,
                late=late,
                dropped=dropped,
                clock_seconds=clock,
                epsilon=0.4 * math.sqrt(number) if private else None,
                attack_success=min(1.0, 0.1 + number / 60) if attacked else None,
                attack_turned=min(0.9, number / 60) if attacked else None,
            )
        )
    return SimulationResults(
        config={
            "population.devices": len(devices),
            "recipe.epochs": 2,
            "privacy": None,
            "seeded_noise": False,
        },
        speakers=Speakers(train=devices, validation=(), unseen=unseen),
        initial=Initial(accuracy_unseen=1 / len(labels)),
        rounds=tuple(made),
        final=Final(
            accuracy_unseen=made[-1].accuracy_unseen if made else 1 / len(labels),
            epsilon=0.4 * math.sqrt(rounds) if private else None,
            delta=1e-5 if private else None,
            unit="clip" if private else None,
        ),
        scenario="made-up",
        seed=seed,
        workers=2,
        labels=labels,
        parameters=21_000,
        confusion=tuple(
            tuple(
                50 + rng.randrange(9) if row == column else rng.choice((0, 0, 0, 1, 5))
                for column in range(len(labels))
            )
            for row in range(len(labels))
        ),
        unseen=tuple(UnseenResult(name=name, clips=75, correct=rng.randrange(55, 76)) for name in unseen),
        devices=tuple(
            DeviceResult(
                device=name,
                trained_on=60,
                clips=15,
                correct=rng.randrange(10, 16),
                correct_shared=rng.randrange(6, 13) if personal else None,
            )
            for name in devices
        ),
        population=len(devices),
        attackers=3 if attacked else 0,
        attack_success=made[-1].attack_success if made else None,
        attack_turned=made[-1].attack_turned if made else None,
        noise="seed" if private else None,
        interrupted=interrupted,
        time=TimeSpent(preparing=3.1, training=20.5, idle=1.2, coordinating=0.9, testing=2.2),
    )


TINY = """
name = "tiny"
number_of_rounds = 1

[data]
voices = 5
takes = 2
unseen = 1

[task]
width = 8

[population]
devices = 4

[recipe]
epochs = 1
"""
"""A scenario that is over in a moment."""
