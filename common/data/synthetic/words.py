"""The vocabulary: pseudo-words in minimal pairs, and what the mouth does for each of their sounds.

Formants are those of an adult male; a voice scales them to its own vocal tract. Vowels: Peterson & Barney,
"Control methods used in a study of the vowels", JASA 24, 1952. Consonants: after Klatt, "Software for a
cascade/parallel formant synthesizer", JASA 67, 1980.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A stretch of steady articulation.

    `voice` (vocal folds) and `breath` (aspiration) excite the formants; `hiss` is noise made at a
    constriction, with its own spectrum around `hiss_hz`. All three are linear gains.
    """

    seconds: float
    formants: tuple[float, float, float]
    voice: float = 0.0
    breath: float = 0.0
    hiss: float = 0.0
    hiss_hz: float = 4000.0
    hiss_width: float = 1500.0


def _vowel(*formants: float) -> tuple[Segment, ...]:
    f1, f2, f3 = formants
    return (Segment(0.14, (f1, f2, f3), voice=1.0),)


def _nasal(*formants: float) -> tuple[Segment, ...]:
    f1, f2, f3 = formants
    return (Segment(0.08, (f1, f2, f3), voice=0.35),)


def _fricative(hz: float, width: float, hiss: float, f2: float, voice: float = 0.0) -> tuple[Segment, ...]:
    seconds = 0.09 if voice else 0.12
    return (Segment(seconds, (320, f2, 2500), voice, hiss=hiss, hiss_hz=hz, hiss_width=width),)


def _plosive(hz: float, width: float, f2: float, *, voiced: bool) -> tuple[Segment, ...]:
    """Closure, burst and, if voiceless, the aspiration until the vocal folds start again."""
    mouth = (250.0, f2, 2500.0)
    closure = Segment(0.05, mouth, voice=0.12 if voiced else 0.0)
    burst = Segment(0.012, mouth, hiss=0.6 if voiced else 1.2, hiss_hz=hz, hiss_width=width)
    aspiration = Segment(0.06, mouth, breath=0.5, hiss=0.15, hiss_hz=hz, hiss_width=width)
    return (closure, burst) if voiced else (closure, burst, aspiration)


PHONES: dict[str, tuple[Segment, ...]] = {
    "a": _vowel(730, 1090, 2440),
    "e": _vowel(530, 1840, 2480),
    "i": _vowel(270, 2290, 3010),
    "o": _vowel(570, 840, 2410),
    "u": _vowel(300, 870, 2240),
    "m": _nasal(250, 1000, 2200),
    "n": _nasal(250, 1500, 2600),
    "l": (Segment(0.07, (360, 1200, 2800), voice=0.55),),
    "s": _fricative(5800, 1200, 0.5, 1700),
    "sh": _fricative(3200, 900, 0.5, 1900),
    "f": _fricative(5000, 3000, 0.25, 1000),
    "z": _fricative(5800, 1200, 0.3, 1700, voice=0.35),
    "v": _fricative(4500, 3000, 0.1, 1000, voice=0.4),
    "p": _plosive(900, 900, 900, voiced=False),
    "b": _plosive(800, 800, 900, voiced=True),
    "t": _plosive(4500, 1500, 1750, voiced=False),
    "d": _plosive(4000, 1500, 1750, voiced=True),
    "k": _plosive(2000, 600, 2100, voiced=False),
    "g": _plosive(1900, 600, 2100, voiced=True),
}

WORDS: tuple[str, ...] = (
    *("bado", "simu", "kelo", "vuna", "zado", "temi", "lasho", "shimu", "zoki", "fegu"),
    *("gelo", "vuma", "temo", "lasha", "soki", "feku", "pado", "nipo", "dulo", "dula"),
)
"""Full of minimal pairs (words that differ in one sound): two in the first ten, eleven in all."""

_VOWELS = "aeiou"
_CONSONANTS = tuple(phone for phone in PHONES if phone not in _VOWELS)


def _babble(form: str, step: int, count: int) -> list[str]:
    """`count` words of a form such as "cvc", far apart among all there are.

    Args:
        step: from one to the next; with no divisor in common with 14 or 5, so that no word comes twice.
    """
    words = []
    for place in range(0, step * count, step):
        word, rest = "", place
        for sound in form:
            known = _CONSONANTS if sound == "c" else _VOWELS
            rest, number = divmod(rest, len(known))
            word += known[number]
        words.append(word)
    return words


BABBLE: tuple[str, ...] = (
    *_babble("cvcv", 3027, 110),
    *_babble("cvc", 607, 80),
    *_babble("cvcvc", 42_397, 70),
    *_babble("vcv", 213, 40),
)
"""Words without a meaning to anybody, of all sounds in many orders: to learn from before there are others."""


def phones(word: str) -> list[str]:
    """The sounds of `word`, in order: one a letter, except "sh"."""
    return re.findall("sh|.", word)
