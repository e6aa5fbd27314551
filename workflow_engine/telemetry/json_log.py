"""Log lines as JSON: one object per line, in ASCII, of any record.

Neither a line break nor a terminal's character set splits or spoils a line, and no value that a program logs
keeps it from being written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from workflow_engine.telemetry.log_events import current_log_context

OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that are no fields."""

LONGEST_UNKNOWN = 1000
"""Characters of a value that is none of JSON's."""


class JsonFormatter(logging.Formatter):
    """Formats a record and its fields as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": message_of(record),
            "process": record.processName,
            "pid": record.process,
        }
        for name, value in self.fields_of(record).items():
            line[f"{name}_" if name in line else str(name)] = value
        if record.exc_info or record.exc_text:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return _encode(line)
        except NO_JSON:
            return _encode({name: _encodable(value) for name, value in line.items()})

    def fields_of(self, record: logging.LogRecord) -> Mapping[str, Any]:
        """Return what was given as `extra`; a line of other code than the engine's gets its `log_context`."""
        extra = {name: value for name, value in vars(record).items() if name not in OF_EVERY_RECORD}
        return extra if "event" in extra else {**current_log_context(), **extra}


def format_unconfigured_logging() -> None:
    """Write as JSON what Python itself writes to standard error where no logging is configured."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(JsonFormatter())


def message_of(record: logging.LogRecord) -> str:
    """Return the message of a record, or its parts if its arguments do not fit."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - the line counts more than what is wrong with its arguments
        return f"{_text(record.msg)} {_text(record.args)}"


def _encodable(value: object) -> object:
    try:
        _encode(value)
    except NO_JSON:
        return _text(value)
    return value


def _text(value: object) -> str:
    try:
        return str(value)[:LONGEST_UNKNOWN]
    except Exception:  # noqa: BLE001 - any code may be behind it
        return f"<unprintable {type(value).__name__}>"


NO_JSON = (TypeError, ValueError, RecursionError)
_encode = json.JSONEncoder(default=_text, allow_nan=False).encode
