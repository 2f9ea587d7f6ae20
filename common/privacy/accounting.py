"""What DP-SGD has cost: epsilon, for adding or removing one unit, of steps on Poisson samples.

The currency is Renyi differential privacy (Mironov 2017; Mironov et al. 2019), from Opacus: divergences add
up over trainings, and their sum never comes out below the true cost. `closest_epsilon` is for people to read.

Only the sampling that a device does itself counts. That a coordinator asks some devices and not others is
never credited: the device cannot check how they were chosen.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from common.errors import TrainingError
from common.privacy.discrete_gaussian import ERROR
from common.protocol.answer import PrivacySpent
from common.protocol.plan import Privacy

LEAST_NOISE = 0.01
"""Noise multiplier at which epsilon is in the millions; far below it the series Opacus sums never ends."""

Steps: TypeAlias = Mapping[tuple[float, float], int]
"""How many at each (sampling rate, noise multiplier)."""

ORDERS = (
    *(1.01, 1.02, 1.03, 1.05, 1.07),
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *range(12, 64),
    *(64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768, 1024),
)
"""Of divergence. Those of Opacus, 1.1..63, with more for epsilons above a hundred and below a third."""

LARGEST_MODEL = 2**32
"""Values that one step puts noise on, at most; only the sampler's tiny error depends on it."""


def privacy_spent(privacy: Privacy, sampling_rate: float, steps: int) -> PrivacySpent:
    """The cost of `steps` steps, each on a Poisson sample of the units at `sampling_rate` (0..1].

    The rate is public, a device's report states it: it tells the number of clips where `privacy.units` is 0.

    Raises:
        TrainingError: FA-7005, the noise is below `LEAST_NOISE`, or no epsilon can be computed.
    """
    too_little = privacy.noise_multiplier < LEAST_NOISE
    steps_by_kind = {(sampling_rate, privacy.noise_multiplier): steps}
    epsilon = math.inf if too_little else epsilon_of(steps_by_kind, privacy.delta)
    if math.isinf(epsilon):
        raise TrainingError(
            "FA-7005",
            f"A noise multiplier of {privacy.noise_multiplier:g} protects nothing.",
            "Raise privacy.noise_multiplier; 1.0 is a usual value.",
        )
    return PrivacySpent(
        epsilon=epsilon,
        delta=_with_sampling_error(privacy.delta, epsilon, steps),
        unit=privacy.unit,
        accountant="rdp",
        noise_multiplier=privacy.noise_multiplier,
        sampling_rate=sampling_rate,
        steps=steps,
    )


def compose(spent: Sequence[PrivacySpent], delta: float) -> PrivacySpent:
    """The cost of several trainings on the same clips together: their Renyi divergences add up.

    Args:
        spent: at least one, all of one unit; the last gives the noise multiplier that is named in the result.

    Raises:
        ValueError: of several units; a clip's removal may change its speaker's gradient by more than the
            clipping norm, and a speaker's removal takes many clips, so that the sum would mean neither.
    """
    if len({one.unit for one in spent}) > 1:
        raise ValueError("the cost of one unit does not add to that of another")
    steps: Counter[tuple[float, float]] = Counter()
    for one in spent:
        steps[one.sampling_rate, one.noise_multiplier] += one.steps
    epsilon = epsilon_of(steps, delta)
    return spent[-1].model_copy(
        update={
            "epsilon": epsilon,
            "delta": _with_sampling_error(delta, epsilon, steps.total()),
            "sampling_rate": max(one.sampling_rate for one in spent),
            "steps": steps.total(),
        }
    )


def epsilon_of(steps: Steps, delta: float) -> float:
    """Epsilon at `delta` of `steps` together, by Renyi differential privacy.

    Of none it is 0, and where it cannot be computed infinite.
    """
    if not any(steps.values()):
        return 0.0
    divergences = sum(_divergences(*how) * count for how, count in steps.items() if count)
    with warnings.catch_warnings():
        # It warns where the best order is the first or last one: epsilon is then loose, never too small.
        warnings.simplefilter("ignore")
        epsilon, _ = _renyi().get_privacy_spent(orders=ORDERS, rdp=divergences, delta=delta)
    # `max` alone would make nothing spent of what is not a number.
    return math.inf if math.isnan(epsilon) else max(0.0, float(epsilon))


def closest_epsilon(steps: Steps, delta: float) -> tuple[float, str]:
    """Epsilon for people to read, and the accountant it is from: "prv" (Gopi et al. 2021) or "rdp".

    The former is a few per cent closer to the truth but fails, or takes all memory, for many settings (Opacus
    issues 585, 601, 602, 637). Where it does, or where what it says is not a little below the latter, the
    latter is said.
    """
    bound = epsilon_of(steps, delta)
    # About as many values as it would discretise the privacy losses of all kinds of steps into.
    count, wide = sum(steps.values()), epsilon_of(steps, delta / 8000) + 3
    size = len(steps) * 2 * wide * math.sqrt(count * math.log(12_000 / delta) / 2) / _PRV_ERROR
    if size > _PRV_LARGEST:
        return bound, "rdp"
    closest = _by_prv(steps, delta)
    # A smaller share of it is no gain in precision but an error.
    return (closest, "prv") if bound / 2 < closest < bound else (bound, "rdp")


_PRV_ERROR, _PRV_LARGEST = 0.01, 1 << 21


def _by_prv(steps: Steps, delta: float) -> float:
    """Upper end of the interval that PRV gives; not a number where it fails."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise, rate, count) for (rate, noise), count in steps.items() if count]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(accountant.get_epsilon(delta, eps_error=_PRV_ERROR))
    except (ArithmeticError, IndexError, MemoryError, RuntimeError, ValueError):
        return math.nan


@lru_cache(maxsize=1024)
def _divergences(rate: float, noise: float) -> npt.NDArray[np.float64]:
    """Of one step, at each of `ORDERS`."""
    divergences = _renyi().compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=ORDERS)
    return np.asarray(divergences, np.float64)


@cache
def _renyi() -> ModuleType:
    """Opacus's analysis, from its file: its package would load torch and all that trains, for seconds."""
    package = find_spec("opacus")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("opacus is not installed")
    file = Path(package.submodule_search_locations[0]) / "accountants" / "analysis" / "rdp.py"
    found = spec_from_file_location("opacus_renyi", file)
    if found is None or found.loader is None:
        raise ModuleNotFoundError(f"{file} cannot be loaded")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _with_sampling_error(delta: float, epsilon: float, steps: int) -> float:
    """`delta` where the noise is not exactly as accounted for.

    All draws together differ from the true ones by t, at most, in total variation, on either of two
    neighbouring data sets; so what is (epsilon, delta) with true ones is (epsilon, delta + (1 + e^epsilon) t)
    with ours. Up to an epsilon of 80 that is nothing a float could show; far above, nothing is promised: 1.
    """
    apart = steps * LARGEST_MODEL * ERROR
    return min(1.0, delta + (1 + math.exp(min(epsilon, 700.0))) * apart)
