"""Rogue devices over the real transport: the round ends, and the model is that of the honest ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from sqlalchemy import select

from fl_server import evidence
from fl_server.registry import Device
from fl_server.tables import Contribution, Round, failures_of
from tests.faults.light_devices import HONEST, delta_of
from tests.processes import Federation, run_cli

ROGUES = {
    "shapes": "FA-3002",
    "nan": "FA-3003",
    "count": "FA-3004",
    "garbage": "FA-3021",
    "nothing": "FA-3021",
    "unsealed": "FA-3021",
    "oversize": "FA-5005",
    "downgrade": "FA-3051",
    "borrow": "FA-3050",
    "echo": "FA-3050",
    "pose": "FA-3050",
    "namesake": "FA-3058",
    "run": "FA-3052",
    "plan": "FA-3054",
    "markup": "FA-2002",
    "control": "FA-3004",
    "error": "FA-5005",
    "never": "FA-5005",
}
TURNCOATS = {"replay": "FA-3053", "reuse": "FA-3057"}
"""Honest in the first round, rogues in the second."""

ANSWER_SECONDS = 15
"""Enough for so many devices on a busy machine."""

EVERYBODY = len(ROGUES) + len(TURNCOATS) + len(HONEST)


@pytest.fixture(scope="module")
def after_two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Two honest devices, and one of each rogue kind."""
    rounds = {"min_devices": EVERYBODY, "answer_seconds": ANSWER_SECONDS, "evaluate": False}
    # The bare mean, for a robust rule rightly makes a round void in which so few of those asked are honest.
    mean = {"rule": "mean", "mixing": "off", "norm_clipping": 0}
    settings = {"rounds": rounds, "aggregation": mean}
    with Federation(tmp_path_factory.mktemp("rogues"), settings) as federation:
        federation.start_server()
        kinds = [*(f"{name}=honest" for name in HONEST), *(f"rogue-{kind}={kind}" for kind in ROGUES)]
        federation.start_light_devices("devices", *kinds, *(f"rogue-{kind}={kind}" for kind in TURNCOATS))
        federation.wait_online(EVERYBODY)
        assert federation.train(2).state == "done"
        yield federation


def rounds_of(federation: Federation) -> Sequence[Round]:
    first, second = federation.registry.rounds()
    return first, second


def assert_step(federation: Federation, version: int, names: Sequence[str]) -> None:
    """`version` is the one before it and the mean of what `names` send."""
    before, after = federation.release(version - 1), federation.release(version)
    deltas = [delta_of(name, before.manifest.schema) for name in names]
    for name, value in after.weights.items():
        mean = np.mean([delta[name].astype(np.float64) for delta in deltas], axis=0)
        np.testing.assert_allclose(value, before.weights[name] + mean, rtol=1e-6, atol=1e-7)
    assert after.manifest.participants == len(names)


def test_the_model_is_that_of_the_honest_devices(after_two_rounds: Federation) -> None:
    assert_step(after_two_rounds, 1, [*HONEST, *(f"rogue-{kind}" for kind in TURNCOATS)])
    assert_step(after_two_rounds, 2, HONEST)


def test_every_rogue_is_named_with_its_reason(after_two_rounds: Federation) -> None:
    first, second = rounds_of(after_two_rounds)
    for row, expected in ((first, ROGUES), (second, ROGUES | TURNCOATS)):
        assert row.participants == EVERYBODY - len(expected)
        said = {failure["who"]: failure["code"] for failure in failures_of(row)}
        assert said == {f"rogue-{kind}": code for kind, code in expected.items()}
        assert all(failure["reason"] and failure["device"] for failure in failures_of(row))


def test_nobody_waited_longer_than_allowed(after_two_rounds: Federation) -> None:
    # The silent device holds a round up for answer_seconds and not much longer.
    for row in rounds_of(after_two_rounds):
        assert row.seconds == pytest.approx(ANSWER_SECONDS, abs=5)


def test_contributions_are_named_by_device_and_counters_are_kept(after_two_rounds: Federation) -> None:
    with after_two_rounds.registry.session() as session:
        devices = {device.id: device for device in session.scalars(select(Device))}
        rows = session.scalars(select(Contribution).where(Contribution.round == 2)).all()
    assert {devices[row.device].name for row in rows} == set(HONEST)
    assert all(len(row.update) == 64 for row in rows)
    counters = {device.name: device.counter for device in devices.values()}
    assert all(counters[name] >= 2 for name in HONEST)
    assert counters["rogue-replay"] == counters["rogue-reuse"] == 1
    assert counters["rogue-borrow"] == counters["rogue-unsealed"] == 0


def test_the_evidence_tells_of_contributions_and_refusals(after_two_rounds: Federation) -> None:
    evidence.verify(after_two_rounds.registry, after_two_rounds.home.evidence_head)
    lines = [json.loads(line) for line in evidence.lines(after_two_rounds.registry)]
    first, second = (line for line in lines if line["kind"] == "round")
    assert (first["version"], second["version"]) == (1, 2)
    assert len(first["contributions"]) == len(HONEST) + len(TURNCOATS)
    codes = sorted(refusal["code"] for refusal in second["refusals"])
    assert codes == sorted((ROGUES | TURNCOATS).values())


def test_status_shows_what_a_rogue_wrote_without_obeying_it(after_two_rounds: Federation) -> None:
    done = run_cli("server", "status", "--home", str(after_two_rounds.home.root), env={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "[/bold]" in done.stdout
    assert "\x1b" not in done.stdout
