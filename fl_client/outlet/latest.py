"""The newest messages, and what they and the listener's report say of each task."""

from __future__ import annotations

from collections.abc import Iterable

from fl_client.listen.events import MAIN
from fl_client.outlet.lines import Line
from fl_client.reports import Report


class Latest:
    """The newest message of each type, and the newest event of each task.

    Args:
        tasks: names of those that are listened for beside the device's own.
        before: messages from before, oldest first.
    """

    def __init__(self, tasks: Iterable[str], before: Iterable[Line] = ()) -> None:
        self._tasks = frozenset(tasks)
        self._lines: dict[tuple[str, str], Line] = {}
        for line in before:
            self.note(line)

    def note(self, line: Line) -> None:
        """Take note of a message; one of a task that is not listened for any more is left out."""
        task = str(line.get("task", MAIN))
        if task == MAIN or task in self._tasks:
            self._lines[str(line["type"]), task] = line

    def of(self, kind: str, task: str = MAIN) -> Line | None:
        """The newest message of a type, of this task if messages of that type are of one."""
        return self._lines.get((kind, task))

    def of_further_tasks(self, listener: Report | None) -> dict[str, dict[str, object]]:
        """Version, None while there is none, and newest event of each task but the device's own."""
        reports = (listener or {}).get("tasks")
        versions = reports if isinstance(reports, dict) else {}
        return {
            task: {"version": _version(versions.get(task)), "event": self.of("event", task)}
            for task in sorted(self._tasks)
        }


def _version(report: object) -> object:
    return report.get("version") if isinstance(report, dict) else None
