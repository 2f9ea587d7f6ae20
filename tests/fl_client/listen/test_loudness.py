"""A-weighted power and time weighting F against the tables of IEC 61672-1 and against analysis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fl_client.listen.loudness import FastWeighting, Loudness, a_weighting

RATE = 16_000

A_TABLE = {
    31.5: -39.4, 63: -26.2, 125: -16.1, 250: -8.6, 500: -3.2, 1000: 0.0,
    2000: 1.2, 4000: 1.0, 5000: 0.5, 6300: -0.1, 8000: -1.1,
}  # fmt: skip
"""IEC 61672-1:2013, table 3, by nominal frequency; the exact ones are 1000 * 10^(n/10)."""


def exact(nominal: float) -> float:
    return float(1000.0 * 10 ** (round(10 * np.log10(nominal / 1000)) / 10))


def sine(hertz: float, seconds: float, amplitude: float = 1.0) -> NDArray[np.float32]:
    at = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def level(sound: NDArray[np.float32]) -> float:
    """Level of the sound without its first and last tenth of a second."""
    return float(10 * np.log10(Loudness().feed(sound)[10:-10].mean()))


@pytest.mark.parametrize(("nominal", "decibels"), A_TABLE.items())
def test_the_curve_is_that_of_the_standard(nominal: float, decibels: float) -> None:
    gain = 20 * np.log10(a_weighting(np.array([exact(nominal)])))
    assert gain[0] == pytest.approx(decibels, abs=0.06)  # the table is rounded to a tenth


def test_a_full_scale_sine_at_one_kilohertz_is_0_dbfs() -> None:
    assert level(sine(1000, 3)) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("nominal", [nominal for nominal in A_TABLE if nominal < 8000])
def test_a_tone_is_weighted_as_the_standard_says(nominal: float) -> None:
    assert level(sine(exact(nominal), 5)) == pytest.approx(A_TABLE[nominal], abs=0.25)


@given(hertz=st.floats(40, 7900), amplitude=st.floats(0.01, 0.5))
def test_twice_the_amplitude_is_six_decibels_more(hertz: float, amplitude: float) -> None:
    quiet, loud = (level(sine(hertz, 0.6, factor * amplitude)) for factor in (1, 2))
    assert loud - quiet == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_white_noise_has_the_level_of_the_integral_of_the_curve() -> None:
    """A density s^2 / 8000 per hertz under the squared curve, by the trapezoidal rule."""
    hertz = np.linspace(0, 8000, 80_001)
    power = 0.1**2 / 8000 * np.trapezoid(a_weighting(hertz) ** 2, hertz)
    noise = np.random.default_rng(0).standard_normal(60 * RATE) * 0.1
    assert level(noise.astype(np.float32)) == pytest.approx(10 * np.log10(2 * power), abs=0.05)


def test_a_weak_low_tone_beside_a_strong_one_is_not_covered_by_its_leakage() -> None:
    both = sine(exact(31.5), 3) + sine(1000, 3, 0.003)  # -39.4 and -50.5 dB
    assert level(both) == pytest.approx(10 * np.log10(10**-3.94 + 0.003**2), abs=0.3)


@pytest.mark.parametrize(
    ("milliseconds", "decibels"), [(500, -0.1), (200, -1.0), (100, -2.6), (50, -4.8), (20, -8.3), (10, -11.1)]
)
@pytest.mark.parametrize("begin", [8000, 8333, 8777])
def test_a_burst_rises_as_time_weighting_f_says(milliseconds: int, decibels: float, begin: int) -> None:
    """IEC 61672-1:2013, table 4: a 4 kHz burst against the steady tone."""
    sound = np.zeros(2 * RATE, np.float32)
    burst = sine(4000, milliseconds / 1000)
    sound[begin : begin + len(burst)] = burst
    highest = 10 * np.log10(FastWeighting().feed(Loudness().feed(sound)).max())
    assert highest - level(sine(4000, 2)) == pytest.approx(decibels, abs=0.5)


def test_a_burst_falls_by_35_decibels_in_a_second() -> None:
    """IEC 61672-1:2013, 5.8.2: 34.7 dB/s, as e^(-t / 0.125 s) does."""
    sound = np.concatenate((sine(1000, 1), np.zeros(2 * RATE, np.float32)))
    fast = 10 * np.log10(FastWeighting().feed(Loudness().feed(sound))[100 + 10 : 100 + 111])
    assert fast[0] - fast[100] == pytest.approx(34.7, abs=0.1)


@given(cuts=st.lists(st.integers(0, 20_000), max_size=8))
def test_blocks_make_no_difference(cuts: list[int]) -> None:
    noise = np.random.default_rng(1).standard_normal(20_000).astype(np.float32)
    meter, fast = Loudness(), FastWeighting()
    pieces = [fast.feed(meter.feed(piece)) for piece in np.split(noise, sorted(cuts))]
    whole = FastWeighting().feed(Loudness().feed(noise))
    assert np.array_equal(np.concatenate(pieces), whole)


def test_what_is_no_sound_does_not_deafen_the_meter() -> None:
    spoilt = sine(1000, 4, 0.1)
    spoilt[1000], spoilt[2000], spoilt[3000] = np.nan, np.inf, -np.inf
    assert level(spoilt[RATE:]) == pytest.approx(-20, abs=0.01)
    powers = Loudness().feed(spoilt)
    assert np.isfinite(powers).all()
    assert 10 * np.log10(powers[100:-10].mean()) == pytest.approx(-20, abs=0.01)
