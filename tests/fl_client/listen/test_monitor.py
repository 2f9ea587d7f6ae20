"""Noise reports and alarms over sound whose levels are known."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from fl_client.listen.alarms import Alarm
from fl_client.listen.events import Event, Message
from fl_client.listen.levels import Level, LevelTable, speech_like
from fl_client.listen.loudness import Loudness
from fl_client.listen.monitor import Monitor
from fl_client.listen.settings import AlarmSettings, ListenSettings

RATE = 16_000
Sound = NDArray[np.float32]


def tone(seconds: float, decibels: float) -> Sound:
    """A sine at 1 kHz of that level in dBFS."""
    at = np.arange(round(seconds * RATE)) / RATE
    return (10 ** (decibels / 20) * np.sin(2 * np.pi * 1000 * at)).astype(np.float32)


def run(monitor: Monitor, *blocks: Sound, held: Mapping[str, float] | None = None) -> list[Message]:
    told: list[Message] = []
    for block in blocks:
        for piece in monitor.cut(block):
            told += monitor.feed(piece, held or {})
    return told + monitor.end(held or {})


def levels(settings: ListenSettings, *blocks: Sound) -> list[Level]:
    return [message for message in run(Monitor(settings), *blocks) if isinstance(message, Level)]


def alarms(alarm: AlarmSettings, *blocks: Sound, calibration: float | None = None) -> list[Alarm]:
    told = run(Monitor(ListenSettings(alarms=(alarm,), calibration_db=calibration)), *blocks)
    return [message for message in told if isinstance(message, Alarm)]


EVERY_10 = ListenSettings(levels=True, level_seconds=10)


def test_a_report_is_of_its_interval_and_the_last_of_what_is_left() -> None:
    first, second, rest = levels(EVERY_10, tone(10, -20), tone(10, -40), tone(5, -40))
    assert [(one.start, one.end, one.seconds) for one in (first, second)] == [(0, 10, 10), (10, 20, 10)]
    assert rest.start == 20
    assert rest.end == pytest.approx(25, abs=0.125)
    assert [one.laeq for one in (first, second, rest)] == pytest.approx([-20, -40, -40], abs=0.15)
    assert first.unit == "dBFS(A)"


def test_the_numbers_are_those_of_a_known_day() -> None:
    """5 % at 0 dB, 35 % at -20 dB, 60 % at -40 dB."""
    (day,) = levels(
        ListenSettings(levels=True, level_seconds=100), tone(5, 0), tone(35, -20), tone(60.1, -40)
    )[:1]
    assert day.laeq == pytest.approx(10 * np.log10(0.05 + 0.35 * 1e-2 + 0.6 * 1e-4), abs=0.05)
    assert day.lamax == pytest.approx(0, abs=0.05)
    assert (day.l10, day.l50, day.l90) == pytest.approx((-20, -40, -40), abs=0.1)
    assert day.active == pytest.approx(0.4, abs=0.01)


def test_calibration_shifts_every_level_and_changes_the_unit() -> None:
    relative, absolute = (
        asdict(levels(EVERY_10.model_copy(update={"calibration_db": offset}), tone(10.1, -30))[0])
        for offset in (None, 120.0)
    )
    assert (relative["unit"], absolute["unit"]) == ("dBFS(A)", "dB(A)")
    for name in ("laeq", "lamax", "l10", "l50", "l90"):
        assert absolute[name] - relative[name] == pytest.approx(120)
    assert absolute["laeq"] == pytest.approx(90, abs=0.1)


def test_digital_silence_has_a_level_that_json_can_write() -> None:
    (silence, _) = levels(EVERY_10, np.zeros(11 * RATE, np.float32))
    assert silence.laeq == silence.l10 == silence.l90 == -150
    assert silence.active == silence.speech_like == 0
    json.dumps(asdict(silence), allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 5 * RATE), max_size=8),
    seconds=st.sampled_from([1.0, 1.37, 3.0]),
    gains=st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5),
)
def test_blocks_make_no_difference_and_levels_are_in_order(
    cuts: list[int], seconds: float, gains: list[float]
) -> None:
    noise = np.random.default_rng(0).standard_normal((5, RATE)) * np.array(gains)[:, None]
    sound = noise.reshape(-1).astype(np.float32)
    alarm = AlarmSettings(name="loud", level=-15, seconds=0.5, repeat_seconds=1)
    wished = ListenSettings(levels=True, level_seconds=seconds, alarms=(alarm,))

    whole = run(Monitor(wished), sound)
    pieces = run(Monitor(wished), *np.split(sound, sorted(cuts)))
    for kind in ("level", "alarm"):
        assert [one for one in pieces if one.kind == kind] == [one for one in whole if one.kind == kind]
    for one in whole:
        if isinstance(one, Level):
            assert one.lamax >= one.l10 >= one.l50 >= one.l90
            assert 0 <= one.active <= 1


def test_lost_samples_move_the_time_and_are_not_counted_as_heard() -> None:
    monitor = Monitor(EVERY_10)
    first = monitor.feed(tone(4, -20), {})
    monitor.skip(2 * RATE)
    monitor.skip(0)
    (report,) = [*first, *monitor.feed(tone(6.3, -20), {})]
    assert isinstance(report, Level)
    # With those lost goes what was too new to have a level.
    assert (report.start, report.end, report.seconds) == (0, 12.1, 10)


@pytest.mark.parametrize("cycles", [0.25, 0.5, 0.75])
def test_lost_samples_make_no_click(cycles: float) -> None:
    """Hum that goes on at another place of its cycle: joined, it would jump, and a jump is heard best."""
    at = np.arange(4 * RATE) / RATE
    hum = (0.3 * np.sin(2 * np.pi * 50 * at)).astype(np.float32)
    monitor = Monitor(EVERY_10)
    monitor.feed(hum[: 2 * RATE], {})
    monitor.skip(round(cycles * RATE / 50))
    monitor.feed(hum[2 * RATE + round(cycles * RATE / 50) :], {})
    (report,) = monitor.end({})
    assert isinstance(report, Level)
    assert report.lamax == pytest.approx(report.laeq, abs=1)


def test_pieces_end_where_reports_do_after_a_loss_too() -> None:
    """Whatever is lost, a report is told with the piece that completes it."""
    monitor, told = Monitor(EVERY_10), []
    for lost in (0, 777, 5, 123_456):
        monitor.skip(lost)
        for piece in monitor.cut(tone(7.77, -20)):
            told.append(len(monitor.feed(piece, {})))
            if told[-1]:
                assert monitor.feed(np.empty(0, np.float32), {}) == []
    assert sum(told) == 3
    assert max(told) == 1


def test_the_first_report_is_of_the_sound_and_not_of_its_beginning() -> None:
    first, second, *_ = levels(ListenSettings(levels=True, level_seconds=1), tone(3, -20))
    assert (first.l90, first.lamax) == pytest.approx((second.l90, second.lamax), abs=0.2)
    assert first.l90 == pytest.approx(-20, abs=0.2)


def test_labels_have_the_share_of_the_time_they_were_held() -> None:
    monitor = Monitor(EVERY_10)
    one, two = tone(10.1, -20), tone(10, -20)
    (first,) = monitor.feed(one, {"rain": 4.0})
    (second,) = monitor.feed(two, {"rain": 5.0, "glass": 0.5})
    assert isinstance(first, Level)
    assert isinstance(second, Level)
    assert (first.labels, second.labels) == ({"rain": 0.4}, {"rain": 0.1, "glass": 0.05})


def test_speech_is_speech_like_and_steady_noise_is_not(speech: Sound) -> None:
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    assert speech_like(Loudness().feed(speech)) >= 0.5
    assert speech_like(Loudness().feed(noise)) == speech_like(Loudness().feed(tone(8, -10))) == 0


def test_a_table_has_a_header_once_and_a_row_for_each_report(tmp_path: Path) -> None:
    path = tmp_path / "levels.csv"
    reports = levels(EVERY_10, tone(20.1, -20))
    for report in reports[:2]:
        LevelTable(path)(report)
    LevelTable(path)(Event("yes", 0.9, 0, 1, 1))
    rows = list(csv.DictReader(path.open()))
    assert [float(row["laeq"]) for row in rows] == [report.laeq for report in reports[:2]]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_table_that_cannot_be_written_is_said_once_and_does_not_stop_the_listening(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gone" / "levels.csv"
    table, (report, *_) = LevelTable(path), levels(EVERY_10, tone(10.1, -20))
    for _ in range(3):
        table(report)
    assert caplog.text.count("are not written") == 1
    path.parent.mkdir()
    table(report)
    assert len(path.read_text().splitlines()) == 2
    path.unlink()
    path.parent.rmdir()
    table(report)
    assert caplog.text.count("are not written") == 2


def test_a_table_is_a_wish_for_reports() -> None:
    assert levels(ListenSettings(level_seconds=10, levels_csv="levels.csv"), tone(10.1, -20))


@pytest.mark.parametrize("first", "=+-@")
def test_no_label_becomes_a_formula_in_the_table(tmp_path: Path, first: str) -> None:
    report = replace(levels(EVERY_10, tone(10.1, -20))[0], labels={f'{first}HYPERLINK("x")': 0.5, "=b": 0.1})
    LevelTable(tmp_path / "levels.csv")(report)
    (row,) = csv.DictReader((tmp_path / "levels.csv").open())
    assert row["labels"] == f'\'{first}HYPERLINK("x")=0.5 =b=0.1'
    assert float(row["laeq"]) == report.laeq


LOUD = AlarmSettings(name="loud", level=-30, seconds=2, hysteresis_db=6, repeat_seconds=5)


def test_a_level_alarm_comes_once_the_mean_is_above_and_goes_below_the_hysteresis() -> None:
    on, off = alarms(LOUD, tone(10, -60), tone(3, -20), tone(10, -60))
    assert (on.name, on.on, on.limit, on.unit) == ("loud", True, -30, "dBFS(A)")
    assert on.level is not None
    assert on.level >= -30
    # Two seconds at -60 dB, of which a tenth at -20 dB is -30 dB.
    assert on.at == pytest.approx(10.2, abs=0.1)
    assert off.on is False
    # Below -36 dB when less than 0.05 s of the loud tone are in the last two seconds.
    assert off.at == pytest.approx(15.0, abs=0.1)


def test_a_click_does_not_raise_it_and_a_little_less_does_not_end_it() -> None:
    assert alarms(LOUD, tone(5, -60), tone(0.05, -20), tone(5, -60)) == []
    assert [one.on for one in alarms(LOUD, tone(3, -29), tone(1, -34), tone(0.9, -29))] == [True]


def test_it_is_told_again_as_long_as_it_lasts() -> None:
    told = alarms(LOUD, tone(14, -20))
    assert [one.at for one in told] == pytest.approx([2, 7, 12], abs=0.1)
    assert all(one.on for one in told)


def test_a_limit_is_in_the_unit_of_a_calibrated_device() -> None:
    limit = AlarmSettings(name="loud", level=85, seconds=1)
    assert alarms(limit, tone(3, -20)) == []
    (on,) = alarms(limit, tone(3, -20), calibration=110.0)
    assert on.unit == "dB(A)"
    assert on.level == pytest.approx(90, abs=0.2)


def test_a_label_alarm_comes_with_the_event_and_not_again_too_soon() -> None:
    settings = AlarmSettings(name="window", label="glass", repeat_seconds=60)
    monitor = Monitor(ListenSettings(alarms=(settings,)))
    told = [
        (label, end, monitor.heard(Event(label, 0.9, end - 1, end, 1)))
        for label, end in (("dog", 1.0), ("glass", 2.0), ("glass", 61.9), ("glass", 62.0))
    ]
    assert [(end, [alarm.label for alarm in given]) for _, end, given in told] == [
        (1.0, []),
        (2.0, ["glass"]),
        (61.9, []),
        (62.0, ["glass"]),
    ]
    assert monitor.feed(tone(70, -10), {}) == []


@pytest.mark.parametrize("about", [{}, {"level": -10, "label": "yes"}])
def test_an_alarm_is_about_one_thing(about: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="about a level or about a label"):
        AlarmSettings.model_validate({"name": "a"} | about)
