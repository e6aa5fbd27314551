"""Every record becomes one line of JSON, with all that it holds."""

from __future__ import annotations

import json
import logging
import math
import sys
from datetime import datetime
from typing import Any

import pytest

from workflow_engine.telemetry.json_log import LONGEST_UNKNOWN, JsonFormatter, format_unconfigured_logging
from workflow_engine.telemetry.log_events import LogEvent, log_context, log_fields


class Hostile:
    """A value that cannot be written as text either."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def record(message: object, *arguments: object, exc_info: Any = None, **extra: object) -> logging.LogRecord:
    return logging.getLogger("shop").makeRecord(
        "shop", logging.WARNING, __file__, 1, message, arguments, exc_info, extra=extra
    )


def line_of(logged: logging.LogRecord) -> dict[str, Any]:
    """Return the object on the one line that a record becomes."""
    line = JsonFormatter().format(logged)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    parsed: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
    return parsed


def test_a_line_says_when_what_where_and_in_which_process_it_was_logged() -> None:
    logged = record("%d orders are %s", 2, "late")

    line = line_of(logged)

    assert datetime.fromisoformat(line.pop("time")).timestamp() == pytest.approx(logged.created, abs=1e-5)
    assert line == {
        "level": "WARNING",
        "logger": "shop",
        "message": "2 orders are late",
        "process": logged.processName,
        "pid": logged.process,
    }


def test_a_time_is_written_in_utc() -> None:
    logged = record("begun")
    logged.created = 0.25

    assert line_of(logged)["time"] == "1970-01-01T00:00:00.250000Z"


def test_the_fields_of_a_line_stand_beside_its_message() -> None:
    logged = record(
        "dropped", **log_fields(LogEvent.MESSAGE_DROPPED, execution_id="01a2", node_id="charge", seq=3)
    )

    line = line_of(logged)

    assert (line["event"], line["execution_id"], line["node_id"]) == ("message_dropped", "01a2", "charge")
    assert line["seq"] == 3


def test_a_field_with_the_name_of_a_part_of_the_line_does_not_replace_it() -> None:
    line = line_of(record("shipped", level="ground floor", time="noon"))

    assert (line["level"], line["level_"]) == ("WARNING", "ground floor")
    assert (line["time"][-1], line["time_"]) == ("Z", "noon")


def test_an_exception_stands_in_its_line_with_its_traceback() -> None:
    try:
        raise ValueError("several\nlines")
    except ValueError:
        logged = record("failed", exc_info=sys.exc_info())

    exception = line_of(logged)["exception"]

    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith("ValueError: several\nlines")


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "carriage\rreturn",
        "unicode\u2028and\u0085breaks",
        "Zürich 🚚 東京",
        "half \ud83d",
        "\x00",
    ],
)
def test_a_text_of_any_characters_stays_on_its_line_and_comes_back_the_same(text: str) -> None:
    line = line_of(record("%s", text, order=text))

    assert line["message"] == text
    assert line["order"] == text


CIRCULAR: list[object] = []
CIRCULAR.append(CIRCULAR)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, None, True, 1.5]}, {"a": [1, None, True, 1.5]}),
        (datetime(2026, 11, 29), "2026-11-29 00:00:00"),
        ({"when": datetime(2026, 11, 29)}, {"when": "2026-11-29 00:00:00"}),
        ({(1, 2): "a tuple as a key"}, "{(1, 2): 'a tuple as a key'}"),
        (math.nan, "nan"),
        (b"bytes", "b'bytes'"),
        (10**30, 10**30),
        (Hostile(), "<unprintable Hostile>"),
        ([Hostile()], ["<unprintable Hostile>"]),
        (CIRCULAR, "[[...]]"),
        (frozenset("x" * 10_000), "frozenset({'x'})"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_field_that_is_no_json_is_written_as_text(value: object, written: object) -> None:
    assert line_of(record("shipped", order=value, parcels=2))["order"] == written


def test_the_text_of_a_field_that_is_no_json_is_bounded() -> None:
    assert len(line_of(record("shipped", order=b"x" * 10_000))["order"]) == LONGEST_UNKNOWN


def test_a_message_that_does_not_fit_its_arguments_is_written_with_them() -> None:
    assert line_of(record("%d orders", "two"))["message"] == "%d orders ('two',)"
    assert line_of(record("%s", Hostile()))["message"] == "%s <unprintable tuple>"


def test_a_line_of_other_code_gets_the_execution_it_was_logged_for() -> None:
    with log_context("01a2", "billing", "charge", 3):
        line = line_of(record("the bank is slow", bank="N26"))

    known = {name: line[name] for name in ("execution_id", "workflow", "node_id", "seq", "bank")}
    assert known == {
        "execution_id": "01a2",
        "workflow": "billing",
        "node_id": "charge",
        "seq": 3,
        "bank": "N26",
    }


def test_a_line_about_another_execution_gets_nothing_of_the_one_it_was_logged_for() -> None:
    with log_context("01a2", "billing", "charge", 3):
        line = line_of(record("cancelled", **log_fields(LogEvent.MOVE_NOT_ANNOUNCED, execution_id="77ff")))

    assert line["execution_id"] == "77ff"
    assert "node_id" not in line


def test_where_no_logging_is_configured_warnings_are_lines_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "lastResort", logging._StderrHandler(logging.WARNING))
    logger = logging.Logger("alone")

    format_unconfigured_logging()
    logger.warning("Postgres is away", extra=log_fields(LogEvent.OUTAGE_BEGAN, service="Postgres"))

    assert json.loads(capsys.readouterr().err)["event"] == "outage_began"
