"""The link's handle on its training worker."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress

from common.errors import FedAudioError
from common.protocol.answer import Refusal, encode_refusal
from common.protocol.plan import parse_plan
from fl_client.frames import read_frame_until, write_frame_until
from fl_client.home import DeviceHome

log = logging.getLogger(__name__)


class TrainingProcess:
    """Starts a worker when an order comes, keeps it warm for a while, ends it when it is late or idle.

    Args:
        home: the device's folder.
        idle_seconds: how long the worker stays after an order; importing torch costs about two seconds.
    """

    def __init__(self, home: DeviceHome, idle_seconds: float) -> None:
        self._home = home
        self._idle_seconds = idle_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._idle: threading.Timer | None = None

    def answer(self, plan: bytes, weights: bytes) -> bytes:
        """The worker's answer to an order, or a refusal that says why there is none."""
        try:
            seconds = parse_plan(plan).seconds
        except FedAudioError as error:
            return _refuse(error.code, error.happened[:500])
        with self._lock:
            if self._idle:
                self._idle.cancel()
            try:
                return self._ask(plan, weights, time.monotonic() + seconds)
            finally:
                self._idle = threading.Timer(self._idle_seconds, self.close)
                self._idle.daemon = True
                self._idle.start()

    def close(self) -> None:
        """End the worker, if there is one."""
        with self._lock:
            self._end()

    def abort(self) -> None:
        """Kill the worker at once, also in the middle of an order, which is then refused."""
        process = self._process
        if process is not None:
            process.kill()

    @property
    def running(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    def _ask(self, plan: bytes, weights: bytes, deadline: float) -> bytes:
        process = self._started()
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            return _refuse("FA-4003", "The training process has no pipes.")
        try:
            write_frame_until(stdin.fileno(), plan, deadline)
            write_frame_until(stdin.fileno(), weights, deadline)
            answer = read_frame_until(stdout.fileno(), deadline)
        except TimeoutError:
            self._end()
            return _refuse("FA-4002", "Training was not done when the time for the round was over.")
        except OSError:
            answer = None
        if answer is None:
            # It has closed its pipes, which a process that hangs may do too.
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            self._end()
            status = process.returncode
            log.error("the training process died with status %d", status)
            return _refuse("FA-4003", f"The training process died with status {status}.")
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fl_client.worker", str(self._home.root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            if self._process.stdin is not None:
                # A worker that does not read must not hold up the link beyond the deadline.
                os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # What the dead worker did not read is of no use to anybody.
                with suppress(OSError):
                    pipe.close()
        self._process = None


def _refuse(code: str, reason: str) -> bytes:
    return encode_refusal(Refusal(code=code, reason=reason))
