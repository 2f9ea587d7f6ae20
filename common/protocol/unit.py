"""What a promise of privacy is about, for those who must not load what signs plans: see `common.privacy`."""

from __future__ import annotations

from typing import Literal

Unit = Literal["clip", "recording", "speaker"]
"""What one epsilon protects, on one device: a clip, all clips of one recording, or all of one speaker."""
