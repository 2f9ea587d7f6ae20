"""What the demo prints when it is done."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from common.results import DemoResults
from fedaudio.demo.run import Outcome


def print_summary(console: Console, outcome: Outcome) -> None:
    """A table of the rounds, and what they came to in words."""
    results = outcome.results
    devices = len(outcome.bytes_up)
    console.print(_rounds(results, devices))
    final, listening = results.final, results.listening
    privacy = (
        f"epsilon {final.epsilon:.2f} at delta {final.delta:g} for {final.unit} (the device that spent most)"
        if final.epsilon is not None
        else "no differential privacy (--dp turns it on)"
    )
    gap = listening.max_gap_seconds * 1e3
    up, down = (sum(counts) / devices / 1e3 for counts in (outcome.bytes_up, outcome.bytes_down))
    for line in (
        "Overhead: seconds beyond the work of the slowest device. kB: payload per device and round.",
        f"Unseen speakers: {', '.join(results.speakers.unseen)}",
        f"Accuracy on them: {results.initial.accuracy_unseen:.3f} untrained, {final.accuracy_unseen:.3f} now",
        f"Privacy: {privacy}",
        f"Listening: {listening.hops} hops, {listening.dropped} dropped, {listening.doubled} doubled, "
        f"{listening.swaps} swaps, longest gap at a swap {gap:.1f} ms, {listening.events} events",
        f"Traffic, with releases, as the devices counted it: {up:.0f} kB up, {down:.0f} kB down per device",
        f"Recordings left out: {len(outcome.left_out)}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _rounds(results: DemoResults, devices: int) -> Table:
    table = Table("round", "model", "unseen acc.", "seconds", "overhead", "kB up", "kB down", "failed")
    for row in results.rounds:
        table.add_row(
            str(row.round),
            str(row.version),
            f"{row.accuracy_unseen:.3f}",
            f"{row.seconds:.1f}",
            # A private report does not say how long the training took.
            "" if results.final.epsilon is not None else f"{row.overhead_seconds:.2f}",
            # Every device is asked in every round, also those that then fail.
            f"{row.bytes_up / 1e3 / devices:.0f}",
            f"{row.bytes_down / 1e3 / devices:.0f}",
            str(row.failed),
        )
    return table
