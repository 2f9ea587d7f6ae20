"""The demo itself: bring the fleet up, order rounds, judge every version on voices nobody trained on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.features import load_features
from common.data.synthetic.corpus import Kind
from common.errors import CoordinatorError
from common.files import make_folder, write_atomic
from common.protocol.plan import Privacy
from common.protocol.release import load_release
from common.results import DemoResults, Final, Initial, Listening, RoundResult
from common.task import Task
from common.training.metrics import Evaluation
from fedaudio.demo.data import DemoData, prepare
from fedaudio.demo.processes import DemoFleet
from fl_client import status as device_status
from fl_client.home import DeviceHome
from fl_server.home import CoordinatorHome
from fl_server.registry import Registry
from fl_server.releases import export_release, release_folder
from fl_server.settings import ARCHITECTURE, BABBLE, PRIVATE_ARCHITECTURE, RoundSettings, ServerSettings
from fl_server.validation import Validation
from fl_server.warm_start import find_shared_body

SWAP_SECONDS = 15.0
"""Time the devices have to take up the last version."""


@dataclass(frozen=True)
class DemoConfig:
    """What was asked for.

    Args:
        data: a collection, or the kind of synthetic corpus to make.
    """

    data: Path | Kind
    rounds: int
    devices: int
    partition: str
    dp: bool
    unseen: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What the demo came to.

    Args:
        left_out: (file, reason) of each recording that was not used.
        bytes_up, bytes_down: payload of each device, as its link counted it: all rounds, and the releases.
    """

    results: DemoResults
    left_out: tuple[tuple[str, str], ...]
    bytes_up: tuple[int, ...]
    bytes_down: tuple[int, ...]


Teller = Callable[[str], None]
"""Told in words what is being done, before the first round."""

Watcher = Callable[[float, Sequence[RoundResult], Sequence[device_status.Status]], None]
"""Told the initial accuracy, the rounds so far and the devices, a few times a second."""


def run_demo(config: DemoConfig, work: Path, out: Path | None, tell: Teller, watch: Watcher) -> Outcome:
    """Run the whole federation in `work` and return what it came to.

    Args:
        out: receives the final release (release/) and results.json.

    Raises:
        FedAudioError: anything that went wrong; the processes are ended and the logs are in `work`.
    """
    tell(f"Reading {config.data}" if isinstance(config.data, Path) else f"Making synthetic {config.data}")
    data = prepare(
        config.data,
        work,
        devices=config.devices,
        partition=config.partition,
        unseen=config.unseen,
        seed=config.seed,
    )
    architecture = PRIVATE_ARCHITECTURE if config.dp else ARCHITECTURE
    settings = ServerSettings(
        port=0,
        task=Task(labels=data.labels, clip_seconds=data.clip_seconds, architecture=architecture),
        rounds=RoundSettings(min_devices=config.devices),
        privacy=Privacy() if config.dp else None,
        seed=config.seed,
    )
    body = None
    if config.dp:
        tell("Learning from synthetic words without a meaning, once on this machine; this takes minutes")
        body = find_shared_body([BABBLE], settings.task)
    judge = Validation(load_features(data.unseen, settings.task, work / "judge"), settings.task)
    tell(f"Starting a coordinator and {config.devices} devices, each with its own clips")
    with DemoFleet(work, settings, data, config.seed, body) as fleet:
        scores = Scores(fleet, judge)
        order = Registry(fleet.server.database).place_order(config.rounds)
        while (state := scores.registry.order(order.id)).state == "open":
            fleet.check()
            scores.update()
            watch(scores.initial.accuracy, scores.rounds, _statuses(fleet.devices))
            time.sleep(0.3)
        if state.state == "failed":
            raise CoordinatorError(state.code or "FA-5004", state.happened or "", state.remedy or "")
        scores.update()
        _wait_for_devices(fleet, scores.rounds[-1].version)
        watch(scores.initial.accuracy, scores.rounds, _statuses(fleet.devices))
        statuses = _statuses(fleet.devices)
        results = _summary(config, data, scores, statuses)
        if out is not None:
            _keep(results, fleet.server, scores.rounds[-1].version, out)
    links = [status["link"] or {} for status in statuses]
    return Outcome(
        results,
        (*data.left_out, *fleet.left_out),
        tuple(int(link.get("bytes_up") or 0) for link in links),
        tuple(int(link.get("bytes_down") or 0) for link in links),
    )


class Scores:
    """Every released version, judged on the unseen speakers."""

    def __init__(self, fleet: DemoFleet, judge: Validation) -> None:
        self.registry = Registry(fleet.server.database)
        self.rounds: list[RoundResult] = []
        self._releases = fleet.server.releases
        self._judge = judge
        self.initial = self._of(0)

    def update(self) -> None:
        """Judge the versions that have come since."""
        known = {result.round for result in self.rounds}
        for row in self.registry.rounds():
            if row.state != "done" or row.version is None or row.round in known:
                continue
            result = self._of(row.version)
            self.rounds.append(
                RoundResult(
                    round=row.round,
                    version=row.version,
                    accuracy_unseen=result.accuracy,
                    loss=result.loss,
                    seconds=row.seconds,
                    overhead_seconds=row.overhead_seconds,
                    bytes_up=row.bytes_up,
                    bytes_down=row.bytes_down,
                    participants=row.participants,
                    failed=row.failed,
                )
            )

    def _of(self, version: int) -> Evaluation:
        return self._judge.evaluate(load_release(release_folder(self._releases, version)).weights)


def _statuses(devices: Sequence[DeviceHome]) -> list[device_status.Status]:
    return [device_status.describe(home) for home in devices]


def _wait_for_devices(fleet: DemoFleet, version: int) -> None:
    """Give every listener time to hear with `version`, and then every link to count what that took."""
    _wait(fleet, lambda status: (status["listener"] or {}).get("version") == version)
    swapped = time.time()
    _wait(fleet, lambda status: float((status["link"] or {}).get("time") or 0) > swapped)


def _wait(fleet: DemoFleet, condition: Callable[[device_status.Status], bool]) -> None:
    """Until `condition` holds for every device, or `SWAP_SECONDS` are over."""
    deadline = time.monotonic() + SWAP_SECONDS
    while not all(condition(status) for status in _statuses(fleet.devices)):
        fleet.check()
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)


def _summary(
    config: DemoConfig, data: DemoData, scores: Scores, statuses: Sequence[device_status.Status]
) -> DemoResults:
    listeners = [status["listener"] or {} for status in statuses]
    newest = scores.registry.model()
    privacy = None
    if newest is not None:
        privacy = load_release(release_folder(scores._releases, newest.version)).manifest.privacy

    def total(key: str) -> int:
        return sum(int(listener.get(key) or 0) for listener in listeners)

    return DemoResults(
        config={
            "data": str(config.data) if isinstance(config.data, Path) else f"synthetic {config.data}",
            "rounds": config.rounds,
            "devices": config.devices,
            "partition": config.partition,
            "dp": config.dp,
            "seed": config.seed,
            "clip_seconds": data.clip_seconds,
        },
        speakers=data.speakers,
        initial=Initial(accuracy_unseen=scores.initial.accuracy),
        rounds=tuple(scores.rounds),
        final=Final(
            accuracy_unseen=scores.rounds[-1].accuracy_unseen,
            epsilon=privacy.epsilon if privacy else None,
            delta=privacy.delta if privacy else None,
            unit=privacy.unit if privacy else None,
        ),
        listening=Listening(
            hops=total("hops"),
            dropped=total("dropped"),
            doubled=total("doubled"),
            swaps=total("swaps"),
            max_gap_seconds=max(float(listener.get("max_gap_seconds") or 0.0) for listener in listeners),
            events=total("events"),
        ),
    )


def _keep(results: DemoResults, server: CoordinatorHome, version: int, out: Path) -> None:
    make_folder(out)
    shutil.rmtree(out / "release", ignore_errors=True)
    export_release(release_folder(server.releases, version), server.trust, out / "release")
    write_atomic(out / "results.json", results.model_dump_json(indent=1).encode())
