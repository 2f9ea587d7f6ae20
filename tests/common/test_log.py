"""Logs: one line a fact, on standard error, also for machines."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.log import LOG_FORMAT, LOG_TASK, JsonLines, Throttle, printable

SCRIPT = dedent("""
    import logging
    from common.log import configure_logging
    configure_logging()
    logging.getLogger("fl_client.link").info("linked to %s", "Zürich\\n")
    logging.getLogger("flwr").info("chatter")
    logging.getLogger("flwr").warning("trouble")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("fl_server").exception("broken")
""")


def run(form: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {LOG_FORMAT: form}
    return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=env)


def test_json_lines_hold_one_object_each() -> None:
    done = run("json")
    assert done.stdout == ""
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert [entry["message"] for entry in entries] == ["linked to Zürich\n", "trouble", "broken"]
    assert entries[0]["level"] == "info"
    assert entries[0]["logger"] == "fl_client.link"
    assert entries[0]["time"].endswith("+00:00")
    assert "ZeroDivisionError" in entries[2]["trace"]


def test_text_goes_to_standard_error_and_libraries_are_quiet() -> None:
    done = run("text")
    assert done.stdout == ""
    assert "fl_client.link: linked to Zürich\\n\n" in done.stderr
    assert "chatter" not in done.stderr
    assert "trouble" in done.stderr
    assert 'Traceback (most recent call last):\n  File "' in done.stderr


@given(st.text())
def test_printable_text_is_one_line_and_moves_no_cursor(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    if text.isprintable():
        assert shown == text


def test_a_message_that_is_not_text_is_still_one_line() -> None:
    record = logging.LogRecord("a", logging.INFO, __file__, 1, "%r\n\x1b[2J", ({"k": b"\xff"},), None)
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["message"].endswith("\x1b[2J")


@pytest.mark.parametrize(
    ("task", "text", "facts"),
    [("", " there: hello", {}), ("a 100%s", " there [a 100%s]: hello", {"task": "a 100%s"})],
)
def test_each_line_says_the_task_where_there_are_several(task: str, text: str, facts: dict[str, str]) -> None:
    script = "from common.log import configure_logging; import logging\n"
    script += "configure_logging(); logging.getLogger('there').info('hello')"

    def line(form: str) -> str:
        environment = os.environ | {LOG_FORMAT: form, LOG_TASK: task}
        command = [sys.executable, "-c", script]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stderr.strip()

    assert line("text").endswith(text)
    read = json.loads(line("json"))
    assert (read["message"], {"task": read["task"]} if "task" in read else {}) == ("hello", facts)


def test_a_peer_does_not_decide_how_long_the_log_is() -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(Throttle(most=50))

    def record(name: str, second: float, text: str) -> None:
        line = logging.LogRecord(name, logging.WARNING, "", 0, "%s", (text,), None)
        line.created = second
        handler.handle(line)

    for number in range(1000):
        record("noisy", 1000.0 + number / 2000, "again")
    record("quiet", 1000.5, "something else")
    record("noisy", 1001.0, "and again")
    record("noisy", 1001.1, "the last")
    assert written.getvalue().splitlines() == [
        *["again"] * 50,
        "something else",
        "and again (950 lines before this one were left out)",
        "the last",
    ]


def test_flowers_lines_and_ours_are_throttled() -> None:
    script = """
        import logging
        import flwr.app
        from common.log import configure_logging
        configure_logging()
        for name in ("flwr", "fl_server.gate"):
            for number in range(5000):
                logging.getLogger(name).warning("again")
    """
    command = [sys.executable, "-c", dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # Flower's come twice; and a second may end in between.
    assert 100 <= len(done.stderr.splitlines()) < 2000
