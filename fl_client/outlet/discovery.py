"""What Home Assistant is told of the device, in its own words: https://www.home-assistant.io/integrations/mqtt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True)
class Topics:
    """The topics of one device.

    Args:
        prefix: what they begin with.
        name: the device's, unique in its fleet.
    """

    prefix: str
    name: str

    @property
    def availability(self) -> str:
        """online or offline, retained; the broker writes the latter when we are lost."""
        return f"{self.prefix}/{self.name}/availability"

    @property
    def state(self) -> str:
        """How the device is: one JSON object, retained."""
        return f"{self.prefix}/{self.name}/state"

    @property
    def events(self) -> str:
        """Each event and alarm as it comes, not retained."""
        return f"{self.prefix}/{self.name}/events"

    @property
    def feedback(self) -> str:
        """Where the owner says what they think of an event, if that is allowed."""
        return f"{self.prefix}/{self.name}/feedback"

    @property
    def feedback_result(self) -> str:
        """What became of it."""
        return f"{self.feedback}/result"


def unique_id(name: str, coordinator: str) -> str:
    """What tells a device from those of all fleets, in letters that every topic takes."""
    return f"fedaudio_{hashlib.sha256(f'{coordinator} {name}'.encode()).hexdigest()[:12]}"


def discovery(
    topics: Topics, identity: str, prefix: str, tasks: Iterable[str] = ()
) -> dict[str, dict[str, object]]:
    """The configuration of each entity, by the topic it is retained under.

    Args:
        identity: as `unique_id` makes it.
        prefix: where Home Assistant looks.
        tasks: those that are listened for beside the device's own.
    """
    common: dict[str, object] = {
        "availability_topic": topics.availability,
        "device": {
            "identifiers": [identity],
            "name": topics.name,
            "manufacturer": "fedaudio",
            "model": "listener",
            "sw_version": version("fedaudio"),
        },
        "origin": {"name": "fedaudio", "sw_version": version("fedaudio")},
    }
    return {
        f"{prefix}/{kind}/{identity}/{key}/config": {
            **common,
            "unique_id": f"{identity}_{key}",
            "state_topic": topics.state,
            **fields,
        }
        for (kind, key), fields in (_entities(topics) | _last_heard(tasks)).items()
    }


def _entities(topics: Topics) -> dict[tuple[str, str], dict[str, object]]:
    # "None" is how a template says that a value is not known.
    return {
        ("event", "heard"): {
            "name": "Heard",
            "state_topic": topics.events,
            "event_types": ["event", "alarm"],
            "value_template": "{{ dict(value_json, event_type=value_json.type) | tojson }}",
        },
        ("sensor", "keyword"): {
            "name": "Last keyword",
            "icon": "mdi:account-voice",
            "value_template": "{{ (value_json.event or {}).get('label') }}",
        },
        ("sensor", "laeq"): {
            "name": "LAeq",
            "device_class": "sound_pressure",
            "state_class": "measurement",
            "unit_of_measurement": "dB",
            "value_template": "{{ (value_json.level or {}).get('laeq') }}",
        },
        ("sensor", "version"): {
            "name": "Model version",
            "entity_category": "diagnostic",
            "value_template": "{{ value_json.version }}",
        },
        ("binary_sensor", "listening"): {
            "name": "Listening",
            "device_class": "running",
            "entity_category": "diagnostic",
            "value_template": "{{ 'ON' if value_json.listening else 'OFF' }}",
        },
    }


def _last_heard(tasks: Iterable[str]) -> dict[tuple[str, str], dict[str, object]]:
    return {
        ("sensor", f"task_{task}"): {
            "name": f"Last heard: {task}",
            "icon": "mdi:ear-hearing",
            "value_template": f"{{{{ (value_json.tasks['{task}'].event or {{}}).get('label') }}}}",
        }
        for task in tasks
    }
