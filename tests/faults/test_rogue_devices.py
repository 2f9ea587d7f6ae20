"""Rogue devices over the real transport: the round ends, and the model is that of the honest ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fl_server.registry import failures_of
from tests.faults.light_devices import delta_of
from tests.processes import Federation, run_cli

EXPECTED = {
    "shapes": "FA-3002",
    "nan": "FA-3003",
    "count": "FA-3004",
    "garbage": "FA-3001",
    "nothing": "FA-3001",
    "markup": "FA-2002",
    "error": "FA-5005",
    "never": "FA-5005",
}
HONEST = ("kitchen", "cellar")


@pytest.fixture(scope="module")
def after_a_round(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation of two honest devices and one of each rogue kind, after its first round."""
    rounds = {"min_devices": len(EXPECTED) + len(HONEST), "answer_seconds": 6, "evaluate": False}
    with Federation(tmp_path_factory.mktemp("rogues"), {"rounds": rounds}) as federation:
        federation.start_server()
        honest = [f"{name}=honest" for name in HONEST]
        federation.start_light_devices("devices", *honest, *(f"rogue-{kind}={kind}" for kind in EXPECTED))
        federation.wait_online(len(EXPECTED) + len(HONEST))
        order = federation.train(1)
        assert order.state == "done"
        yield federation


def test_the_model_is_that_of_the_honest_devices(after_a_round: Federation) -> None:
    before, after = after_a_round.release(0).weights, after_a_round.release(1).weights
    schema = after_a_round.release(0).manifest.schema_
    deltas = [delta_of(name, schema) for name in HONEST]
    for name, value in after.items():
        mean = np.mean([delta[name].astype(np.float64) for delta in deltas], axis=0)
        np.testing.assert_allclose(value, before[name] + mean, rtol=1e-6, atol=1e-7)
    assert after_a_round.release(1).manifest.participants == len(HONEST)


def test_every_rogue_is_named_with_its_reason(after_a_round: Federation) -> None:
    row = after_a_round.last_round()
    assert (row.participants, row.failed) == (len(HONEST), len(EXPECTED))
    codes = sorted(failure["code"] for failure in failures_of(row))
    assert codes == sorted(EXPECTED.values())
    assert all(failure["reason"] for failure in failures_of(row))


def test_nobody_waited_longer_than_allowed(after_a_round: Federation) -> None:
    # The silent device holds the round up for answer_seconds and no more than a second beyond.
    assert after_a_round.last_round().seconds == pytest.approx(6, abs=4)


def test_status_shows_what_a_rogue_wrote_without_obeying_it(after_a_round: Federation) -> None:
    done = run_cli("server", "status", "--home", str(after_a_round.home.root), env={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "[/bold]" in done.stdout
    assert "\x1b" not in done.stdout
