"""Celery's log as lines of JSON, where `WORKFLOW_ENGINE_LOG_FORMAT` asks for it.

Celery's own handlers get another formatter. What Celery prints beside its log becomes a line of the same kind
or, as the banner, is left out. An app that configures logging itself keeps its format: by Celery's signal
`setup_logging`, by handlers of its own, or by formatters of its own.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from celery import current_task, signals
from celery.utils.log import ColorFormatter, get_multiprocessing_logger
from pydantic import ValidationError

from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.settings import Settings
from workflow_engine.telemetry.json_log import JsonFormatter


class CeleryJsonFormatter(JsonFormatter):
    """Adds the task that a line is about, and leaves out the data that Celery attaches for other handlers."""

    def fields_of(self, record: logging.LogRecord) -> Mapping[str, Any]:
        fields = dict(super().fields_of(record))
        if record.name.startswith("celery.") and isinstance(fields.get("data"), Mapping):
            # It also holds the arguments of a team's tasks, which are in no line of text.
            about = fields.pop("data")
            fields = {"task_id": about.get("id"), "task_name": about.get("name"), **fields}
        if current_task and (request := current_task.request).id:
            fields = {"task_id": request.id, "task_name": request.shadow or current_task.name, **fields}
            if current_task.name == TASK_NAME:
                # Of the nodes that it runs inline, the message names only the first.
                about = {name: (request.kwargs or {}).get(name) for name in ("execution_id", "workflow")}
                fields = {**about, **fields}
        return fields


def log_as_json(logger: logging.Logger) -> None:
    """Make Celery's handlers write JSON: those of this logger and of Celery's processes."""
    for handler in (*logger.handlers, *get_multiprocessing_logger().handlers):
        if isinstance(handler.formatter, ColorFormatter):
            handler.setFormatter(CeleryJsonFormatter())


@signals.after_setup_logger.connect(weak=False)
@signals.after_setup_task_logger.connect(weak=False)
def _set_formatters(logger: logging.Logger, **_: Any) -> None:
    if _is_wanted():
        log_as_json(logger)


@signals.celeryd_init.connect(weak=False)
def _print_json_only(instance: Any, **_: Any) -> None:
    if not _is_wanted():
        return
    from celery.apps import worker as program

    instance.quiet = True  # which leaves out the banner
    if (say := getattr(program, "safe_say", None)) is not None:
        program.safe_say = partial(_say_as_json, say)
    # Celery logs warnings only once its log is set up, and warns before that.
    warnings.showwarning = _show_warning


def _say_as_json(say: Any, message: str, stream: Any = sys.__stderr__) -> None:
    say(_line("celery.apps.worker", message), stream)


def _show_warning(
    message: Any, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    print(_line("py.warnings", text), file=file or sys.__stderr__)


def _line(logger: str, message: str) -> str:
    level = {"levelno": logging.WARNING, "levelname": "WARNING"}
    return CeleryJsonFormatter().format(logging.makeLogRecord({"name": logger, "msg": message, **level}))


def _is_wanted() -> bool:
    # Not `get_settings`, which caches: a program may set up its log before the engine's environment.
    try:
        return Settings().log_format == "json" and not signals.setup_logging.has_listeners()
    except ValidationError:  # a worker refuses to start with it
        return False
