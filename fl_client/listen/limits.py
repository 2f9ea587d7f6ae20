"""What a release must keep to before and after it takes over from another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SwapLimits:
    """Times are of the stream, not of the clock.

    Attributes:
        shadow_seconds: of live sound that a release scores beside the one at work before it takes over;
            with 0 it takes over at the next hop and is not compared.
        patience_seconds: the shadow goes on for so long while the two disagree. A word that only the better
            one knows is over after a second or two.
        agreement: share of the hops, of those at which both are sure of a label that both know, at which it
            must be the same label. Two trainings of one task agree on most; .2 is what two that have nothing
            in common reach by chance on five labels.
        sure_hops: so many such hops make a disagreement.
        slowdown, load: processor time per second of stream may be `slowdown` times that of the release at
            work, and `load` seconds in any case,
        most_load: but never more than so many: a listener needs as much again while the next one shadows.
        wait_seconds: for so long an open trigger puts off the switch.
        watch_seconds: for so long the new release is watched.
        late_hops: its processor time is judged as a mean over so many hops.
        rate_jump: events may come so many times as often as before,
        busy: and at this share of the rate that the refractory time of either release allows in any case:
            with the usual 0.7 s, one in 7 s on and on, or one in 2 s for a minute.
        held_share: a label may be held for this share of the time, or for `rate_jump` times that of before,
        held_seconds: which is looked at when the new release has been at work for so long.
        false_alarm: probability, for one swap, that events which keep to that rate look as if they did not.
    """

    shadow_seconds: float = 1.0
    patience_seconds: float = 10.0
    agreement: float = 0.2
    sure_hops: int = 50
    slowdown: float = 2.0
    load: float = 0.25
    most_load: float = 0.5
    wait_seconds: float = 3.0
    watch_seconds: float = 60.0
    late_hops: int = 100
    rate_jump: float = 5.0
    busy: float = 0.1
    held_share: float = 0.5
    held_seconds: float = 30.0
    false_alarm: float = 1e-4

    def budget(self, cost: float) -> float:
        """Processor time per second of stream, in seconds, where the release at work needs `cost`."""
        return min(max(self.slowdown * cost, self.load), self.most_load)
