"""A simulation's last version as a signed release, made by the code that makes a coordinator's."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.keyring import ServerKeys
from fl_server.registry import Registry
from fl_server.releases import export_release, release_folder
from fl_server.versions import Versions
from simulations.checkpoint import Checkpoint
from simulations.simulation import Simulation


def write_release(simulation: Simulation, at: Checkpoint, out: Path) -> None:
    """Put the newest version of `at` into the folder `out`, for `fedaudio client listen` and `model verify`.

    It is signed by an authority that is made for it and forgotten at once, so nobody can release another in
    its name. Noise that came from a seed protects nobody, and the release claims nothing of it.

    Raises:
        StorageError: FA-8001.
    """
    rounds = [held for held in at.rounds if held.void is None]
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".authority-") as folder:
        home = CoordinatorHome(Path(folder))
        initialise(home, simulation.settings, names=["localhost"])
        with closing(Registry(home.database)) as registry:
            versions = Versions(home, simulation.settings, registry, ServerKeys.load(home, None))
            version = versions.publish(
                at.weights,
                versions.current(),
                metrics=at.facts.metrics,
                participants=rounds[-1].participants,
                privacy=None if simulation.scenario.seeded_noise else at.facts.privacy,
                memory=at.memory.encode(),
            )
        shutil.rmtree(out, ignore_errors=True)
        export_release(release_folder(home.releases, version), home.trust, out)
