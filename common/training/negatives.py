"""Windows without a word, made of the words themselves.

A model that has only heard its words takes nearly any speech for one of them, and a device seldom has
recordings of anything else. So it makes them while it trains: pieces of its clips in another order, which are
real voices through its own microphone that say none of the words; and, less often, synthetic talk and noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SCRAMBLED = 0.5
"""Share of the windows that are made of clips."""

PIECE_SECONDS = 0.08, 0.25
"""Shortest and longest piece of a clip: longer than a sound of speech, shorter than most words."""


@dataclass(frozen=True)
class Making:
    """How B windows of T frames are made.

    Args:
        frames: (B, T), which of a window's own frames, 0 to T - 1, and of its companion's, T to 2 T - 1.
        sound: (B,) number of the sound that takes their place; -1 for none.
    """

    frames: Tensor
    sound: Tensor


def draw_making(
    windows: int, frames: int, sounds: int, hop_seconds: float, generator: torch.Generator
) -> Making:
    """Draw how to make `windows` windows of `frames` frames, with `sounds` sounds to choose from."""
    shortest, longest = (max(1, min(frames // 2, round(s / hop_seconds))) for s in PIECE_SECONDS)
    length = torch.randint(shortest, longest + 1, (windows, 1), generator=generator)
    pieces = -(-frames // length)
    key = torch.rand(windows, 2 * -(-frames // shortest), generator=generator)
    order = key.masked_fill(torch.arange(key.shape[1]) >= 2 * pieces, 2.0).argsort(1)
    at = torch.arange(frames)
    piece = order.take_along_dim(at // length, 1)
    within = (piece % pieces * length + at % length).clamp(max=frames - 1)
    scrambled = torch.rand(windows, generator=generator) < SCRAMBLED
    sound = torch.randint(sounds, (windows,), generator=generator)
    return Making(within + frames * (piece >= pieces), sound.masked_fill(scrambled, -1))


def make_negatives(energies: Tensor, companions: Tensor, sounds: Tensor, making: Making) -> Tensor:
    """Windows without a word (B, T, bands), of energies (B, T, bands), those of their companions, and sounds
    (N, T, bands)."""
    both = torch.cat((energies, companions), dim=1)
    scrambled = both.take_along_dim(making.frames.unsqueeze(2), dim=1)
    return sounds[making.sound].where((making.sound >= 0).view(-1, 1, 1), scrambled)
