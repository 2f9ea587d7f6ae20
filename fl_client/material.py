"""The clips of a round: those that a person has labelled, and those that the model has."""

from __future__ import annotations

import json

from common.data.clips import Clip, Clips, imported_from
from common.files import is_there, read_if_there
from common.protocol.plan import Plan
from common.settings import load_settings
from fl_client.heard import Heard, HeardFolder
from fl_client.home import DeviceHome
from fl_client.keep_settings import KeepSettings
from fl_client.settings import DeviceSettings


def labelled_clips(home: DeviceHome, plan: Plan) -> Clips:
    """What was imported, and what feedback has made of events.

    Where the plan protects speakers, events of which nobody has said who was heard are left out.

    Raises:
        DataError: FA-2001, FA-2002, there are none.
    """
    clips = Clips.load(home.clips)
    if not _protects_speakers(plan):
        return clips
    return Clips.found(home.clips, (c for c in clips if c.speaker is not None or not _is_of_event(c)))


def self_labelled_clips(home: DeviceHome, plan: Plan, labelled: int) -> Clips:
    """Windows that the listener has kept, with the label it gave them, if the owner wishes to use them.

    The surest come first, until there are as many as the owner's share of the `labelled` clips. One in which
    an event was reported that the owner has judged is left out: there is a better label for it, or none.
    Nothing is measured with them, and none is used where the plan protects speakers, who are not known.
    """
    keep = load_settings(DeviceSettings, home.config).keep if is_there(home.config) else KeepSettings()
    if not keep.self_training or plan.kind != "train" or _protects_speakers(plan):
        return Clips()
    folder, judged = HeardFolder(home.heard), _judged(home)

    def is_fit(heard: Heard) -> bool:
        sure = heard.kind == "window" and heard.score >= keep.least_score
        return sure and heard.label in plan.task.labels and heard.event not in judged

    fit = sorted(filter(is_fit, folder), key=lambda heard: heard.score, reverse=True)
    most = int(keep.share * labelled)
    return Clips(Clip(folder.sound(heard.id), heard.label, group=heard.id) for heard in fit[:most])


def _protects_speakers(plan: Plan) -> bool:
    return plan.privacy is not None and plan.privacy.unit == "speaker"


def _is_of_event(clip: Clip) -> bool:
    name = imported_from(clip.path.name)
    return name is not None and name.event is not None


def _judged(home: DeviceHome) -> set[object]:
    """Ids of the events that there is feedback on."""
    files = (home.feedback, home.feedback.with_name(f"{home.feedback.name}.1"))
    lines = [line for file in files for line in (read_if_there(file) or b"").splitlines()]
    return {event for line in lines if (event := _event_in(line)) is not None}


def _event_in(line: bytes) -> object:
    try:
        return json.loads(line).get("event")
    except (ValueError, AttributeError):  # torn by a power cut
        return None
