"""The device's link process: takes part in rounds and brings releases home. Loads no torch.

Run as `python -m fl_client.link_process HOME [--insecure-loopback]`. The first line of standard input is
the password of the keys, empty if file mode protects them. The process ends when standard input does, so it
cannot be orphaned.
"""

from __future__ import annotations

import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.errors import FedAudioError
from common.files import StorageError, is_there
from common.log import configure_logging
from common.parent import wait_for_end_of_input
from fl_client.answers import Answering
from fl_client.app import make_client_app
from fl_client.connection import UnreachableError
from fl_client.device import Device
from fl_client.enrol import complete
from fl_client.home import DeviceHome
from fl_client.identity import ledger_key
from fl_client.ledger import open_ledger
from fl_client.link import stay_linked
from fl_client.link_status import LinkStatus
from fl_client.objections import download_objection, standing_objection
from fl_client.release_feed import follow_releases
from fl_client.renewal import is_due, renew
from fl_client.store import ModelStore
from fl_client.supervisor import INSECURE
from fl_client.training_process import TrainingProcess

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the link looks whether its certificate was replaced, or must be."""

TRUST_SECONDS = 3600.0
"""How often it asks for a newer trust statement without a cause."""


def main() -> None:
    """Stay linked until asked to stop."""
    home, insecure = DeviceHome(Path(sys.argv[1])), INSECURE in sys.argv[2:]
    configure_logging()
    password = sys.stdin.readline().strip().encode() or None
    link = _Link(home, password, insecure)
    signal.signal(signal.SIGTERM, lambda number, frame: link.end())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(link.end,), daemon=True).start()
    try:
        sys.exit(link.run())
    except FedAudioError as error:
        log.error("%s", error)
        sys.exit(error.status)


class _Link:
    """The parts of the link, which end together."""

    def __init__(self, home: DeviceHome, password: bytes | None, insecure: bool) -> None:
        self._home, self._password, self._insecure = home, password, insecure
        self._stop, self._failed = threading.Event(), threading.Event()
        self._training: TrainingProcess | None = None
        self._status = LinkStatus(home.link_status, lambda: bool(self._training and self._training.running))

    def end(self) -> None:
        """Stop, also in the middle of an order."""
        self._stop.set()
        if self._training:
            self._training.abort()

    def run(self) -> int:
        """Work until `end`, and return the exit status.

        Raises:
            FedAudioError: the device cannot work as it is.
        """
        self._beside(partial(_keep_status, self._status, self._stop))
        if not self._await_enrolment():
            return 0
        device = Device(self._home, self._password, insecure=self._insecure)
        number, idle_seconds = device.identity().device, device.settings.worker_idle_seconds
        key = ledger_key(self._home, self._password)
        ledger = open_ledger(self._home, key)
        standing = partial(standing_objection, self._home, ledger)
        self._training = TrainingProcess(self._home, number, key, idle_seconds, standing)
        answering = Answering(self._home, device.outlet(), ledger, self._training.answer)
        store = ModelStore(self._home.models, self._home.marks, self._home.trial)
        self._beside(partial(self._keep_certificate, device))
        self._beside(
            partial(
                follow_releases,
                device.client,
                number,
                device.trust.newest_valid,
                store,
                self._stop,
                self._status.downloaded,
                clock=device.clock,
                objection=partial(download_objection, self._home),
            )
        )

        def answer(plan: bytes, weights: bytes) -> bytes:
            try:
                return answering.answer(plan, weights)
            finally:
                self._status.answered()

        try:
            stay_linked(
                device.access,
                make_client_app(answer),
                self._stop,
                self._status.linked,
                reload=device.changed,
                on_refusal=self._status.refused,
            )
        finally:
            self._training.close()
        return 1 if self._failed.is_set() else 0

    def _await_enrolment(self) -> bool:
        """Ask until the device is approved, less and less often: whether it is."""
        tries = 0
        while is_there(self._home.application) and not self._stop.is_set():
            try:
                if complete(self._home, self._password, insecure=self._insecure).state == "active":
                    log.info("the device is enrolled")
                    break
                log.info("the device waits for the approval of the coordinator's operator")
            except FedAudioError as error:
                log.warning("the device is not enrolled yet: %s", error)
                if not isinstance(error, UnreachableError):
                    self._status.refused(error)
            self._stop.wait(_pause(tries))
            tries += 1
        return not self._stop.is_set()

    def _keep_certificate(self, device: Device) -> None:
        """Renew in time, end rotations that were cut short, and take over what others have put there."""
        tries, not_before, asked = 0, 0.0, time.monotonic()
        while not self._stop.wait(LOOK_SECONDS):
            try:
                device.reload()
                if time.monotonic() - asked > TRUST_SECONDS:
                    asked = time.monotonic()
                    device.trust.newest()
                if time.monotonic() < not_before or not is_due(self._home, device.identity()):
                    continue
                renew(self._home, self._password, device.client, if_due=True)
                log.info("the device has a new certificate")
                tries = 0
            except (FedAudioError, OSError) as error:
                log.warning("the certificate was not renewed: %s", error)
                if isinstance(error, FedAudioError) and not isinstance(error, UnreachableError):
                    self._status.refused(error)
                not_before = time.monotonic() + 10 * _pause(tries)
                tries += 1

    def _beside(self, work: Callable[[], None]) -> None:
        """Do `work` in a thread of its own."""

        def help_along() -> None:
            try:
                work()
            except Exception:
                # Half a link is worse than one that the supervisor starts again.
                log.exception("a part of the link has failed, so the link ends")
                self._failed.set()
                self.end()

        threading.Thread(target=help_along, daemon=True).start()


def _pause(tries: int) -> float:
    """Seconds, with jitter: a minute at most."""
    return random.uniform(0.5, 1.0) * min(60.0, 2.0 ** min(tries + 1, 8))  # noqa: S311


def _end_with_parent(end: Callable[[], None]) -> None:
    wait_for_end_of_input()
    end()


def _keep_status(status: LinkStatus, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            status.write()
        except StorageError:
            # A full disk must not end the link; the release feed reports it in words.
            stop.wait(10)
        stop.wait(1.0)


if __name__ == "__main__":
    main()
