"""An enrolled device at work: its settings, who it is, what it trusts, and its way to the coordinator."""

from __future__ import annotations

import threading

from cryptography.hazmat.primitives.asymmetric import ec

from common.files import read_if_there
from common.settings import load_settings
from fl_client.connection import Access, Clock, learn_time, make_client, pinned_context
from fl_client.home import DeviceHome
from fl_client.identity import Identity
from fl_client.sealing import BareOutlet, Outlet, SealedOutlet
from fl_client.settings import DeviceSettings
from fl_client.trusted import KnownTrust


class Device:
    """What the parts of the link share. Many threads may use it.

    Args:
        password: of the keys, as `KeyFolder.unlock` derives it; None when file mode protects them.
        insecure: no TLS, plans not signed, answers not sealed; on this machine only.

    Raises:
        FedAudioError: as `Identity.load`; FA-4009, `insecure` with a coordinator on another machine.
    """

    def __init__(self, home: DeviceHome, password: bytes | None = None, *, insecure: bool = False) -> None:
        self.home, self._password, self._insecure = home, password, insecure
        self.settings = load_settings(DeviceSettings, home.config)
        self.clock = Clock()
        self._certificate = read_if_there(home.certificate) or b""
        self._identity = Identity.load(home, password)
        self.client = make_client(self.settings, self._identity.trust, insecure=insecure)
        self.trust = KnownTrust(home, self._identity.coordinator, self.client, self.clock)
        self.changed = threading.Event()
        """Set when the device has another certificate, and so perhaps other keys."""

    def identity(self) -> Identity:
        """Who the device is now."""
        return self._identity

    def reload(self) -> None:
        """Take over what a renewal or a rotation, also one by another process, has put on the disk.

        Raises:
            FedAudioError: as `Identity.load`.
        """
        certificate = self.home.certificate.read_bytes()
        if certificate != self._certificate:
            self._identity = Identity.load(self.home, self._password)
            self._certificate = certificate
            self.changed.set()

    def access(self) -> Access:
        """The way in for the device's Flower node, by the coordinator's clock of this moment.

        Raises:
            DeviceError: FA-4012..FA-4016, the coordinator is away, refuses, or its clock is another.
        """
        if self._insecure:
            fresh = ec.generate_private_key(ec.SECP256R1())
            return Access(self.settings.server, fresh, None, self.clock)
        learn_time(self.client, self.clock)
        identity = self._identity
        return Access(self.settings.server, identity.node_key, pinned_context(identity.trust), self.clock)

    def outlet(self) -> Outlet:
        """What opens plans and seals answers."""
        if self._insecure:
            return BareOutlet(self._identity.coordinator)
        return SealedOutlet(self.identity, self.trust, self.clock)
