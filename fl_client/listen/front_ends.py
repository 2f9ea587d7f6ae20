"""What several tasks hear of one stream of sound: the same features are computed once."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

from common.audio.front_end import FrontEnd
from common.audio.stream import StreamFrontEnd
from fl_client.listen.engine import Frames
from fl_client.listen.ring import Rows


@dataclass
class _Block:
    """The newest block of samples and its features.

    Attributes:
        begin, end: the samples of the stream that it holds.
        hop: index of its first hop in the stream.
        front_end: has heard the stream up to `end`.
    """

    begin: int
    end: int
    hop: int
    features: Frames
    front_end: StreamFrontEnd


class FrontEnds:
    """The front ends of those that hear one stream block by block, in one thread.

    Who hears it has a front end of its own as well, which is taken along. So it can go on by itself at any
    time, and whoever comes later goes on from where the others are: the one that has heard most leads.
    """

    def __init__(self) -> None:
        self._blocks: dict[FrontEnd, _Block] = {}

    def features(self, own: StreamFrontEnd, hop: int, begin: int, samples: Rows) -> Frames:
        """Features (t, features) of the frames that `samples` (n,) complete, as of `own`, which has heard
        them by that.

        Args:
            own: has heard the stream up to the sample `begin`.
            hop: index in the stream of its next frame.
            begin: index in the stream of the first of `samples`.
        """
        end, last = begin + len(samples), self._blocks.get(own.config)
        if last is not None and last.front_end.heard < own.heard:
            last = None
        if last is None or (last.begin, last.end, last.hop) != (begin, end, hop):
            goes_on = last is not None and (last.end, last.hop + len(last.features)) == (begin, hop)
            front_end = last.front_end if last is not None and goes_on else copy(own)
            last = _Block(begin, end, hop, front_end.feed(samples), front_end)
            self._blocks[own.config] = last
        own.follow(last.front_end)
        return last.features

    def forget(self) -> None:
        """Compute whatever comes next anew: it is another stream."""
        self._blocks.clear()
