"""The demo while it runs: a live table on a terminal, a line a round elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from common.results import RoundResult
from fl_client.status import Status


class DemoView:
    """Shows rounds, accuracy, devices and the versions their listeners hear with."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._told = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def tell(self, text: str) -> None:
        """Say what is being done before there is anything to show."""
        if self._console.is_terminal:
            self._live.update(Spinner("dots", text))
        else:
            self._console.print(text, highlight=False)

    def update(self, initial: float, rounds: Sequence[RoundResult], devices: Sequence[Status]) -> None:
        """Show the state of things."""
        if self._console.is_terminal:
            self._live.update(Group(self._bar(initial, rounds), _devices(devices)))
            return
        for row in rounds[self._told :]:
            self._console.print(
                f"round {row.round}: version {row.version}, {row.participants} devices, {row.seconds:.1f} s, "
                f"accuracy on unseen speakers {row.accuracy_unseen:.3f}",
                highlight=False,
            )
        self._told = len(rounds)

    def _bar(self, initial: float, rounds: Sequence[RoundResult]) -> Table:
        newest = rounds[-1].accuracy_unseen if rounds else initial
        line = Table.grid(padding=(0, 2))
        text = Text(f"round {len(rounds)}/{self._rounds}   accuracy on unseen speakers {newest:.3f}")
        line.add_row(text, ProgressBar(self._rounds, len(rounds), width=30))
        return line


def _devices(devices: Sequence[Status]) -> Table:
    table = Table(
        "device", "clips", "link", "training", "model", "heard with", "hops", "dropped", "swaps", "events"
    )
    for device in devices:
        link, listener = device["link"] or {}, device["listener"] or {}
        table.add_row(
            device["name"],
            str(device["clips"]),
            "up" if link.get("linked") else "down",
            "loaded" if link.get("training_loaded") else "",
            _text(device["version"]),
            *(_text(listener.get(key)) for key in ("version", "hops", "dropped", "swaps", "events")),
        )
    return table


def _text(value: object) -> str:
    return "" if value is None else str(value)
