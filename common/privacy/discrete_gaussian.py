"""Exact noise on the integers: the discrete Gaussian (Canonne, Kamath, Steinke 2020), by inversion.

P(X = k) is proportional to exp(-k^2 / 2 sigma^2) for every integer k. A random number U of [0, 1) is drawn,
and X is the number of the k for which P(X <= k) <= U. The first 64 bits of U decide nearly always, by a table
of the bounds. Where they equal the first 64 bits of a bound, 192 more are drawn and compared with the bounds
worked out anew in exact integers; with sigma = 16384 that happens about once in 2^45 draws.

How far this is from the true distribution, in total variation, for sigma up to 2^16. Weights are kept as
multiples of u = 2^-256, and a product of two of them is rounded down by less than u:
  - exp(-1 / 2 sigma^2) comes from a series of fewer than 64 terms, and is wrong by less than 128 u;
  - so the ratio of weight k + 1 to weight k is wrong by less than 260 (k + 1) u, and each weight by less than
    the sum over k of 260 (k + 1) exp(-k^2 / 2 sigma^2) u < 2^41 u;
  - there are fewer than 2^22 weights, all of them together wrong by less than 2^63 u; those too small to be
    written, beyond 18.8 sigma, add up to less than 2^18 u;
  - 256 bits of U in place of all move each of fewer than 2^22 bounds by less than u.
The sum is below 2^-192, and all weights together are at least 1; `ERROR` leaves a margin. That the words of
AES-256 in counter mode are as good as random is assumed.

What this does not protect: how long a draw takes depends on what is drawn, through the caches of the
processor and the rare second look. Who shares the processor with a training might measure it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, islice

import numpy as np
import numpy.typing as npt

from common.privacy.secure_random import SecureRandom

ERROR = 2.0**-190
"""Total variation between one draw and the true discrete Gaussian, at most; see above."""

LARGEST_SIGMA = 1 << 16

_BITS = 256
_ONE = 1 << _BITS
_REACH = 10  # sigmas; beyond 9.1 no 64-bit word tells two bounds apart
_CELL_BITS = 18
_CROWDED = -1


class DiscreteGaussian:
    """Noise of one standard deviation, from a table that is made once.

    Args:
        sigma: 1..`LARGEST_SIGMA`. The table of 16384 takes a fifth of a second and 4 MB.
    """

    def __init__(self, sigma: int) -> None:
        if not 1 <= sigma <= LARGEST_SIGMA:
            raise ValueError(f"sigma is {sigma}, outside 1..{LARGEST_SIGMA}")
        self._sigma, self._reach = sigma, _REACH * sigma
        self._negative = sum(islice(_weights(sigma), 1, None))
        self._total = 2 * self._negative + _ONE
        bounds = ((mass << 64) // self._total for mass in islice(self._masses(), self._reach))
        above = np.fromiter(bounds, np.uint64, self._reach)
        # P(X <= -k - 1) = 1 - P(X <= k). A bound that is one too low only makes for a second look.
        self._bounds = np.concatenate((~above[::-1], above))
        starts = np.arange(1 << _CELL_BITS, dtype=np.uint64) << np.uint64(64 - _CELL_BITS)
        # The first bound of each cell of all words that begin alike; negative where a second one follows.
        self._first = np.searchsorted(self._bounds, starts).astype(np.int32)
        self._first[np.diff(self._first, append=np.int32(2 * self._reach)) > 1] = _CROWDED

    def draw(self, count: int, random: SecureRandom) -> npt.NDArray[np.int32]:
        """`count` independent values."""
        words = random.words(count)
        places = self._first.take((words >> np.uint64(64 - _CELL_BITS)).view(np.int64))
        bounds = self._bounds.take(places)
        unclear = np.flatnonzero((places == _CROWDED) | (bounds == words))
        places += bounds <= words
        # In order, so that each search begins where the last one has left the processor's cache.
        unclear = unclear[np.argsort(words[unclear])]
        places[unclear] = np.searchsorted(self._bounds, words[unclear], side="right")
        values = places - np.int32(self._reach)
        for tie in unclear[self._bounds[places[unclear] - 1] == words[unclear]]:
            rest = int.from_bytes(random.words(_BITS // 64 - 1).tobytes(), "little")
            values[tie] = self._exactly(int(words[tie]) << (_BITS - 64) | rest)
        return values

    def _exactly(self, uniform: int) -> int:
        """The value for U in units of 2^-256."""
        mass = uniform * self._total >> _BITS
        if mass < self._negative:
            return -self._exactly_above(self._total - 1 - mass)
        return self._exactly_above(mass)

    def _exactly_above(self, mass: int) -> int:
        return next(value for value, up_to in enumerate(self._masses()) if up_to > mass)

    def _masses(self) -> Iterator[int]:
        """The weight of all integers up to k, for k = 0, 1, 2, ..."""
        return islice(accumulate(_weights(self._sigma), initial=self._negative), 1, None)


@lru_cache(maxsize=2)
def discrete_gaussian(sigma: int) -> DiscreteGaussian:
    """The one of that standard deviation, kept for the next who asks."""
    return DiscreteGaussian(sigma)


def _weights(sigma: int) -> Iterator[int]:
    """exp(-k^2 / 2 sigma^2) in units of 2^-256 for k = 0, 1, 2, ..., as long as it is not zero."""
    step = _exp_minus(_ONE // (2 * sigma * sigma))
    weight, ratio, square = _ONE, step, step * step >> _BITS
    while weight:
        yield weight
        weight, ratio = weight * ratio >> _BITS, ratio * square >> _BITS


def _exp_minus(x: int) -> int:
    """exp(-x) for x of 0..1/2, both in units of 2^-256, by its series."""
    total, term, order = 0, _ONE, 0
    while term:
        total += -term if order % 2 else term
        order += 1
        term = (term * x >> _BITS) // order
    return total
