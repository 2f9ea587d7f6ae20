"""From weights to a released version: written whole, made official in the database, then given to devices."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

import torch

from common.files import make_folder, sha256, write_atomic
from common.models.export import export_graph
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.answer import PrivacySpent
from common.protocol.release import GRAPH, MANIFEST, WEIGHTS, Graph, Manifest, Metrics, Release, load_release
from common.protocol.tensors import Weights, encode_weights, schema_of
from fl_server.home import CoordinatorHome
from fl_server.registry import Model, Registry
from fl_server.releases import point_to, release_folder, store_release
from fl_server.settings import ServerSettings

log = logging.getLogger(__name__)


class Versions:
    """The line of released models, each the child of the one before."""

    def __init__(self, home: CoordinatorHome, settings: ServerSettings, registry: Registry) -> None:
        self._home = home
        self._settings = settings
        self._registry = registry

    def repair(self) -> None:
        """After a crash: drop what was written but never made official, and point to what was.

        Only for whoever holds the coordinator's lock: what another is writing looks the same.
        """
        newest = self._registry.model()
        official = -1 if newest is None else newest.version
        for folder in self._home.releases.glob("[0-9]*"):
            if _version_of(folder) > official:
                shutil.rmtree(folder, ignore_errors=True)
        for unfinished in self._home.releases.glob(".new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if newest is not None:
            point_to(self._home.releases, newest.version)

    def current(self) -> Release:
        """The newest version, from disk."""
        newest = self._registry.model()
        if newest is None:
            return self._publish_initial()
        return load_release(release_folder(self._home.releases, newest.version))

    def weights_bytes(self, version: int) -> bytes:
        """weights.safetensors of `version` as it was released."""
        return (release_folder(self._home.releases, version) / WEIGHTS).read_bytes()

    def publish(
        self,
        weights: Weights,
        parent: Release,
        *,
        metrics: Metrics,
        participants: int,
        privacy: PrivacySpent | None,
        optimizer_memory: bytes,
    ) -> int:
        """Release `weights` as the child of `parent` and return its version."""
        version = parent.version + 1
        memory = make_folder(self._home.root / "optimizer")
        write_atomic(memory / f"{version:08d}.safetensors", optimizer_memory)
        self._release(
            version,
            weights,
            parent.graph,
            parent.manifest.graph,
            parent=parent.version,
            metrics=metrics,
            participants=participants,
            privacy=privacy,
        )
        for old in sorted(memory.glob("*.safetensors"))[:-3]:
            old.unlink(missing_ok=True)
        return version

    def optimizer_memory(self, version: int) -> bytes | None:
        """What the server optimiser knew when `version` was made."""
        try:
            return (self._home.root / "optimizer" / f"{version:08d}.safetensors").read_bytes()
        except FileNotFoundError:
            return None

    def _publish_initial(self) -> Release:
        generator = torch.Generator().manual_seed(self._settings.seed)
        model = build_model(self._settings.task, generator)
        graph, how = export_graph(model, self._settings.task)
        self._release(
            0, get_weights(model), graph, how, parent=None, metrics=Metrics(), participants=0, privacy=None
        )
        return load_release(release_folder(self._home.releases, 0))

    def _release(
        self,
        version: int,
        weights: Weights,
        graph: bytes,
        how: Graph,
        *,
        parent: int | None,
        metrics: Metrics,
        participants: int,
        privacy: PrivacySpent | None,
    ) -> None:
        data = encode_weights(weights)
        manifest = Manifest(
            version=version,
            parent=parent,
            created=datetime.now(UTC),
            task=self._settings.task,
            weights=sha256(data),
            schema=schema_of(weights),
            graph=how,
            metrics=metrics,
            participants=participants,
            privacy=privacy,
        )
        text = manifest.model_dump_json(by_alias=True, indent=1).encode()
        store_release(self._home.releases, version, {MANIFEST: text, WEIGHTS: data, GRAPH: graph})
        with self._registry.session() as session:
            session.add(
                Model(
                    version=version,
                    parent=parent,
                    created=manifest.created,
                    weights=manifest.weights,
                    metrics=metrics.model_dump_json(),
                    participants=participants,
                    privacy=privacy.model_dump_json() if privacy else None,
                )
            )
        point_to(self._home.releases, version)
        log.info("released version %d", version)


def _version_of(folder: Path) -> int:
    return int(folder.name) if folder.name.isdecimal() else -1
