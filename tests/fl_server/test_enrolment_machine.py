"""In whatever order: only active devices authenticate, no token is good twice, replays do nothing.

The machine keeps its own account of who is what. It says of every request how it must end, and after every
step compares the whole registry with the account.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.errors import FedAudioError
from common.protocol.enrolment import Enrolled, EnrolmentRequest
from common.security.certificates import device_id
from common.task import Task
from fl_server import enrolment, evidence
from fl_server.authority import DeviceAuthority
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.registry import Device, RefusalNoted, Registry, Token
from fl_server.settings import DeviceRules, ServerSettings
from fl_server.tokens import make_token
from tests.fl_server.made_devices import MadeDevice, new_node_key

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 60
NAMES = ("attic", "cellar", "hall", "kitchen", "porch")


@dataclass
class Invitation:
    """A token, as the machine knows it."""

    token: bytes
    expires: datetime
    uses: int
    users: set[bytes] = field(default_factory=set)


@dataclass
class Enrolment:
    """A device, as the machine knows it."""

    id: str
    keys: MadeDevice
    state: str
    name: str
    expires: datetime | None = None
    certificate: str = ""
    serials: list[str] = field(default_factory=list)
    former: list[MadeDevice] = field(default_factory=list)


class Fleet(RuleBasedStateMachine):
    """Operators, devices, and somebody who has recorded every request."""

    invitations = Bundle("invitations")
    devices = Bundle("devices")

    @initialize(target=invitations, approval=st.booleans())
    def begin(self, approval: bool) -> Invitation:
        self.folder = Path(tempfile.mkdtemp())
        self.home = CoordinatorHome(self.folder / "server")
        initialise(self.home, ServerSettings(task=Task(labels=("a", "b"))), names=["localhost"])
        self.registry = Registry(self.home.database)
        self.authority = DeviceAuthority.load(self.home, None)
        self.rules = DeviceRules(approval=approval, certificate_days=DAYS)
        self.now = START
        self.enrolled: dict[str, Enrolment] = {}
        self.made: list[Invitation] = []
        self.lines = 1
        self.used_keys: dict[bytes | str, str] = {}
        self.recorded: list[EnrolmentRequest | bytes] = []
        return self.invite(24 * 365, 3)

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.registry.close()
            shutil.rmtree(self.folder)

    # Requests, and what must become of them.

    def send(self, request: EnrolmentRequest | bytes) -> Enrolled:
        act: Any = enrolment.enrol if isinstance(request, EnrolmentRequest) else enrolment.renew
        answer: Enrolled = act(self.registry, self.authority, self.rules, request, self.now)
        return answer

    def attempt(self, request: EnrolmentRequest | bytes, code: str | None) -> Enrolled | None:
        """Send `request`; it must be refused with `code`, or be taken if that is None."""
        if code is not None:
            before = self.everything()
            with pytest.raises(FedAudioError, match=code):
                self.send(request)
            assert self.everything() == before
            return None
        answer = self.send(request)
        self.recorded.append(request)
        return answer

    def everything(self) -> object:
        """All that a request could change."""
        with self.registry.reading() as session:
            rows = [*session.query(Device).order_by(Device.id), *session.query(Token).order_by(Token.digest)]
        told = [line for line in evidence.lines(self.registry) if '"kind":"refused"' not in line]
        return [repr(row) for row in rows], len(told)

    def owner(self, keys: MadeDevice) -> Enrolment | None:
        """The device whose identity these keys are now."""
        return next((one for one in self.enrolled.values() if one.keys.raw == keys.raw), None)

    def is_taken(self, keys: MadeDevice, mine: str | None) -> bool:
        """Whether one of `keys` is or was in use, other than as the present key of `mine`."""
        own = self.enrolled[mine].keys if mine else None
        identity_taken = keys.raw in self.used_keys and (own is None or own.raw != keys.raw)
        return identity_taken or (
            keys.node_pem in self.used_keys and (own is None or own.node_pem != keys.node_pem)
        )

    def fate(self, invitation: Invitation, keys: MadeDevice) -> str | None:
        """The code with which an enrolment that is no repetition must be refused."""
        device = self.owner(keys)
        named = [one for one in self.enrolled.values() if one.name == keys.name and one.state != "revoked"]
        if device and device.state == "revoked":
            return "FA-5048"
        if invitation.expires < self.now:
            return "FA-5045"
        if invitation.uses == 0 or keys.raw in invitation.users:
            return "FA-5046"
        if self.is_taken(keys, device.id if device else None):
            return "FA-5049"
        return "FA-5047" if any(one is not device for one in named) else None

    def note_keys(self, device: Enrolment, keys: MadeDevice) -> None:
        device.keys = keys
        self.used_keys |= {keys.raw: device.id, keys.node_pem: device.id}

    def note_answer(self, device: Enrolment, answer: Enrolled) -> None:
        assert (answer.device, answer.state) == (device.id, device.state)
        device.certificate = answer.certificate
        if device.state == "active":
            says = self.authority.read(answer.certificate)
            assert (says.device, says.name, says.identity) == (device.id, device.name, device.keys.raw)
            assert says.ends == self.now.replace(microsecond=0) + timedelta(days=DAYS)
            device.expires = says.ends
            device.serials.append(says.serial)
        else:
            assert answer.certificate == ""

    # What people do.

    @rule(hours=st.sampled_from((0.01, 0.1, 0.5, 1, 24, 24 * 20, 24 * 50)))
    def wait(self, hours: float) -> None:
        self.now += timedelta(hours=hours)

    @rule(target=invitations, hours=st.sampled_from((0.5, 24 * 25, 24 * 200)), uses=st.integers(1, 3))
    def make_token(self, hours: float, uses: int) -> Invitation:
        return self.invite(hours, uses)

    def invite(self, hours: float, uses: int) -> Invitation:
        token = make_token(self.registry, timedelta(hours=hours), uses, self.now)
        invitation = Invitation(token, self.now + timedelta(hours=hours), uses)
        self.made.append(invitation)
        self.lines += 1
        return invitation

    @rule(target=devices, invitation=invitations, name=st.sampled_from(NAMES))
    def enrol_new(self, invitation: Invitation, name: str) -> object:
        device = self.enrol(invitation, MadeDevice(name))
        return device if device else multiple()

    @rule(
        invitation=invitations, device=devices, name=st.sampled_from((None, *NAMES)), new_node=st.booleans()
    )
    def enrol_again(self, invitation: Invitation, device: str, name: str | None, new_node: bool) -> None:
        known = self.enrolled[device]
        node = new_node_key() if new_node else known.keys.node
        self.enrol(invitation, MadeDevice(name or known.name, known.keys.identity, node))

    @rule(invitation=invitations, device=devices, name=st.sampled_from(NAMES))
    def enrol_with_former_keys(self, invitation: Invitation, device: str, name: str) -> None:
        for former in self.enrolled[device].former[-1:]:
            self.enrol(invitation, MadeDevice(name, former.identity, former.node))

    def enrol(self, invitation: Invitation, keys: MadeDevice) -> str:
        device = self.owner(keys)
        same = device is not None and (keys.name, keys.node_pem) == (device.name, device.keys.node_pem)
        if same and device and device.state != "revoked" and keys.raw in invitation.users:
            return device.id  # a repetition; see `replay`
        answer = self.attempt(keys.request(invitation.token), self.fate(invitation, keys))
        if answer is None:
            return ""
        if device is None:
            state = "pending" if self.rules.approval else "active"
            device = Enrolment(device_id(keys.raw), keys, state, keys.name)
            self.enrolled[device.id] = device
        invitation.uses -= 1
        invitation.users.add(keys.raw)
        device.name = keys.name
        self.note_keys(device, keys)
        self.note_answer(device, answer)
        self.lines += 1
        return device.id

    @rule(device=devices)
    def approve(self, device: str) -> None:
        known = self.enrolled[device]
        if known.state == "revoked":
            with pytest.raises(FedAudioError, match="FA-5048"):
                enrolment.approve(self.registry, self.authority, self.rules, device, self.now)
            return
        was = known.state
        row = enrolment.approve(self.registry, self.authority, self.rules, device, self.now)
        known.state = "active"
        if was == "pending":
            self.note_answer(known, Enrolled(state="active", device=row.id, certificate=row.certificate))
            self.lines += 1

    @rule(device=devices)
    def revoke(self, device: str) -> None:
        known = self.enrolled[device]
        enrolment.revoke(self.registry, device, "lost", self.now)
        self.lines += known.state != "revoked"
        known.state = "revoked"

    @rule(device=devices)
    def wait_until_it_has_expired(self, device: str) -> None:
        self.now = max(self.now, (self.enrolled[device].expires or self.now) + timedelta(seconds=1))

    @rule(device=devices, rotations=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=3))
    def renew(self, device: str, rotations: list[tuple[bool, bool]]) -> None:
        for identity, node in rotations:
            self.renew_once(device, identity, node)

    def renew_once(self, device: str, identity: bool, node: bool) -> None:
        """For the same keys, or for new ones."""
        known = self.enrolled[device]
        own = known.keys
        wanted = MadeDevice(
            own.name,
            Ed25519PrivateKey.generate() if identity else own.identity,
            new_node_key() if node else own.node,
        )
        serial = self.authority.read(known.certificate).serial if known.certificate else "0"
        fates = {"revoked": "FA-5048", "pending": "FA-5053"}
        code = fates.get(known.state)
        if code is None and known.expires and known.expires < self.now:
            code = "FA-5052"
        if code is None:
            self.now += timedelta(hours=1)  # no certificate is renewed that is newer
            if known.expires and known.expires < self.now:
                code = "FA-5052"
        answer = self.attempt(wanted.renewal(device, serial, signer=own), code)
        if answer is not None:
            if identity or node:
                known.former.append(own)
            self.note_keys(known, wanted)
            self.note_answer(known, answer)
            self.lines += 1
            self.try_the_old(known, own, serial)

    def try_the_old(self, known: Enrolment, former: MadeDevice, serial: str) -> None:
        """The certificate and the keys before are good for nothing new, to whoever knows the present ones."""
        present = self.authority.read(known.certificate).serial
        new = MadeDevice(known.name)
        self.attempt(new.renewal(known.id, serial, signer=known.keys), "FA-5051")
        if former.raw != known.keys.raw:
            for named in (serial, present):
                self.attempt(new.renewal(known.id, named, signer=former), "FA-5051")
                self.attempt(former.renewal(known.id, named), "FA-5051")
        for stale in known.serials[:-2]:
            self.attempt(known.keys.renewal(known.id, stale), "FA-5051")

    @rule(device=devices, other=devices)
    def take_the_keys_of_another(self, device: str, other: str) -> None:
        known, robbed = self.enrolled[device], self.enrolled[other]
        if known is robbed or known.state != "active" or known.expires is None or known.expires < self.now:
            return
        serial = self.authority.read(known.certificate).serial
        wanted = MadeDevice(known.name, known.keys.identity, robbed.keys.node)
        self.attempt(wanted.renewal(device, serial), "FA-5049")

    @precondition(lambda self: self.recorded)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """Somebody sends what was sent, and taken, before: nothing changes, whatever the answer."""
        request = data.draw(st.sampled_from(range(len(self.recorded))), label="which")
        before = self.everything()
        try:
            answer = self.send(self.recorded[request])
        except FedAudioError:
            pass
        else:
            known = self.enrolled[answer.device]
            assert known.state != "revoked"
            assert answer.certificate == known.certificate
        assert self.everything() == before

    # What must be so at any time.

    @invariant()
    def only_active_devices_authenticate(self) -> None:
        for device in getattr(self, "enrolled", {}).values():
            good = device.state == "active" and device.expires is not None and device.expires >= self.now
            if good:
                assert self.registry.active_device(device.id, self.now).id == device.id
            else:
                with pytest.raises(FedAudioError, match=r"FA-50(48|52|53)"):
                    self.registry.active_device(device.id, self.now)

    @invariant()
    def the_registry_agrees(self) -> None:
        if not hasattr(self, "registry"):
            return
        rows = {row.id: row for row in self.registry.devices()}
        assert rows.keys() == self.enrolled.keys()
        for known in self.enrolled.values():
            row = rows[known.id]
            assert (row.name, row.state) == (known.name, known.state)
            assert (row.identity, row.node_key) == (known.keys.raw.hex(), known.keys.node_pem)
        with self.registry.reading() as session:
            left = {row.digest: row.uses for row in session.query(Token)}
        assert sorted(left.values()) == sorted(invitation.uses for invitation in self.made)

    @invariant()
    def the_evidence_is_whole(self) -> None:
        if hasattr(self, "registry"):
            refused = [json.loads(line) for line in evidence.lines(self.registry) if '"refused"' in line]
            entries = evidence.verify(self.registry, self.home.evidence_head).entries
            assert entries == self.lines + len(refused)
            with self.registry.reading() as session:
                asked = session.query(RefusalNoted).count()
            # At most one in an hour about each device or token, and code.
            hours = 1 + (self.now - START) // timedelta(hours=1)
            assert asked <= len(refused) <= asked * hours


Fleet.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
test_the_fleet_whatever_happens = Fleet.TestCase


# Slow, for it is the same once more, with ten times as many stories.
@pytest.mark.slow
def test_the_fleet_whatever_happens_and_more() -> None:
    run_state_machine_as_test(
        Fleet, settings=settings(max_examples=400, stateful_step_count=40, deadline=None)
    )
