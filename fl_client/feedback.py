"""What the owner says about an event: its sound becomes a labelled clip for the next round."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from common.data.clips import NOISE_FOLDERS, Clip, Imported, imported_name
from common.data.importing import sample_digest, write_clip
from common.errors import DeviceError
from common.files import locked, make_folder, read_if_there, rename, storage_error
from common.settings import load_settings
from common.task import nothing_of
from fl_client.device_clips import clips_of, delete_files, forget_features
from fl_client.device_tasks import task_homes
from fl_client.heard import Heard, HeardFolder, Samples
from fl_client.home import DeviceHome
from fl_client.listen.events import append_line
from fl_client.outlet.lines import Line, parse_line
from fl_client.settings import DeviceSettings
from fl_client.store import ModelStore

RIGHT, WRONG, LAST = "right", "wrong", "last"

LABEL = "label:"
"""Before a label that is spelled like a verdict."""


@dataclass(frozen=True)
class Feedback:
    """What became of the owner's word.

    Attributes:
        event: id of the event it is about.
        heard: the label that was reported.
        verdict: as it was given.
        label: of the clip that the event's sound is now; None if it is not used.
        task: whose event it is; its clip is in the folder of that task.
    """

    event: str
    heard: str
    verdict: str
    label: str | None
    task: str


def give_feedback(home: DeviceHome, event: str, verdict: str, speaker: str | None = None) -> Feedback:
    """Make a clip of the sound of `event`, in place of what earlier feedback on it has made.

    Args:
        home: of the device that listens. The event may be of any task that it listens for.
        event: its id in events.jsonl, or "last".
        verdict: "right"; "wrong", which makes it a clip of the task's label for what is none of the others,
            or leaves it unused where there is no such label; or the label it should have had, which may
            always be written "label:NAME", and must be where it is "right" or "wrong".
        speaker: who was heard, if that is known.

    Raises:
        ConfigError: as `task_homes`.
        DeviceError: FA-4250 its sound is not there, FA-4251 no such event, FA-4252 no such label, FA-4253 it
            could be a verdict or a label, FA-4254 there is no model.
        DataError: FA-2006, the speaker cannot be a name.
        StorageError: FA-8001.
    """
    make_folder(home.root)
    homes = task_homes(home, load_settings(DeviceSettings, home.config))
    name = _last(home) if event == LAST else event
    task = next((task for task, place in homes.items() if HeardFolder(place.heard).find(name)), None)
    if task is None:
        raise _no_sound(home, homes, name)
    place = homes[task]
    folder = HeardFolder(place.heard)
    with locked(place.clips_lock):
        heard, samples = folder.find(name), folder.samples(name)
        if heard is None or heard.kind != "event" or samples is None:
            raise _no_sound(home, homes, name)
        label = _label(verdict, heard, _labels(place))
        _place(place, heard, samples, label, speaker)
        given = Feedback(name, heard.label, verdict, label, task)
        _note(place, given, heard)
    return given


def _place(home: DeviceHome, heard: Heard, samples: Samples, label: str | None, speaker: str | None) -> None:
    """Have one clip of the sound of `heard`, and that of `label`; none if it is None."""
    before = clips_of(home.clips, heard.id)
    if label is None:
        delete_files(home, before)
        if before:
            forget_features(home)
        return
    name = imported_name(Imported(speaker, sample_digest(samples), heard.id, heard.stretch))
    path = Clip(home.clips / label / name, label, speaker).path
    if before:
        # In one step, so that at no moment it is a clip of both labels or of none.
        make_folder(path.parent, mode=0o700)
        rename(before[0], path)
        delete_files(home, [clip for clip in before if clip != path])
    else:
        write_clip(samples, path)


def _label(verdict: str, heard: Heard, labels: tuple[str, ...]) -> str | None:
    """The label that `verdict` gives to what was `heard`."""
    if verdict in {RIGHT, WRONG}:
        wanted = heard.label if verdict == RIGHT else _nothing(labels)
        if verdict in labels and verdict != wanted:
            raise DeviceError(
                "FA-4253",
                f"{verdict!r} is a label of this task, too.",
                f"Say {LABEL}{verdict} for the label; else say {LABEL}NAME with the label it should have.",
            )
        if wanted is None or wanted in labels:
            return wanted
    else:
        wanted = verdict.removeprefix(LABEL)
    if wanted not in labels:
        near = difflib.get_close_matches(wanted, labels, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Its labels are {', '.join(labels[:20])}."
        raise DeviceError("FA-4252", f"The task has no label {wanted!r}.", hint)
    return wanted


def _nothing(labels: tuple[str, ...]) -> str | None:
    """The label for what is none of the others, if clips can have it: a folder of its name may be noise."""
    label = nothing_of(labels)
    return None if label in NOISE_FOLDERS else label


def _labels(home: DeviceHome) -> tuple[str, ...]:
    release = ModelStore(home.models).load_current()
    if release is None:
        raise DeviceError(
            "FA-4254",
            f"There is no model in {home.models} whose labels a clip could have.",
            "Run `fedaudio client start` until a release has come, then try again.",
        )
    return release.manifest.task.labels


def _last(home: DeviceHome) -> str:
    newest = next(_events(home), None)
    if newest is None:
        raise DeviceError(
            "FA-4251", "No event has been reported yet.", "Wait for one, and say then what you think of it."
        )
    return str(newest["id"])


def _no_sound(home: DeviceHome, homes: Mapping[str, DeviceHome], name: str) -> DeviceError:
    line = next((line for line in _events(home) if line["id"] == name), None)
    if line is not None:
        place = homes.get(str(line.get("task")), home)
        return DeviceError(
            "FA-4250",
            f"The sound of the event {name} is not kept on this device.",
            f"Put `events = true` under [keep] in {place.config} and start the listener again: "
            "the events that come then can be judged.",
        )
    return DeviceError(
        "FA-4251",
        f"There is no event {name[:80]!r} on this device.",
        "Give an id from events.jsonl or from `fedaudio client clips list`, or `last`.",
    )


def _events(home: DeviceHome) -> Iterator[Line]:
    """The events that were reported, the newest first."""
    for file in (home.events, home.events.with_name(f"{home.events.name}.1")):
        for data in reversed((read_if_there(file) or b"").splitlines()):
            line = parse_line(data)
            if line is not None and line["type"] == "event":
                yield line


def _note(home: DeviceHome, given: Feedback, heard: Heard) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    # Not the task: that is the folder's own, whatever a device that listens for it calls it.
    said = {"event": given.event, "heard": given.heard, "verdict": given.verdict, "label": given.label}
    facts = {"time": now, **said, "score": heard.score, "version": heard.version, "stretch": heard.stretch}
    try:
        append_line(home.feedback, json.dumps(facts, ensure_ascii=False) + "\n")
    except OSError as error:
        raise storage_error(f"{home.feedback} could not be written", error) from error
