"""What the owner says about an event, from outside: checked, and answered in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import Field

from common.errors import FedAudioError
from common.settings import Settings
from fl_client.home import DeviceHome

LARGEST = 1 << 10
"""Bytes of the JSON of a `Said`."""

Word = Annotated[str, Field(min_length=1, max_length=80)]


class Said(Settings):
    """One word of feedback; see `fl_client.feedback.give_feedback`."""

    event: Word
    verdict: Word
    speaker: Word | None = None


def answer(home: DeviceHome, said: Said) -> dict[str, object]:
    """Give the feedback, and say what became of it; with `error` in it, nothing did."""
    from fl_client.feedback import give_feedback  # reads and writes sound files, which few ask for

    try:
        return asdict(give_feedback(home, said.event, said.verdict, said.speaker))
    except FedAudioError as error:
        return refusal(error)


def refusal(error: FedAudioError) -> dict[str, object]:
    """Why there is no feedback."""
    return {"error": error.code, "happened": error.happened, "remedy": error.remedy}
