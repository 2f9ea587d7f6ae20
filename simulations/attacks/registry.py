"""Attacks by the name a scenario gives them, and who attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from simulations.attacks.alie import Alie
from simulations.attacks.attack import Attack
from simulations.attacks.backdoor import Backdoor
from simulations.attacks.gaussian import Gaussian
from simulations.attacks.ipm import Ipm
from simulations.attacks.label_flip import LabelFlip
from simulations.attacks.sign_flip import SignFlip
from simulations.attacks.stale import Stale
from simulations.attacks.sybils import Sybils
from simulations.attacks.zero import Zero
from simulations.draws import draws
from simulations.scenario import AttackChoice, AttackName

ATTACKS: Mapping[AttackName, Callable[[AttackChoice], Attack]] = {
    "none": lambda choice: Attack(),
    "sign-flip": lambda choice: SignFlip(choice.strength),
    "gaussian": lambda choice: Gaussian(choice.strength),
    "zero": lambda choice: Zero(),
    "stale": lambda choice: Stale(choice.strength),
    "label-flip": lambda choice: LabelFlip(),
    "alie": lambda choice: Alie(choice.strength),
    "ipm": lambda choice: Ipm(choice.strength),
    "backdoor": lambda choice: Backdoor(
        choice.strength, trigger=choice.trigger, target=choice.target, poisoned=choice.poisoned
    ),
    "sybils": lambda choice: Sybils(choice.strength),
}


def make_attack(choice: AttackChoice) -> Attack:
    """What the attackers of a scenario do."""
    return ATTACKS[choice.kind](choice)


def draw_attackers(devices: int, choice: AttackChoice, seed: int) -> frozenset[int]:
    """Devices 0..devices-1 that attack: `choice.share` of them, to the nearest whole number.

    With a larger share the same devices attack, and others.
    """
    if choice.kind == "none":
        return frozenset()
    order = draws(seed, "attackers").permutation(devices)
    return frozenset(order[: int(choice.share * devices + 0.5)].tolist())
