"""Logs: one line a fact, on standard error, also for machines."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from textwrap import dedent

from hypothesis import given
from hypothesis import strategies as st

from common.log import LOG_FORMAT, JsonLines, printable

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
