"""Where a device keeps its things."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from fl_client.marks import CERTIFICATE, MARKS


@dataclass(frozen=True)
class DeviceHome:
    """device.toml, policy.toml, identity/, witness/, clips/, models/, kept/, heard/, cache/, reports."""

    root: Path

    @classmethod
    def find(cls, given: Path | None) -> DeviceHome:
        """`given`, or $FEDAUDIO_HOME, or the platform's data directory."""
        named = given or os.environ.get("FEDAUDIO_HOME")
        return cls(Path(named) if named else platformdirs.user_data_path("fedaudio") / "device")

    @property
    def config(self) -> Path:
        return self.root / "device.toml"

    @property
    def policy(self) -> Path:
        return self.root / "policy.toml"

    @property
    def identity(self) -> Path:
        """Keys by name (`common.security.keys`): identity, node; beside them what must last."""
        return self.root / "identity"

    @property
    def certificate(self) -> Path:
        """The device's certificate, and after it that of the authority that issued it."""
        return self.identity / CERTIFICATE

    @property
    def application(self) -> Path:
        """The enrolment that is not over yet."""
        return self.identity / "enrolment.json"

    @property
    def trust(self) -> Path:
        """The newest trust statement."""
        return self.identity / "trust.fas"

    @property
    def marks(self) -> Path:
        """How far things have come that never go back; see `fl_client.marks`."""
        return self.identity / MARKS

    @property
    def clips(self) -> Path:
        return self.root / "clips"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def kept(self) -> Path:
        """What the coordinator's algorithm leaves on the device, such as a head of its own; see
        `fl_client.kept`."""
        return self.root / "kept"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def answers(self) -> Path:
        """What was sent, by the SHA-256 of the signing key and the plan; see `fl_client.answers`."""
        return self.cache / "answers"

    @property
    def ledger(self) -> Path:
        """What the device has spent: privacy, and rounds today; see `fl_client.ledger`."""
        return self.identity / "ledger.db"

    @property
    def witness(self) -> Path:
        """How far the ledger has come, unless device.toml names another file; see `fl_client.witness`."""
        return self.root / "witness" / "ledger.json"

    @property
    def link_status(self) -> Path:
        return self.root / "link.json"

    @property
    def listener_status(self) -> Path:
        return self.root / "listener.json"

    @property
    def trial(self) -> Path:
        """Which release the listener has on trial; see `fl_client.listen.trials`."""
        return self.root / "trial.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def heard(self) -> Path:
        """Sounds that the listener has kept; see `fl_client.heard`."""
        return self.root / "heard"

    @property
    def feedback(self) -> Path:
        """What the owner said about events, one line of JSON each."""
        return self.root / "feedback.jsonl"

    @property
    def clips_lock(self) -> Path:
        """Held by who uses or changes what is in `clips` and `heard`, so that what is deleted is gone."""
        return self.root / "clips.lock"

    @property
    def outlet_status(self) -> Path:
        return self.root / "outlet.json"

    @property
    def token(self) -> Path:
        """What callers of the device's own sockets must know; see `fl_client.callers`."""
        return self.root / "outlet.token"
