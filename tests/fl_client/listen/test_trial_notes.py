"""What is noted of trials, and what a follower makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_client.listen.events import MAIN
from fl_client.listen.following import Follower
from fl_client.listen.room import Room
from fl_client.listen.trials import Trials, read_note
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release
from tests.made_manifests import put


class TestWhatIsNoted:
    """Of a room that begins with version 1, and tries 2."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "room" / "trial.json"

    @pytest.fixture
    def trials(self, path: Path) -> Trials:
        path.parent.mkdir()
        found = Trials(path)
        found.settle(make_release(1).release, proved=True, shadowed=False)
        found.begin(make_release(2).release)
        return found

    def test_nothing_is_tried_any_more_once_it_has_ended(self, trials: Trials, path: Path) -> None:
        trials.end()
        trials.begin(make_release(2).release)
        trials.settle(make_release(2).release, proved=False, shadowed=True)
        assert Trials(path).died is None

    def test_what_fails_is_noted_to_the_last(self, trials: Trials, path: Path) -> None:
        trials.end()
        trials.fail(make_release(2).release, "at last")
        assert [one.version for one in read_note(path).failed] == [2]

    def test_what_a_full_disk_did_not_take_is_written_when_there_is_room(
        self, trials: Trials, path: Path
    ) -> None:
        path.unlink()
        path.parent.rmdir()
        path.parent.touch()
        for _ in range(3):
            trials.settle(make_release(2).release, proved=True, shadowed=False)
        path.parent.unlink()
        path.parent.mkdir()
        trials.settle(make_release(2).release, proved=True, shadowed=False)
        assert Trials(path).proved == 2

    def test_who_hangs_is_alone_to_blame(self, store: ModelStore, tmp_path: Path) -> None:
        put(store, make_release(1).files)
        rooms = [Room(name, store, trial_path=tmp_path / f"{name}.json") for name in (MAIN, "scene")]
        followers = [Follower(room, alone=False) for room in rooms]
        for follower in followers:
            assert follower.begin() is not None
        manifest = make_release(1).release.manifest
        followers[0].hangs(manifest)
        followers[1].hangs(make_release(9).release.manifest)
        notes = [read_note(tmp_path / f"{room.name}.json") for room in rooms]
        assert [[one.version for one in note.failed] for note in notes] == [[1], []]
        again = [Follower(room, alone=False) for room in rooms]
        assert [follower.begin() is not None for follower in again] == [False, True]
        assert Follower(rooms[0]).begin() is not None  # alone, it is better than nothing
