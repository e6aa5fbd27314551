"""The events that log lines report, and the fields that go with them.

Each line of the engine at level INFO or above reports one event: `log.warning(…, extra=log_fields(…))`. The
text is for people and may change; events and fields are for filters and alerts, and docs/operations.md lists
them in one table. Fields hold names, ids and numbers, never what a node was given, put out or raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from workflow_engine.telemetry import counting

Field = str | int | float

LONGEST_FIELD = 200
"""Characters of a field; the names that definitions allow are shorter."""


class LogEvent(StrEnum):
    """What happened."""

    # to an execution
    MESSAGE_DROPPED = "message_dropped"
    COMMIT_REFUSED = "commit_refused"
    NODE_INTERRUPTED = "node_interrupted"
    NODE_LEFT_BEHIND = "node_left_behind"
    CODE_MISSING = "code_missing"
    TASK_NOT_ROUTED = "task_not_routed"
    INLINE_RUN_CUT_SHORT = "inline_run_cut_short"
    HOP_UNFINISHED = "hop_unfinished"
    CONTEXT_DISCARDED = "context_discarded"
    CONTEXT_NOT_CACHED = "context_not_cached"
    LOCK_TAKEN_OVER = "lock_taken_over"
    WAKE_DELAYED = "wake_delayed"
    MESSAGE_SENT_AGAIN = "message_sent_again"
    PROCESS_LOST = "process_lost"
    EXECUTION_TAKEN_OVER = "execution_taken_over"
    EXECUTION_RESCUED = "execution_rescued"
    EXECUTION_LEFT = "execution_left"
    EXECUTION_TIMED_OUT = "execution_timed_out"
    EXECUTIONS_REMOVED = "executions_removed"
    RECOVERY_FAILED = "recovery_failed"
    HISTORY_LINE_LOST = "history_line_lost"
    MOVE_NOT_ANNOUNCED = "move_not_announced"

    # to a start
    PUBLICATION_FAILED = "publication_failed"
    BACKGROUND_CALL_FAILED = "background_call_failed"
    BACKGROUND_CALL_DELAYED = "background_call_delayed"
    SCHEDULE_MISSED = "schedule_missed"
    SCHEDULE_REFUSED = "schedule_refused"
    SCHEDULE_FAILED = "schedule_failed"

    # to a server
    OUTAGE_BEGAN = "outage_began"
    OUTAGE_ENDED = "outage_ended"
    LOCK_SERVER_LOST = "lock_server_lost"
    LOCK_SERVER_RECOVERED = "lock_server_recovered"
    MESSAGE_REFUSED = "message_refused"

    # to a worker
    START_REFUSED = "start_refused"
    WORKER_ENDED = "worker_ended"
    THREAD_FAILED = "thread_failed"
    TIMEKEEPING_FAILED = "timekeeping_failed"
    PERIODIC_CALL_FAILED = "periodic_call_failed"
    CONSUMPTION_STALLED = "consumption_stalled"
    EVENT_LOOP_BLOCKED = "event_loop_blocked"
    HEARTBEAT_FAILED = "heartbeat_failed"
    HEARTBEAT_RECOVERED = "heartbeat_recovered"
    HEARTBEATS_LEFT_OVER = "heartbeats_left_over"
    TIMEOUTS_WEAKENED = "timeouts_weakened"
    INTERNALS_CHANGED = "internals_changed"
    METRICS_NOT_SERVED = "metrics_not_served"


_context: ContextVar[Mapping[str, object]] = ContextVar("execution", default=MappingProxyType({}))


class _LogContext:
    # Not a generator, which costs more: every hop runs this several times.
    __slots__ = ("_ids", "_token")

    def __init__(self, ids: Mapping[str, object]) -> None:
        self._ids = ids

    def __enter__(self) -> None:
        self._token = _context.set(self._ids)

    def __exit__(self, *_: object) -> None:
        _context.reset(self._token)


def log_context(
    execution_id: str, workflow: str | None = None, node_id: str | None = None, seq: int | None = None
) -> AbstractContextManager[None]:
    """Give these fields to every line that the block logs, unless it is about another execution."""
    ids = {"execution_id": execution_id, "workflow": workflow, "node_id": node_id, "seq": seq}
    return _LogContext(ids)


def current_log_context() -> dict[str, Field]:
    """Return the fields of the innermost `log_context` around the caller; none outside of any."""
    return _known(**_context.get())


def log_fields(
    event: LogEvent,
    *,
    execution_id: str | None = None,
    workflow: str | None = None,
    node_id: str | None = None,
    seq: int | None = None,
    error: BaseException | None = None,
    **more: object,
) -> dict[str, Field]:
    """Return the `extra` of a log line: its event, the fields that are given, and the type of `error`.

    A worker with metrics counts the event. The `log_context` adds its own fields, unless the line names
    another execution.
    """
    if counting.active is not None:
        counting.active.event(event.value)
    context = current_log_context()
    inherited = context if execution_id in (None, context.get("execution_id")) else {}
    about = _known(execution_id=execution_id, workflow=workflow, node_id=node_id, seq=seq)
    error_type = type(error).__name__ if error is not None else None
    return {"event": event.value, **inherited, **about, **_known(error_type=error_type, **more)}


def _known(**candidates: object) -> dict[str, Field]:
    return {name: _bounded(value) for name, value in candidates.items() if value is not None}


def _bounded(value: object) -> Field:
    if isinstance(value, int | float):
        return value
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text if len(text) <= LONGEST_FIELD else f"{text[: LONGEST_FIELD - 1]}…"
