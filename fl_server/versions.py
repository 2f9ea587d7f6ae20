"""From weights to a released version: written whole, made official in the database, then given to devices.

A version gets its number, its folder and its row in one transaction that holds the database's write lock. So
the coordinator and an operator's command may publish at the same time, and a folder without a row is what a
crash has left.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.audio.golden import golden_clip
from common.errors import CoordinatorError
from common.files import is_there, make_folder, sha256, write_atomic
from common.protocol.algorithms import AlgorithmName
from common.protocol.answer import PrivacySpent
from common.protocol.release import (
    GRAPH,
    MANIFEST,
    SIGNATURE,
    WEIGHTS,
    Anchor,
    Golden,
    Graph,
    Manifest,
    Metrics,
    Release,
    describe_tensors,
    digest_of,
    load_release,
    parse_manifest,
)
from common.protocol.signed_release import numbers_of, sign_manifest
from common.protocol.tensors import Weights, encode_weights
from common.security.canonical import canonical
from common.task import Task
from fl_server import evidence
from fl_server.home import CoordinatorHome
from fl_server.keyring import ServerKeys
from fl_server.registry import Model, Registry
from fl_server.releases import ALL, release_folder, store_release
from fl_server.rollout import hand_out, no_version
from fl_server.settings import ServerSettings

log = logging.getLogger(__name__)

MEMORIES_KEPT = 3
"""Versions whose memory is kept, to go on from."""


@dataclass(frozen=True)
class _Content:
    """What a version is, whatever its number will be."""

    task: Task
    algorithm: AlgorithmName
    weights: Weights
    graph: bytes
    how: Graph
    golden: Golden
    metrics: Metrics
    participants: int
    privacy: PrivacySpent | None
    minimum_client: str


class Versions:
    """The line of released models, each the child of the one before.

    Args:
        keys: without a release key among them, versions wait for a signature from elsewhere.
    """

    def __init__(
        self, home: CoordinatorHome, settings: ServerSettings, registry: Registry, keys: ServerKeys
    ) -> None:
        self._home = home
        self._settings = settings
        self._registry = registry
        self._keys = keys

    def repair(self) -> None:
        """After a crash: drop what was written but never made official, and give out what was."""
        with self._registry.session() as session:
            newest = _newest(session)
            official = -1 if newest is None else newest.version
            for folder in self._home.releases.glob("[0-9]*"):
                if _version_of(folder) > official:
                    shutil.rmtree(folder, ignore_errors=True)
            for unfinished in self._home.releases.glob(".new-*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        if newest is not None:
            hand_out(self._home, self._registry)

    def current(self) -> Release:
        """The newest version, from disk; whether devices are given it yet does not matter."""
        newest = self._registry.model()
        if newest is None:
            return self._publish_initial()
        return self._load(newest.version)

    def publish(
        self,
        weights: Weights,
        parent: Release,
        *,
        metrics: Metrics,
        participants: int,
        privacy: PrivacySpent | None,
        memory: bytes,
        check: Callable[[], None] = lambda: None,
    ) -> int:
        """Release `weights` as the child of `parent` and return its version.

        Args:
            check: raises what must keep the version from being made. Nothing can change between it and the
                version: nobody else can write to the registry meanwhile.

        Raises:
            CoordinatorError: FA-5030 its scores are not numbers, FA-5034 another version came meanwhile, or
                what `check` raises.
            StorageError: FA-8001.
        """
        content = _Content(
            self._settings.task,
            self._settings.recipe.algorithm,
            weights,
            parent.graph,
            parent.manifest.graph,
            _golden(self._settings.task, weights),
            metrics,
            participants,
            privacy,
            self._settings.releases.minimum_client,
        )
        with self._registry.session() as session:
            newest = _newest(session)
            if newest is None or newest.version != parent.version:
                raise CoordinatorError(
                    "FA-5034",
                    f"A version was released while another was made from version {parent.version}.",
                    "Nothing is to be done: the next round goes on from the newest version.",
                )
            check()
            row = self._write(session, content, parent.version + 1, parent.version, None, memory)
        hand_out(self._home, self._registry)
        return row.version

    def rollback(self, to: int | None = None) -> Model:
        """Release the weights of a version once more as a new one, for all devices.

        Args:
            to: the version to go back to; by default the one that the newest weights were made from. The
                newest itself gets new dates by that, before it expires.

        Raises:
            CoordinatorError: FA-5007 there is no such version, FA-5033 there is none before.
            ProtocolError: FA-3001..FA-3012, FA-3044, its files are damaged.
            StorageError: FA-8001.
        """
        with self._registry.session() as session:
            newest = _newest(session)
            target = self._rollback_target(session, newest) if to is None else to
            if newest is None or session.get(Model, target) is None:
                raise no_version(target)
            old = self._load(target)
            manifest = old.manifest
            content = _Content(
                manifest.task,
                manifest.algorithm,
                old.weights,
                old.graph,
                manifest.graph,
                manifest.golden,
                manifest.metrics,
                manifest.participants,
                manifest.privacy,
                max(manifest.minimum_client, self._settings.releases.minimum_client, key=numbers_of),
            )
            memory = self.memory(target)
            row = self._write(session, content, newest.version + 1, newest.version, target, memory)
        hand_out(self._home, self._registry)
        return row

    def memory(self, version: int) -> bytes | None:
        """What was remembered when `version` was made; see `fl_server.memory`."""
        try:
            return self._memory_file(version).read_bytes()
        except FileNotFoundError:
            return None

    def _publish_initial(self) -> Release:
        import torch

        from common.models.export import export_graph
        from common.models.registry import build_model
        from common.models.weights import get_weights
        from fl_server.warm_start import read_body, warm_model

        task = self._settings.task
        model = build_model(task, torch.Generator().manual_seed(self._settings.seed))
        graph, how = export_graph(model, task)
        warm = self._home.warm_start
        weights = warm_model(task, read_body(warm, task)) if is_there(warm) else get_weights(model)
        if self._settings.recipe.trained == "head" and not is_there(warm):
            log.warning(
                "only the head is trained, on a body that has learned nothing: make the coordinator with "
                "--warm-start, or promote a release that has"
            )
        oldest = self._settings.releases.minimum_client
        content = _Content(
            task,
            self._settings.recipe.algorithm,
            weights,
            graph,
            how,
            _golden(task, weights),
            Metrics(),
            0,
            None,
            oldest,
        )
        with self._registry.session() as session:
            if _newest(session) is None:
                self._write(session, content, 0, None, None, None)
        hand_out(self._home, self._registry)
        return self._load(0)

    def _write(
        self,
        session: Session,
        content: _Content,
        version: int,
        parent: int | None,
        restores: int | None,
        memory: bytes | None,
    ) -> Model:
        """Write a version and its row; it is official when the transaction is committed."""
        data = encode_weights(content.weights)
        manifest = self._manifest(content, version, parent, restores, sha256(data))
        text, key = canonical(manifest), self._keys.release
        # What cannot be read again must not be official: there would be no way on from it.
        parse_manifest(text)
        files = {MANIFEST: text, WEIGHTS: data, GRAPH: content.graph}
        if key is not None:
            files[SIGNATURE] = sign_manifest(text, key)
        # Left by a crash: it has no row.
        shutil.rmtree(release_folder(self._home.releases, version), ignore_errors=True)
        folder = store_release(self._home.releases, version, files)
        self._remember(version, memory)
        stage = self._settings.releases.first_stage if version > 0 and restores is None else ALL
        row = Model(
            version=version,
            parent=parent,
            created=manifest.created,
            weights=manifest.weights,
            metrics=content.metrics.model_dump_json(),
            participants=content.participants,
            privacy=content.privacy.model_dump_json() if content.privacy else None,
            signed=key is not None,
            rollout=0.0 if key is None else stage,
            restores=restores,
        )
        session.add(row)
        facts: dict[str, evidence.Fact] = {
            "version": version,
            "manifest": sha256(text),
            "weights": manifest.weights,
            "percent": row.rollout,
        }
        if restores is None:
            evidence.append(session, "release", **facts)
        else:
            evidence.append(session, "rollback", **facts, restores=restores)
        if key is not None:
            log.info("released version %d to %g %% of the devices", version, row.rollout)
        else:
            log.warning(
                "version %d waits for a signature: run `fedaudio server models sign` on %s where the release "
                "key is, then `fedaudio server models promote %d --signature manifest.sig` here",
                version,
                folder / MANIFEST,
                version,
            )
        return row

    def _manifest(
        self, content: _Content, version: int, parent: int | None, restores: int | None, weights: str
    ) -> Manifest:
        created = datetime.now(UTC)
        entries, head = evidence.head(self._registry)
        return Manifest(
            coordinator=self._keys.coordinator,
            version=version,
            parent=parent,
            restores=restores,
            created=created,
            expires=created + timedelta(days=self._settings.releases.valid_days),
            minimum_client=content.minimum_client,
            task=content.task,
            algorithm=content.algorithm,
            weights=weights,
            tensors=describe_tensors(content.weights),
            graph=content.how,
            golden=content.golden,
            metrics=content.metrics,
            participants=content.participants,
            privacy=content.privacy,
            evidence=Anchor(entries=entries, head=head),
        )

    def _rollback_target(self, session: Session, newest: Model | None) -> int:
        """The parent of whose weights are in use: a rollback after a rollback goes back one more."""
        in_use = newest
        while in_use is not None and in_use.restores is not None:
            in_use = session.get(Model, in_use.restores)
        if in_use is None or in_use.parent is None:
            raise CoordinatorError(
                "FA-5033", "There is no version to go back to.", "Train: fedaudio server train --rounds N"
            )
        return in_use.parent

    def _load(self, version: int) -> Release:
        return load_release(release_folder(self._home.releases, version))

    def _memory_file(self, version: int) -> Path:
        return self._home.root / "memory" / f"{version:08d}.safetensors"

    def _remember(self, version: int, memory: bytes | None) -> None:
        """Keep what is remembered beside `version`, and forget what is long past."""
        path = self._memory_file(version)
        make_folder(path.parent)
        path.unlink(missing_ok=True)
        if memory is not None:
            write_atomic(path, memory)
        for old in sorted(path.parent.glob("*.safetensors"))[:-MEMORIES_KEPT]:
            old.unlink(missing_ok=True)


def _golden(task: Task, weights: Weights) -> Golden:
    """What devices must hear when they try a version.

    Raises:
        CoordinatorError: FA-5030, its scores are not numbers.
    """
    from common.models.golden import golden_scores

    scores = golden_scores(task, weights)
    if not all(map(math.isfinite, scores)):
        raise CoordinatorError(
            "FA-5030",
            "The new model's scores are not numbers, so it is not released.",
            "The training diverges: lower the learning rate of the recipe or of the server optimiser.",
        )
    return Golden(digest=digest_of(golden_clip(task.clip_samples)), scores=scores)


def _newest(session: Session) -> Model | None:
    return session.scalar(select(Model).order_by(Model.version.desc()).limit(1))


def _version_of(folder: Path) -> int:
    return int(folder.name) if folder.name.isdecimal() else -1
