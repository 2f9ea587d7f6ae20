"""Orders as the link takes them: trusted, new, agreed to; and answers that only the coordinator can read."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DeviceError, ProtocolError
from common.files import sha256
from common.protocol.answer import Refusal, decode_answer
from common.protocol.plan import parse_plan, sign_plan
from common.security.canonical import canonical
from common.security.envelope import open_envelope, parse_envelope
from common.security.keys import KeyFolder
from common.security.sealing import OpeningKey, Suite
from common.security.statement import raw_public, sign_statement
from common.security.trust import EnvelopeKey, Trust
from fl_client.answers import KEPT_ANSWERS, Answering
from fl_client.conditions import Conditions
from fl_client.home import DeviceHome
from fl_client.marks import read_marks
from fl_client.sealing import BareOutlet, SealedOutlet
from tests.fl_client.made_identity import Made, make_home
from tests.processes import ROOT

WEIGHTS = os.urandom(500)
ANSWER = b"the worker's answer"


class Ring:
    """Trust that changes when it is asked for."""

    def __init__(self, now: Trust, later: Trust | None = None) -> None:
        self.trust, self._later = now, later or now

    def current(self) -> Trust:
        return self.trust

    def newest(self) -> Trust:
        self.trust = self._later
        return self.trust


class SetClock:
    """A clock that is wrong by a known amount."""

    def __init__(self, wrong_by: timedelta = timedelta()) -> None:
        self._wrong_by = wrong_by

    def now(self) -> datetime:
        return datetime.now(UTC) + self._wrong_by


class Bench:
    """A device's link without a network: what goes in, what comes out, what was worked on."""

    def __init__(self, made: Made, later: Trust | None = None, clock: timedelta = timedelta()) -> None:
        self.made = made
        self.worked: list[bytes] = []
        identity = made.identity
        self.outlet = SealedOutlet(lambda: identity, Ring(identity.trust, later), SetClock(clock))  # type: ignore[arg-type]
        self.answering = Answering(made.home, self.outlet, made.ledger, self._work)

    def _work(self, plan: bytes, weights: bytes) -> bytes:
        self.worked.append(plan)
        return ANSWER

    def plan(self, **changes: object) -> bytes:
        return self.made.authority.signed_plan(**{"base": sha256(WEIGHTS)} | changes)

    def answer(self, plan: bytes, weights: bytes = WEIGHTS) -> bytes:
        return self.answering.answer(plan, weights)

    def opened(self, sealed: bytes, key: OpeningKey | None = None) -> bytes:
        signer = raw_public(self.made.identity.signing_key)
        return open_envelope(parse_envelope(sealed, 10_000), signer, key or self.made.authority.opening)

    def refused(self, plan: bytes, weights: bytes = WEIGHTS) -> str:
        """The code of the sealed refusal that `plan` gets; nothing was worked on."""
        before = len(self.worked)
        refusal = decode_answer(self.opened(self.answer(plan, weights)), {})
        assert isinstance(refusal, Refusal)
        assert refusal.reason
        assert len(self.worked) == before
        return refusal.code


@pytest.fixture
def bench(made: Made) -> Bench:
    return Bench(made)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """For a test with too many examples to make a device for each; it answers nothing."""
    return Bench(make_home(tmp_path_factory.mktemp("lasting")))


def test_an_answer_is_for_the_coordinator_and_bound_to_its_plan(bench: Bench) -> None:
    plan = bench.plan(round=3)
    sealed = bench.answer(plan)
    assert ANSWER not in sealed
    assert bench.opened(sealed) == ANSWER
    (body,) = bench.worked
    read = parse_plan(body)
    assert read.round == 3
    binding = parse_envelope(sealed, 10_000).binding
    assert (binding.run.hex(), binding.round, binding.device.hex()) == (read.run, 3, bench.made.device)
    assert binding.plan == hashlib.sha256(plan).digest()
    assert binding.base == hashlib.sha256(WEIGHTS).digest()
    assert (binding.not_after, binding.counter) == (read.expires, 1)


def test_the_bare_outlet_adds_nothing(made: Made) -> None:
    bench = Bench(made)
    bench.answering = Answering(made.home, BareOutlet(made.authority.pin), made.ledger, bench._work)
    plan = canonical(made.authority.plan_for(base=sha256(WEIGHTS)))
    assert bench.answer(plan) == ANSWER
    other = canonical(made.authority.plan_for(base=sha256(WEIGHTS), coordinator="0" * 64, round=2))
    refusal = decode_answer(bench.answer(other), {})
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FA-4020"


class TestTrusted:
    def test_another_signer(self, bench: Bench) -> None:
        other = sign_plan(bench.made.authority.plan_for(base=sha256(WEIGHTS)), Ed25519PrivateKey.generate())
        assert bench.refused(other) == "FA-3017"

    def test_a_release_key_signs_no_plans(self, bench: Bench) -> None:
        other = sign_plan(bench.made.authority.plan_for(base=sha256(WEIGHTS)), bench.made.authority.release)
        assert bench.refused(other) == "FA-3017"

    def test_another_kind_of_statement(self, bench: Bench) -> None:
        authority = bench.made.authority
        body = canonical(authority.plan_for(base=sha256(WEIGHTS)))
        assert bench.refused(sign_statement("release", body, authority.plan)) == "FA-3018"

    def test_another_coordinator(self, bench: Bench) -> None:
        assert bench.refused(bench.plan(coordinator="0" * 64)) == "FA-4020"

    def test_a_key_that_the_root_does_not_vouch_for(self, bench: Bench) -> None:
        assert (
            bench.refused(bench.plan(recipient=OpeningKey.generate(Suite.HYBRID).public.id.hex()))
            == "FA-4023"
        )

    @settings(max_examples=200)
    @given(st.data())
    def test_a_changed_bit_anywhere(self, lasting: Bench, data: st.DataObject) -> None:
        plan = bytearray(lasting.plan())
        at = data.draw(st.integers(0, 8 * len(plan) - 1))
        plan[at // 8] ^= 1 << at % 8
        with pytest.raises((ProtocolError, DeviceError)):
            lasting.outlet.open(bytes(plan))

    @pytest.mark.parametrize("plan", [b"", b"x", b"FAS1", bytes(76), bytes(2 << 20)])
    def test_what_is_no_plan_at_all(self, bench: Bench, plan: bytes) -> None:
        sealed = bench.answer(plan)
        binding = parse_envelope(sealed, 10_000).binding
        assert (binding.run, binding.round) == (bytes(8), 0)
        assert binding.plan == hashlib.sha256(plan).digest()
        assert bench.refused(plan) in {"FA-3005", "FA-3016"}

    def test_a_rotated_plan_key_is_asked_for(self, made: Made) -> None:
        following = Ed25519PrivateKey.generate()
        newer = made.authority.make_trust(serial=2, plan=(raw_public(following).hex(),))
        bench = Bench(made, later=newer)
        plan = sign_plan(made.authority.plan_for(base=sha256(WEIGHTS)), following)
        assert bench.opened(bench.answer(plan)) == ANSWER

    def test_a_rotated_envelope_key_is_asked_for(self, made: Made) -> None:
        following = OpeningKey.generate(Suite.X25519)
        entry = EnvelopeKey(suite=Suite.X25519, key=following.public.raw.hex())
        bench = Bench(made, later=made.authority.make_trust(serial=2, envelope=(entry,)))
        sealed = bench.answer(bench.plan(recipient=following.public.id.hex()))
        assert bench.opened(sealed, following) == ANSWER


class TestClocks:
    @pytest.mark.parametrize("minutes", [-10, 10])
    def test_ten_minutes_are_nothing(self, made: Made, minutes: int) -> None:
        bench = Bench(made, clock=timedelta(minutes=minutes))
        assert bench.opened(bench.answer(bench.plan(expires=int(time.time()) + 30))) == ANSWER

    @pytest.mark.parametrize("years", [-10, 10])
    def test_ten_years_are_refused(self, made: Made, years: int) -> None:
        bench = Bench(made, clock=timedelta(days=365 * years))
        assert bench.refused(bench.plan()) == "FA-4021"

    def test_an_expired_plan(self, bench: Bench) -> None:
        assert bench.refused(bench.plan(expires=int(time.time()) - 3600)) == "FA-4021"

    def test_the_owner_is_told_of_the_clock(self, bench: Bench) -> None:
        with pytest.raises(DeviceError, match="clock"):
            bench.outlet.open(bench.plan(expires=0))


class TestReplay:
    def test_the_same_plan_gets_the_same_bytes_and_no_second_training(self, bench: Bench) -> None:
        plan = bench.plan()
        first = bench.answer(plan)
        assert bench.answer(plan) == first
        assert Bench(bench.made).answer(plan) == first  # after a restart
        assert len(bench.worked) == 1

    def test_another_plan_for_a_round_that_was_taken_on(self, bench: Bench) -> None:
        bench.answer(bench.plan(round=5))
        for number in (5, 4, 0):
            assert bench.refused(bench.plan(round=number)) == "FA-4022"
        assert Bench(bench.made).refused(bench.plan(round=5)) == "FA-4022"

    def test_an_evaluation_comes_after_its_training(self, bench: Bench) -> None:
        bench.answer(bench.plan(round=5))
        assert bench.opened(bench.answer(bench.plan(round=5, kind="evaluate"))) == ANSWER
        assert bench.refused(bench.plan(round=5, kind="evaluate")) == "FA-4022"
        assert bench.refused(bench.plan(round=5, kind="train")) == "FA-4022"
        assert bench.opened(bench.answer(bench.plan(round=6))) == ANSWER

    def test_each_run_counts_for_itself(self, bench: Bench) -> None:
        bench.answer(bench.plan(round=5))
        assert bench.opened(bench.answer(bench.plan(round=1, run="11" * 8))) == ANSWER

    def test_a_refused_round_is_over_too(self, bench: Bench) -> None:
        bench.made.home.policy.write_text("rounds_per_day = 0\n")
        plan = bench.plan(round=2)
        assert bench.refused(plan) == "FA-4031"
        bench.made.home.policy.unlink()
        assert bench.refused(plan) == "FA-4031"
        assert bench.refused(bench.plan(round=2)) == "FA-4022"

    def test_what_was_not_trusted_is_looked_at_again(self, made: Made) -> None:
        following = Ed25519PrivateKey.generate()
        plan = sign_plan(made.authority.plan_for(base=sha256(WEIGHTS)), following)
        assert Bench(made).refused(plan) == "FA-3017"
        newer = made.authority.make_trust(serial=2, plan=(raw_public(following).hex(),))
        bench = Bench(made, later=newer)
        assert bench.opened(bench.answer(plan)) == ANSWER

    def test_few_answers_are_kept_and_only_for_their_owner(self, bench: Bench) -> None:
        plans = [bench.plan(round=number) for number in range(1, 10)]
        for plan in plans:
            bench.answer(plan)
        kept = list(bench.made.home.answers.iterdir())
        assert {path.name for path in kept} == {
            sha256(bench.outlet.signer() + plan) for plan in plans[-KEPT_ANSWERS:]
        }
        assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
        assert bench.refused(plans[0]) == "FA-4022"

    def test_what_old_keys_have_signed_is_not_sent_again(self, bench: Bench) -> None:
        plan = bench.plan(round=1)
        bench.answer(plan)
        home, before = bench.made.home, bench.made.identity
        following = Ed25519PrivateKey.generate()
        KeyFolder(home.identity, None).save("identity", following)
        home.certificate.write_bytes(
            bench.made.authority.certify("kitchen", following, before.node_key, device=before.device)
        )
        assert Bench(bench.made).refused(plan) == "FA-4022"

    def test_marks_do_not_grow_without_end(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fl_client.answers.KEPT_RUNS", 3)
        for number in range(6):
            bench.answer(bench.plan(run=f"{number:016x}"))
        assert list(read_marks(bench.made.home.marks).rounds) == [f"{number:016x}" for number in (3, 4, 5)]


class TestCounter:
    def test_it_only_ever_grows_also_over_restarts_and_refusals(self, made: Made) -> None:
        seen = []
        for number in range(1, 5):
            bench = Bench(made)
            for plan in (bench.plan(round=number), b"garbage", bench.plan(round=number)):
                seen.append(parse_envelope(bench.answer(plan), 10_000).binding.counter)
        assert seen == sorted(set(seen))

    def test_kill_9_does_not_bring_it_back(self, made: Made, tmp_path: Path) -> None:
        bench = Bench(made)
        (tmp_path / "plan").write_bytes(bench.plan(round=1))
        (tmp_path / "weights").write_bytes(WEIGHTS)
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(made.home.root), str(tmp_path)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        assert read_marks(made.home.marks).counter == 1
        # It was in the middle of the work; a second try could spend privacy twice.
        assert bench.refused((tmp_path / "plan").read_bytes()) == "FA-4022"
        after = parse_envelope(bench.answer(bench.plan(round=2)), 10_000).binding.counter
        assert after == 3

    def test_kill_9_after_the_answer_does_not_change_it(self, made: Made, tmp_path: Path) -> None:
        bench = Bench(made)
        plan = bench.plan(round=1)
        (tmp_path / "plan").write_bytes(plan)
        (tmp_path / "weights").write_bytes(WEIGHTS)
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_LATER, str(made.home.root), str(tmp_path)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        again = bench.answer(plan)
        assert again == killed.stdout
        assert bench.opened(again) == ANSWER
        assert bench.worked == []

    def test_without_marks_nothing_is_sealed(self, bench: Bench) -> None:
        bench.made.home.marks.write_bytes(b"{")
        with pytest.raises(DeviceError, match="FA-4008"):
            bench.answer(bench.plan())


KILLED = """
import os, signal, sys
from pathlib import Path
from fl_client.answers import Answering
from fl_client.home import DeviceHome
from fl_client.identity import Identity
from fl_client.sealing import SealedOutlet
from tests.fl_client.made_identity import ledger_of
from tests.fl_client.test_answers import Ring, SetClock

home, data = DeviceHome(Path(sys.argv[1])), Path(sys.argv[2])
identity = Identity.load(home, None)

def work(plan, weights):
    os.kill(os.getpid(), signal.SIGKILL)

outlet = SealedOutlet(lambda: identity, Ring(identity.trust), SetClock())
answering = Answering(home, outlet, ledger_of(home), work)
answering.answer((data / "plan").read_bytes(), (data / "weights").read_bytes())
"""


KILLED_LATER = (
    KILLED.replace("    os.kill(os.getpid(), signal.SIGKILL)", f"    return {ANSWER!r}").replace(
        "answering.answer(", "sealed = answering.answer("
    )
    + """
sys.stdout.buffer.write(sealed)
sys.stdout.buffer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
)


class TestAgreed:
    @pytest.mark.parametrize(
        ("rule", "code"),
        [
            ("require_privacy = true", "FA-4006"),
            ("least_noise = 1.0", "FA-4006"),
            (f"allowed_coordinators = ['{'0' * 64}']", "FA-4030"),
            ("rounds_per_day = 0", "FA-4031"),
            ("minimum_cohort = 11", "FA-4032"),
            ("architectures = ['ds-cnn']", "FA-4035"),
            ("maximum_bytes_down = 500", "FA-4036"),
            ("maximum_bytes_up = 500", "FA-4037"),
            ("hours = '05:00-06:00'", "FA-4038"),
            ("require_charger = true", "FA-4039"),
            ("minimum_battery_percent = 50", "FA-4040"),
            ("maximum_load = 0.5", "FA-4041"),
            ("allow_metered = false", "FA-4042"),
            ("unknown = 1", "FA-6003"),
        ],
    )
    def test_each_rule_is_a_sealed_refusal(self, bench: Bench, rule: str, code: str) -> None:
        busy = Conditions(
            datetime(2026, 6, 1, 12, tzinfo=UTC), charging=False, battery=20.0, load=2.0, metered=True
        )
        bench.answering = Answering(
            bench.made.home, bench.outlet, bench.made.ledger, bench._work, lambda: busy
        )
        bench.made.home.policy.write_text(rule + "\n")
        assert bench.refused(bench.plan(round=1)) == code
        bench.made.home.policy.unlink()
        assert bench.opened(bench.answer(bench.plan(round=2))) == ANSWER

    def test_a_round_is_counted_once(self, bench: Bench) -> None:
        bench.made.home.policy.write_text("rounds_per_day = 1\n")
        assert bench.opened(bench.answer(bench.plan(round=1))) == ANSWER
        assert bench.opened(bench.answer(bench.plan(round=1, kind="evaluate"))) == ANSWER
        assert bench.refused(bench.plan(round=2)) == "FA-4031"
        assert [entry.state for _, entry in bench.made.ledger.entries()] == ["round"]

    def test_other_weights_than_the_plan_names(self, bench: Bench) -> None:
        assert bench.refused(bench.plan(), os.urandom(500)) == "FA-3010"

    def test_no_path_is_told(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        bench.made.home.ledger.write_bytes(b"{" * 4096)
        refusal = decode_answer(bench.opened(bench.answer(bench.plan())), {})
        assert isinstance(refusal, Refusal)
        assert refusal.code == "FA-4043"
        assert "/" not in refusal.reason
        assert str(bench.made.home.root) in caplog.text  # its owner is told everything


def test_nothing_at_home_is_for_others(bench: Bench, device: DeviceHome) -> None:
    bench.answer(bench.plan())
    secret = [path for path in device.root.rglob("*") if device.clips not in (path, *path.parents)]
    for path in secret:
        assert path.stat().st_mode & 0o077 == 0 or path == device.cache, path
    assert json.loads(device.marks.read_bytes())["counter"] == 1
