"""What a device of a population is called, and how it hears."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from common.task import Task
from simulations.hearing import hear, make_noises, response_db
from simulations.population import StoredPopulation, open_population
from simulations.scenario import Scenario
from simulations.world import build_world
from tests.simulations.test_world import changed

TASK = Task(labels=("a", "b"), clip_seconds=0.3)
NOISES = make_noises(TASK, 0)
Energies = NDArray[np.float32]


def some_energies(seed: int, windows: int = 6) -> Energies:
    """Energies of windows whose levels lie far apart."""
    rng = np.random.default_rng(seed)
    energies = rng.exponential(size=(windows, TASK.clip_frames, TASK.front_end.bands))
    return np.float32(energies * 10.0 ** rng.uniform(-6, 3, (windows, 1, 1)))


def power(energies: Energies) -> NDArray[np.float64]:
    """Mean over time of the sum over bands, for each window."""
    return energies.astype(np.float64).sum(axis=2).mean(axis=1)


def heard_in_noise(energies: Energies, device: int, seed: int, snr_db: tuple[float, float]) -> Energies:
    return hear(energies, device, seed, microphone_db=0.0, noise_snr_db=snr_db, noises=NOISES)


def population(
    small: Scenario, cache: Path, folder: Path, seed: int = 0, **choices: object
) -> StoredPopulation:
    build_world(changed(small, population=choices), seed, folder, cache)
    return open_population(folder)


def test_ids_are_distinct_and_follow_from_the_number(small: Scenario, cache: Path, tmp_path: Path) -> None:
    many = population(small, cache, tmp_path / "a", devices=2000, partition="shared", clips=1)
    few = population(small, cache, tmp_path / "b", seed=9)
    ids = [many.id(device) for device in range(len(many))]
    assert len(set(ids)) == len(many) == 2000
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in ids)
    assert ids[: len(few)] == [few.id(device) for device in range(len(few))]


def test_a_device_is_called_by_its_speaker_if_it_has_one(
    small: Scenario, cache: Path, tmp_path: Path
) -> None:
    alone = population(small, cache, tmp_path / "a")
    assert len({alone.name(device) for device in range(6)}) == 6
    assert all(re.fullmatch(r"s\d", alone.name(device)) for device in range(6))
    mixed = population(small, cache, tmp_path / "b", partition="iid", devices=2)
    assert [mixed.name(device) for device in range(2)] == ["device-0", "device-1"]


def test_a_device_hears_the_same_at_every_call_and_no_two_the_same(
    small: Scenario, cache: Path, tmp_path: Path
) -> None:
    conditions = {"microphone_db": 4.0, "noise_snr_db": (0.0, 20.0)}
    first = population(small, cache, tmp_path / "a", **conditions)
    second = population(small, cache, tmp_path / "b", **conditions)
    heard = {device: first.data(device).energies for device in (3, 0, 5)}
    for device in (0, 3, 5):
        assert (second.data(device).energies == heard[device]).all()
        assert (first.data(device).energies == heard[device]).all()
    clean = some_energies(0)
    assert (heard_in_noise(clean, 1, 0, (5, 15)) != heard_in_noise(clean, 2, 0, (5, 15))).any()
    assert (heard_in_noise(clean, 1, 0, (5, 15)) != heard_in_noise(clean, 1, 1, (5, 15))).any()


def test_without_conditions_it_hears_what_is_there(small: Scenario, cache: Path, tmp_path: Path) -> None:
    plain = population(small, cache, tmp_path / "a")
    coloured = population(small, cache, tmp_path / "b", microphone_db=6.0)
    for device in range(6):
        gains = coloured.data(device).energies / plain.data(device).energies
        # One gain for each band, whatever the window and the frame.
        np.testing.assert_allclose(gains, np.broadcast_to(gains[0, 0], gains.shape), rtol=1e-5)
        assert gains[0, 0].std() > 0


@settings(max_examples=50)
@given(st.integers(0, 2**53), st.integers(0, 10**6), st.floats(-10, 30), st.floats(0, 10))
def test_noise_has_the_level_that_was_asked_for(seed: int, device: int, lowest: float, width: float) -> None:
    clean = some_energies(seed)
    heard = heard_in_noise(clean, device, seed, (lowest, lowest + width))
    # In double precision, for at a high SNR the difference of the two is small.
    noise = heard.astype(np.float64) - clean
    snr_db = 10 * np.log10(power(clean) / noise.sum(axis=2).mean(axis=1))
    assert (snr_db > lowest - 0.1).all()
    assert (snr_db < lowest + width + 0.1).all()
    assert np.ptp(snr_db) < 0.1


def test_levels_are_spread_evenly_over_their_range() -> None:
    clean = some_energies(0, windows=1)
    snr_db = [
        10 * np.log10(power(clean) / power(heard_in_noise(clean, device, 1, (0, 10)) - clean))[0]
        for device in range(600)
    ]
    counts, _ = np.histogram(snr_db, bins=6, range=(-0.01, 10.01))
    assert counts.sum() == 600
    assert ((counts - 100) ** 2 / 100).sum() < chi2.ppf(1 - 1e-6, 5)


def test_one_device_has_noise_of_one_colour_from_many_moments() -> None:
    clean = some_energies(2, windows=20)
    noise = heard_in_noise(clean, 7, 0, (-30, -30)) - clean
    spectra = noise.mean(axis=1) / noise.mean(axis=(1, 2))[:, None]
    np.testing.assert_allclose(spectra, np.broadcast_to(spectra[0], spectra.shape), rtol=0.02)
    courses = {tuple(np.round(window / window.sum(), 6)) for window in noise.sum(axis=2)}
    assert len(courses) > 5


def test_silence_stays_silence() -> None:
    silence = np.zeros((2, TASK.clip_frames, TASK.front_end.bands), np.float32)
    assert not heard_in_noise(silence, 0, 0, (0, 10)).any()


@pytest.mark.parametrize("bands", [8, 40, 201])
def test_responses_are_smooth_of_mean_zero_and_of_the_spread_asked_for(bands: int) -> None:
    rng, spread_db, microphones = np.random.default_rng(0), 3.0, 4000
    gains = np.array([response_db(bands, spread_db, rng) for _ in range(microphones)])
    np.testing.assert_allclose(gains.mean(axis=1), 0, atol=1e-9)
    # A response is a sum of six waves, so its mean square over the bands is chi-squared, of six degrees.
    low, high = chi2.ppf([5e-7, 1 - 5e-7], 6 * microphones) / (6 * microphones)
    assert low < np.square(gains).mean() / spread_db**2 < high
    # From band to band it changes as waves do of which the shortest has a sixth of the bands to a half.
    steps = np.sqrt(np.square(np.diff(gains)).mean())
    assert steps < 1.05 * spread_db * np.pi / bands * np.sqrt(np.square(range(1, 7)).mean())
