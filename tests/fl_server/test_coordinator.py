"""What the coordinator says of privacy, and when it refuses to go on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from common.errors import CoordinatorError
from common.privacy.accounting import compose, privacy_spent
from common.protocol.plan import Privacy
from common.protocol.release import Metrics, Release
from common.task import Task, Trigger
from fl_server.coordinator import Coordinator
from fl_server.home import CoordinatorHome
from fl_server.settings import ServerSettings

TASK = Task(labels=("a", "b"), width=8)
PRIVACY = Privacy(noise_multiplier=1.0)


def make_coordinator(folder: Path, **changes: object) -> Coordinator:
    return Coordinator(CoordinatorHome(folder), ServerSettings.model_validate({"task": TASK} | changes))


def publish(coordinator: Coordinator, base: Release) -> Release:
    """The next version, stating what the coordinator would state of it."""
    coordinator._versions.publish(
        base.weights,
        base,
        metrics=Metrics(),
        participants=1,
        privacy=coordinator._largest_spending(base),
        optimizer_memory=b"",
    )
    return coordinator._versions.current()


def test_a_release_states_the_composition_of_the_device_that_spent_most(tmp_path: Path) -> None:
    coordinator = make_coordinator(tmp_path, privacy=PRIVACY)
    little, much = privacy_spent(PRIVACY, 0.1, 10), privacy_spent(PRIVACY, 0.1, 40)
    for number, (device, spent) in enumerate([("kitchen", little), ("cellar", much), ("cellar", much)]):
        coordinator._registry.note_spending(number, device, spent)
    released = publish(coordinator, coordinator._versions.current())
    stated = released.manifest.privacy
    assert stated is not None
    assert stated.epsilon == pytest.approx(compose([much, much], PRIVACY.delta).epsilon)
    assert stated.epsilon > much.epsilon


def test_nothing_is_stated_of_a_model_with_an_ancestor_that_was_not_private(tmp_path: Path) -> None:
    plain = make_coordinator(tmp_path)
    publish(plain, plain._versions.current())
    private = make_coordinator(tmp_path, privacy=PRIVACY)
    private._registry.note_spending(1, "kitchen", privacy_spent(PRIVACY, 0.1, 10))
    child = publish(private, private._versions.current())
    assert child.manifest.privacy is None
    assert publish(private, child).manifest.privacy is None


@pytest.mark.parametrize(
    "change", [{"labels": ("b", "a")}, {"labels": ("a", "b", "c")}, {"width": 12}, {"clip_seconds": 2.0}]
)
def test_a_changed_task_is_refused_at_the_start(tmp_path: Path, change: dict[str, object]) -> None:
    make_coordinator(tmp_path)._versions.current()
    changed = make_coordinator(tmp_path, task=TASK.model_copy(update=change))
    with pytest.raises(CoordinatorError, match="FA-5012"):
        changed.serve(threading.Event())


def test_the_trigger_may_change(tmp_path: Path) -> None:
    make_coordinator(tmp_path)._versions.current()
    changed = make_coordinator(tmp_path, task=TASK.model_copy(update={"trigger": Trigger(threshold=0.9)}))
    changed._check_task(changed._versions.current())
    stop = threading.Event()
    stop.set()
    changed.serve(stop)
