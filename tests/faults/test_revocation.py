"""A device that is revoked in the middle of a round: from then on it is nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from fl_server import evidence
from fl_server.enrolment import revoke
from fl_server.registry import Device
from fl_server.tables import Contribution, failures_of
from tests.processes import Federation

ANSWER_SECONDS = 20


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    rounds = {"min_devices": 1, "answer_seconds": ANSWER_SECONDS, "evaluate": False}
    with Federation(tmp_path, {"rounds": rounds}) as federation:
        federation.start_server()
        federation.start_light_devices("devices", "kitchen=honest", "cellar=slow")
        federation.wait_online(2)
        yield federation


def id_of(federation: Federation, name: str) -> str:
    with federation.registry.session() as session:
        return session.scalars(select(Device.id).where(Device.name == name)).one()


def contributors(federation: Federation, number: int) -> set[str]:
    with federation.registry.session() as session:
        rows = session.scalars(select(Contribution).where(Contribution.round == number))
        return {session.get_one(Device, row.device).name for row in rows}


def test_revoked_in_the_middle_of_a_round(federation: Federation) -> None:
    assert federation.train(1).state == "done"
    assert contributors(federation, 1) == {"kitchen", "cellar"}

    order = federation.registry.place_order(1)
    federation.wait(lambda: len(federation.registry.rounds()) == 2, "a round")
    revoke(federation.registry, id_of(federation, "cellar"), "stolen")
    assert federation.finish(order).state == "done"
    row = federation.last_round()
    assert (row.cohort, row.participants) == (2, 1)
    (failure,) = failures_of(row)
    assert failure["who"] == "cellar"
    # The front lets it in no more, or its answer was on its way already.
    assert failure["code"] in {"FA-5005", "FA-5048"}
    assert contributors(federation, 2) == {"kitchen"}
    assert row.seconds < ANSWER_SECONDS + 5

    assert federation.train(1).state == "done"
    assert federation.last_round().cohort == 1
    lines = [json.loads(line) for line in evidence.lines(federation.registry)]
    kinds = [line["kind"] for line in lines]
    assert kinds.index("revoked") < max(place for place, kind in enumerate(kinds) if kind == "round")
    evidence.verify(federation.registry, federation.home.evidence_head)
