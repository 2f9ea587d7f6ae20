"""The clips of a round: those that a person has labelled, and those that the model has."""

from __future__ import annotations

import json

from common.data.clips import Clip, Clips, imported_from
from common.files import is_there, read_if_there
from common.protocol.plan import Plan
from common.settings import load_settings
from fl_client.heard import Heard, HeardFolder
from fl_client.home import DeviceHome
from fl_client.listen.trials import read_note
from fl_client.settings import DeviceSettings


def labelled_clips(home: DeviceHome, plan: Plan) -> Clips:
    """What was imported, and what feedback has made of events.

    Where the plan protects speakers, events of which nobody has said who was heard are left out. Of events
    that overlap only the first is used if one epsilon would protect them apart, each as a clip or under the
    name of another speaker: it is to protect all there is of a unit.

    Raises:
        DataError: FA-2001, FA-2002, there are none.
    """
    clips = Clips.load(home.clips)
    unit = plan.privacy.unit if plan.privacy is not None else None
    if unit not in {"clip", "speaker"}:
        return clips
    owners: dict[str, object] = {}

    def is_fit(clip: Clip) -> bool:
        stretch, owner = _stretch_of(clip), clip.path if unit == "clip" else clip.speaker
        return stretch is None or (owner is not None and owners.setdefault(stretch, owner) == owner)

    return Clips.found(home.clips, filter(is_fit, clips))


def self_labelled_clips(home: DeviceHome, plan: Plan, labelled: Clips) -> Clips:
    """Windows that the listener has kept, with the label it gave them, if the owner wishes to use them.

    The surest come first, until there are as many as the owner's share of the `labelled` clips. Left out is
    what would not be reported today, what overlaps with another window or with an event that the owner has
    judged (there is a better label for it, or none), and what a release has heard that failed on this device
    or has not proved itself yet. Nothing is measured with them. None is used under differential privacy:
    whether one is depends on all the others, so that with one clip two sounds would come or go.

    Raises:
        StorageError: FA-8001.
    """
    settings = load_settings(DeviceSettings, home.config) if is_there(home.config) else None
    if (
        settings is None
        or not settings.keep.self_training
        or plan.kind != "train"
        or plan.privacy is not None
    ):
        return Clips()
    thresholds, least = settings.listen.thresholds, settings.keep.least_score
    note = read_note(home.trial)
    marks = (note.at_work, note.on_trial, *note.failed)
    doubtful = {mark.version for mark in marks if mark is not None}

    def is_fit(heard: Heard) -> bool:
        wanted = max(least, thresholds.get(heard.label, plan.task.trigger.threshold))
        return (
            heard.kind == "window"
            and heard.score >= wanted
            and heard.label in plan.task.labels
            and heard.version not in doubtful
        )

    folder, used = HeardFolder(home.heard), _judged(home) | {_stretch_of(clip) for clip in labelled}
    clips = []
    for heard in sorted(filter(is_fit, folder), key=lambda heard: heard.score, reverse=True):
        if heard.stretch not in used:
            used.add(heard.stretch)
            clips.append(Clip(folder.sound(heard.id), heard.label, group=heard.stretch))
    return Clips(clips[: int(settings.keep.share * len(labelled))])


def _stretch_of(clip: Clip) -> str | None:
    """The stretch of sound that the event of a clip was heard in; None if it is of none."""
    name = imported_from(clip.path.name)
    return name and name.stretch


def _judged(home: DeviceHome) -> set[str | None]:
    """Stretches of sound with an event that there is feedback on."""
    files = (home.feedback, home.feedback.with_name(f"{home.feedback.name}.1"))
    lines = [line for file in files for line in (read_if_there(file) or b"").splitlines()]
    return {_stretch_in(line) for line in lines}


def _stretch_in(line: bytes) -> str | None:
    try:
        stretch = json.loads(line).get("stretch")
    except (ValueError, AttributeError, RecursionError):  # torn by a power cut, or not by us
        return None
    return stretch if isinstance(stretch, str) else None
