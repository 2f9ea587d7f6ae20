"""The folder of sounds that a listener has kept: how long they stay, and what is no sound."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from common.files import StorageError
from fl_client.heard import HeardFolder
from tests.fl_client.kept_sounds import heard

SECOND = np.arange(16_000, dtype=np.int16)


def test_the_oldest_make_room_and_the_old_go(tmp_path: Path) -> None:
    folder = HeardFolder(tmp_path / "heard")
    now = datetime.now(UTC)
    for number in range(10):
        folder.add(heard(number, time=now - timedelta(days=number)), SECOND)
    size = sum(path.stat().st_size for path in (tmp_path / "heard").iterdir())
    assert folder.trim(size, 100) == size
    assert folder.trim(size, 6.5) <= size
    assert [int(one.id, 16) for one in folder] == [6, 5, 4, 3, 2, 1, 0]
    assert folder.trim(100_000, 100) <= 100_000
    assert [int(one.id, 16) for one in folder] == [2, 1, 0]
    assert len(list((tmp_path / "heard").iterdir())) == 6


def test_a_sound_that_was_cut_off_or_changed_is_none(tmp_path: Path) -> None:
    folder = HeardFolder(tmp_path)
    for number in range(3):
        folder.add(heard(number), SECOND)
    paths = [folder.sound(f"{number:016x}") for number in range(3)]
    paths[0].write_bytes(paths[0].read_bytes()[:20_000])
    paths[1].with_suffix(".json").unlink()
    assert [int(one.id, 16) for one in folder] == [2]
    assert folder.find("../../etc/passwd") is None
    assert folder.samples("0" * 16) is None


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None])
def test_nothing_is_heard_of_a_score_that_is_no_number(score: float | None) -> None:
    with pytest.raises(ValidationError):
        heard(1, score=score)


class TestAClockThatIsWrong:
    """Sounds of 1970, when nobody had set the clock, and of ten years ahead."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> HeardFolder:
        folder = HeardFolder(tmp_path / "heard")
        now = datetime.now(UTC)
        times = (datetime(1970, 1, 2, tzinfo=UTC), now + timedelta(days=3650), now)
        for number, when in enumerate(times):
            folder.add(heard(number, time=when), SECOND)
        return folder

    def test_none_goes_before_its_age_is_known(self, folder: HeardFolder) -> None:
        folder.trim(1e9, 30)
        assert len(list(folder)) == 3

    def test_all_age_from_when_it_is_set(self, folder: HeardFolder) -> None:
        before = datetime.now(UTC)
        folder.date_anew(of_the_future=True)
        times = {int(one.id, 16): one.time for one in folder}
        assert before <= times[0] == times[1] <= datetime.now(UTC)
        assert times[2] < before
        assert folder.samples(f"{0:016x}") is not None
        assert folder.trim(1e9, 1e-9) == 0

    def test_those_of_the_future_may_be_right(self, folder: HeardFolder) -> None:
        future = folder.find(f"{1:016x}")
        folder.date_anew(of_the_future=False)
        assert folder.find(f"{1:016x}") == future

    def test_none_is_dated_by_a_clock_that_is_not_set(
        self, folder: HeardFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times = [one.time for one in folder]

        class Unset(datetime):
            @classmethod
            def now(cls, tz: object = None) -> Unset:
                return cls(1970, 1, 3, tzinfo=UTC)

        monkeypatch.setattr("fl_client.heard.datetime", Unset)
        folder.date_anew(of_the_future=True)
        folder.trim(1e9, 1)
        assert [one.time for one in folder] == times


class TestEmptying:
    def test_what_was_heard_before_is_not_kept_after(self, tmp_path: Path) -> None:
        folder = HeardFolder(tmp_path / "heard")
        before = heard(1)
        assert folder.clear() == 0
        assert not folder.add(before, SECOND)
        assert folder.add(heard(2), SECOND)
        assert [int(one.id, 16) for one in folder] == [2]

    def test_a_clock_that_was_ahead_does_not_keep_out_what_comes(self, tmp_path: Path) -> None:
        folder = HeardFolder(tmp_path / "heard")
        (tmp_path / "heard.lock").write_text((datetime.now(UTC) + timedelta(days=3650)).isoformat())
        assert folder.add(heard(1), SECOND)


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    root = tmp_path / "heard"
    root.symlink_to(root)
    folder = HeardFolder(root)
    for use in (lambda: list(folder), folder.damaged, folder.clear, lambda: folder.trim(1, 1)):
        with pytest.raises(StorageError, match="FA-8001"):
            use()
