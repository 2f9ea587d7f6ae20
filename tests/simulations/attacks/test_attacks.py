"""Each attack does what its paper says, to nobody but the attackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.attacks.alie import Alie, largest_z
from simulations.attacks.attack import Attack, Rows, Scene
from simulations.attacks.gaussian import Gaussian
from simulations.attacks.ipm import Ipm
from simulations.attacks.label_flip import LabelFlip
from simulations.attacks.registry import ATTACKS, draw_attackers, make_attack
from simulations.attacks.sign_flip import SignFlip
from simulations.attacks.stale import Stale
from simulations.attacks.sybils import Sybils
from simulations.attacks.zero import Zero
from simulations.scenario import AttackChoice, AttackName
from tests.simulations.attacks.made_data import FRONT_END, TASK, made_clips, made_scene

NAMES = get_args(AttackName)
BYZFL = json.loads((Path(__file__).parent / "byzfl.json").read_bytes())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def forge(attack: Attack, scene: Scene | None = None, seed: int = 0) -> Rows:
    return attack.forge(made_scene() if scene is None else scene, rng(seed))


@pytest.mark.parametrize("name", NAMES)
class TestEveryAttack:
    def test_is_made_from_its_name(self, name: AttackName) -> None:
        assert type(make_attack(AttackChoice(kind=name))).__name__.lower() == {"none": "attack"}.get(
            name, name.replace("-", "")
        )

    @pytest.mark.parametrize(("honest", "attackers"), [(8, 2), (1, 1), (0, 3), (3, 5)])
    def test_forges_one_finite_float32_row_each(self, name: AttackName, honest: int, attackers: int) -> None:
        scene = made_scene(honest, attackers)
        rows = forge(make_attack(AttackChoice(kind=name)), scene)
        assert rows.dtype == np.float32
        assert rows.shape == scene.own.shape
        assert np.isfinite(rows).all()

    def test_forges_the_same_from_the_same_seed_and_changes_nothing_it_was_shown(
        self, name: AttackName
    ) -> None:
        scene = made_scene()
        before = scene.honest.copy(), scene.own.copy(), scene.last_step.copy()
        attack = make_attack(AttackChoice(kind=name))
        np.testing.assert_array_equal(forge(attack, scene), forge(attack, scene))
        for old, new in zip(before, (scene.honest, scene.own, scene.last_step), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_poison_keeps_shapes_types_and_the_original(self, name: AttackName) -> None:
        data = made_clips(20)
        energies, labels = data.energies.copy(), data.labels.copy()
        attack = make_attack(AttackChoice(kind=name))
        poisoned = attack.poison(data, TASK, FRONT_END, rng())
        assert (poisoned.energies.shape, poisoned.energies.dtype) == (energies.shape, np.float32)
        assert (poisoned.labels.shape, poisoned.labels.dtype) == (labels.shape, np.int64)
        np.testing.assert_array_equal(poisoned.clip_index, data.clip_index)
        assert poisoned.skipped == data.skipped
        assert 0 <= poisoned.labels.min() <= poisoned.labels.max() < len(TASK.labels)
        np.testing.assert_array_equal(data.energies, energies)
        np.testing.assert_array_equal(data.labels, labels)

    def test_poisons_the_same_from_the_same_seed(self, name: AttackName) -> None:
        attack = make_attack(AttackChoice(kind=name))
        once, again = (attack.poison(made_clips(20), TASK, FRONT_END, rng(4)) for _ in range(2))
        np.testing.assert_array_equal(once.energies, again.energies)
        np.testing.assert_array_equal(once.labels, again.labels)


class TestAgainstByzfl:
    """The same vectors, see benchmarks/byzfl_attacks.py."""

    @pytest.mark.parametrize("case", BYZFL["cases"], ids=lambda case: f"{case['attack']}-{case['seed']}")
    def test_sends_what_byzfl_sends(self, case: dict[str, float]) -> None:
        rows = rng(int(case["seed"])).standard_normal((int(case["devices"]), int(case["values"])), np.float32)
        # Of honest devices that all know the mean; ours reverses what the attacker itself has learnt.
        own = rows.mean(axis=0, keepdims=True).repeat(2, axis=0)
        attack = make_attack(AttackChoice(kind=case["attack"], strength=case["strength"]))
        sent = forge(attack, Scene(1, rows, own, np.zeros_like(own[0])))
        np.testing.assert_allclose(sent, [case["sent"]] * 2, rtol=1e-5, atol=1e-6)

    def test_gaussian_noise_is_distributed_as_byzfls(self) -> None:
        case = BYZFL["gaussian"]
        honest = np.ones((4, case["values"]), np.float32)
        sent = forge(Gaussian(case["strength"]), Scene(1, honest, honest[:1], honest[0]))
        deciles = np.quantile(sent / case["strength"], np.arange(0.1, 1.0, 0.1))
        # The standard error of a decile of 20000 values is at most .012.
        np.testing.assert_allclose(deciles, case["deciles"], atol=0.05)


class TestHonest:
    def test_changes_nothing(self) -> None:
        data, scene = made_clips(4), made_scene()
        assert Attack().poison(data, TASK, FRONT_END, rng()) is data
        assert forge(Attack(), scene) is scene.own


class TestSignFlip:
    def test_sends_each_attackers_own_update_reversed_and_stretched(self) -> None:
        scene = made_scene()
        np.testing.assert_array_equal(forge(SignFlip(2.5), scene), np.float32(-2.5) * scene.own)

    def test_takes_a_plain_mean_to_nothing_with_a_fifth_of_equal_devices(self) -> None:
        row = made_scene().own[:1]
        scene = Scene(1, row.repeat(8, axis=0), row.repeat(2, axis=0), row[0])
        rows = np.concatenate([scene.honest, forge(SignFlip(), scene)])
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-6)


class TestGaussian:
    def test_is_as_long_as_the_strength_says_and_has_no_direction(self) -> None:
        scene = made_scene(values=20_000)
        rows = forge(Gaussian(7.0), scene, seed=1)
        honest = np.linalg.norm(scene.honest, axis=1).mean()
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1) / honest, 7.0, rtol=0.05)
        cosines = np.corrcoef(np.concatenate([rows, scene.honest.mean(axis=0, keepdims=True)]))
        assert np.abs(cosines[np.triu_indices(3, 1)]).max() < 0.05

    def test_differs_from_attacker_to_attacker_and_seed_to_seed(self) -> None:
        rows = forge(Gaussian())
        assert not np.array_equal(rows[0], rows[1])
        assert not np.array_equal(rows, forge(Gaussian(), seed=1))


class TestFreeRiders:
    def test_zero_sends_zeros(self) -> None:
        assert not forge(Zero()).any()

    def test_stale_sends_the_last_step_again(self) -> None:
        scene = made_scene()
        np.testing.assert_array_equal(forge(Stale(), scene), [scene.last_step] * 2)


class TestLabelFlip:
    def test_turns_label_l_into_the_lth_from_the_end_and_leaves_the_sound(self) -> None:
        data = made_clips(30)
        poisoned = LabelFlip().poison(data, TASK, FRONT_END, rng())
        np.testing.assert_array_equal(poisoned.labels, 4 - data.labels)
        assert poisoned.energies is data.energies
        assert poisoned.features is data.features

    def test_sends_what_it_learnt(self) -> None:
        scene = made_scene()
        assert forge(LabelFlip(), scene) is scene.own


class TestAlie:
    # By hand from the paper: n = 50, m = 24 is its own example (s = 2, 24 / 26 = .923, z = 1.43);
    # n = 20, m = 4: s = 7, 9 / 16 = .5625, z = .157.
    @pytest.mark.parametrize(("devices", "attackers", "z"), [(50, 24, 1.426), (20, 4, 0.157), (14, 3, 0.114)])
    def test_largest_z(self, devices: int, attackers: int, z: float) -> None:
        assert largest_z(devices, attackers) == pytest.approx(z, abs=1e-3)

    @given(st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
    def test_largest_z_is_finite_and_never_negative(self, case: tuple[int, int]) -> None:
        assert 0 <= largest_z(*case) < 3

    def test_is_as_many_deviations_from_the_mean_as_the_paper_allows(self) -> None:
        scene = made_scene(16, 4)
        rows = forge(Alie(), scene)
        deviations = (rows[0] - scene.honest.mean(axis=0)) / scene.honest.std(axis=0, ddof=1)
        np.testing.assert_allclose(deviations, largest_z(20, 4), rtol=1e-3)
        np.testing.assert_array_equal(rows, rows[:1].repeat(4, axis=0))

    @pytest.mark.parametrize("honest", [0, 1])
    def test_does_as_if_honest_where_there_is_no_deviation(self, honest: int) -> None:
        scene = made_scene(honest)
        assert forge(Alie(1.5), scene) is scene.own


class TestIpm:
    def test_turns_a_plain_mean_round_from_the_strength_that_the_paper_names(self) -> None:
        scene = made_scene(16, 4)
        mean = scene.honest.mean(axis=0)
        for strength, sign in ((3.9, 1), (4.1, -1)):
            rows = np.concatenate([scene.honest, forge(Ipm(strength), scene)])
            assert np.sign(rows.mean(axis=0) @ mean) == sign


class TestSybils:
    def test_flip_labels(self) -> None:
        data = made_clips(10)
        np.testing.assert_array_equal(Sybils().poison(data, TASK, FRONT_END, rng()).labels, 4 - data.labels)

    def test_send_nearly_one_and_the_same(self) -> None:
        scene = made_scene(attackers=4, values=5000)
        rows = forge(Sybils(2.0), scene)
        centre = 2 * scene.own.mean(axis=0)
        apart = np.linalg.norm(rows - centre, axis=1) / np.linalg.norm(centre)
        np.testing.assert_allclose(apart, 0.01, rtol=0.1)
        assert len(np.unique(rows, axis=0)) == 4


class TestWhoAttacks:
    @given(st.integers(1, 300), st.floats(0, 1, exclude_max=True, width=16), st.integers(0, 2**40))
    def test_is_the_share_to_the_nearest_whole_number(self, devices: int, share: float, seed: int) -> None:
        attackers = draw_attackers(devices, AttackChoice(kind="zero", share=share), seed)
        assert abs(len(attackers) - share * devices) <= 0.5
        assert attackers <= set(range(devices))
        assert attackers == draw_attackers(devices, AttackChoice(kind="ipm", share=share), seed)

    def test_is_nobody_without_an_attack(self) -> None:
        assert not draw_attackers(10, AttackChoice(share=0.5), 0)

    def test_differs_from_seed_to_seed_and_grows_with_the_share(self) -> None:
        few, more = (AttackChoice(kind="zero", share=share) for share in (0.1, 0.3))
        assert draw_attackers(100, few, 0) < draw_attackers(100, more, 0)
        assert len({draw_attackers(100, few, seed) for seed in range(5)}) == 5

    def test_every_name_has_an_attack(self) -> None:
        assert set(ATTACKS) == set(NAMES)
