"""Reports beside words: hits, misses, false accepts, and the curve between the last two."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from common.evaluation.detection import Hits, Point, best_at, det_curve, match
from common.evaluation.streams import Word

WORDS = (Word("yes", 1.0, 1.5), Word("no", 4.0, 4.5), Word("yes", 7.0, 7.5))


@dataclass(frozen=True)
class Heard:
    label: str
    start: float
    end: float


def at(label: str, end: float) -> Heard:
    """A report about the second that ends at `end`."""
    return Heard(label, end - 1, end)


def test_all_heard_is_nothing_missed() -> None:
    hits = match(WORDS, [at("yes", 1.6), at("no", 4.5), at("yes", 7.4)])
    assert (hits.missed.hits, hits.confused, hits.repeated, hits.spurious) == (0, 0, 0, 0)
    assert [round(latency, 9) for latency in hits.latencies] == [0.1, 0.0, -0.1]


def test_nothing_heard_is_all_missed() -> None:
    assert match(WORDS, []).missed.value == 1.0


def test_each_report_is_counted_for_what_it_is() -> None:
    hits = match(WORDS, [at("no", 1.6), at("no", 3.2), at("no", 4.3), at("no", 4.6), at("yes", 10.0)])
    assert (hits.missed.hits, hits.confused, hits.repeated, hits.spurious) == (2, 1, 1, 2)


def test_a_report_is_about_sound_that_overlaps_the_word() -> None:
    assert match(WORDS[:1], [at("yes", 1.0)]).spurious == 1, "it ended before the word began"
    assert match(WORDS[:1], [at("yes", 2.49)]).missed.hits == 0
    assert match(WORDS[:1], [at("yes", 2.5)]).spurious == 1, "it began after the word had ended"


def test_of_two_equal_words_in_one_window_each_is_heard_once() -> None:
    words = (Word("yes", 1.0, 1.2), Word("yes", 1.4, 1.6))
    hits = match(words, [at("yes", 1.7), at("yes", 1.9), at("yes", 2.0)])
    assert (hits.missed.hits, hits.repeated) == (0, 1)


@given(
    st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.floats(0, 12)), max_size=20),
)
def test_every_report_is_one_thing_and_no_word_is_heard_twice(reports: list[tuple[str, float]]) -> None:
    hits = match(WORDS, [at(label, end) for label, end in sorted(reports, key=lambda each: each[1])])
    assert len(hits.latencies) + hits.confused + hits.repeated + hits.spurious == len(reports)
    assert 0 <= hits.missed.hits <= len(WORDS)


def point(threshold: float, missed: int, accepts: int, words: int = 100, hours: float = 2.0) -> Point:
    return Point(threshold, Hits(words, (0.1,) * (words - missed)), {"talk": accepts}, {"talk": hours})


points = st.lists(
    st.builds(point, st.floats(0.1, 0.9), st.integers(0, 100), st.integers(0, 50)), min_size=1, max_size=30
)


@given(points)
def test_the_curve_falls(found: list[Point]) -> None:
    curve = det_curve(found)
    rates = [each.accepts_per_hour for each in curve]
    missed = [each.hits.missed.hits for each in curve]
    assert rates == sorted(set(rates))
    assert missed == sorted(set(missed), reverse=True)


@given(points)
def test_no_point_is_better_than_the_curve(found: list[Point]) -> None:
    curve = det_curve(found)
    for each in found:
        assert any(
            chosen.accepts_per_hour <= each.accepts_per_hour
            and chosen.hits.missed.hits <= each.hits.missed.hits
            for chosen in curve
        )


@given(points, st.floats(0, 30))
def test_the_best_is_allowed_and_misses_least(found: list[Point], wanted: float) -> None:
    best = best_at(found, wanted)
    allowed = [each for each in found if each.accepts_per_hour <= wanted]
    assert (best is None) == (not allowed)
    if best is not None:
        assert best in allowed
        assert best.hits.missed.hits == min(each.hits.missed.hits for each in allowed)


def test_rates_are_over_all_that_was_heard() -> None:
    both = Point(0.5, Hits(1, ()), {"talk": 3, "noise": 1}, {"talk": 0.5, "noise": 1.5})
    assert both.accepts_per_hour == 2.0
    assert both.accepts_interval.low < 2.0 < both.accepts_interval.high
