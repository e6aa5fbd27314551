"""Each log line of the engine reports an event that the table in docs/operations.md explains."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.repository import ROOT
from workflow_engine.telemetry.log_events import LogEvent

LEVELS = {
    "info": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "CRITICAL",
}
IDS = frozenset({"execution_id", "workflow", "node_id", "seq"})
OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.+) \|(.*)\|$", re.MULTILINE)


@dataclass(frozen=True)
class LogCall:
    """A call that logs at INFO or above: its place, and its `extra`."""

    place: str
    level: str
    event: str
    fields: frozenset[str]


def log_calls() -> Iterator[LogCall]:
    for file in sorted((ROOT / "workflow_engine").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "logger"), attr=method)):
                    if method in LEVELS:
                        place = f"{file.relative_to(ROOT)}:{node.lineno}"
                        yield LogCall(place, LEVELS[method], *extra_of(node))


def extra_of(call: ast.Call) -> tuple[str, frozenset[str]]:
    """Return the event and the field names that a call passes as `extra`; no event if it passes none."""
    for keyword in call.keywords:
        match keyword:
            case ast.keyword(
                arg="extra",
                value=ast.Call(
                    func=ast.Name(id="log_fields"),
                    args=[ast.Attribute(value=ast.Name(id="LogEvent"), attr=name)],
                    keywords=given,
                ),
            ):
                names = ("error_type" if field.arg == "error" else str(field.arg) for field in given)
                return LogEvent[name].value, frozenset(names)
    return "", frozenset()


CALLS = list(log_calls())


@dataclass(frozen=True)
class Row:
    """A row of the table: the level of an event, when it is logged, and with which fields."""

    level: str
    when: str
    fields: frozenset[str]


def table() -> dict[str, Row]:
    _, _, logs = (ROOT / "docs/operations.md").read_text().partition("\n## Logs\n")
    section, _, _ = logs.partition("\n## ")
    return {
        event: Row(
            level, when, frozenset(re.findall(r"`(\w+)`", fields)) | (IDS if " ids" in fields else set())
        )
        for event, level, when, fields in ROW.findall(section)
    }


def test_each_line_at_info_or_above_has_an_event() -> None:
    assert len(CALLS) > 30
    assert [call.place for call in CALLS if not call.event] == []


def test_each_event_is_logged_somewhere() -> None:
    assert {event.value for event in LogEvent} == {call.event for call in CALLS}


def test_the_table_has_a_row_for_each_event_and_no_other() -> None:
    assert table().keys() == {event.value for event in LogEvent}


@pytest.mark.parametrize("event", [event.value for event in LogEvent])
def test_the_table_has_the_level_and_the_fields_of_an_event(event: str) -> None:
    row, calls = table()[event], [call for call in CALLS if call.event == event]

    assert {call.level for call in calls} == {row.level}
    given = frozenset().union(*(call.fields for call in calls))
    assert given - IDS == row.fields - IDS
    assert given & IDS <= row.fields, "ids that a line names itself; others come from the context"


def test_no_field_has_the_name_of_what_every_record_has() -> None:
    assert [call.place for call in CALLS if call.fields & OF_EVERY_RECORD] == []


def test_events_are_named_after_what_happened() -> None:
    assert {event for event in LogEvent if not re.fullmatch(r"[a-z]+(_[a-z]+)+", event)} == set()
    assert [event.value for event in LogEvent] == [event.name.lower() for event in LogEvent]
