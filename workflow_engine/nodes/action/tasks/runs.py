"""One run of a Celery task inside a node: Celery's own tracer, with a request of ours.

The tracer calls the task as a worker does: signals, `before_start`, `on_success`, `on_failure`, base classes
and autoretry are Celery's code, not ours. `is_eager` in the request keeps `self.retry` from publishing. The
request ignores the result, so nothing reaches a result backend.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from celery import Task, current_app, current_task, states
from celery.app import trace
from celery.exceptions import Ignore, NotRegistered, Reject, Retry, SoftTimeLimitExceeded

from workflow_engine.definition.workflow import LONGEST_WAIT
from workflow_engine.errors import UnknownNodeType
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.action.tasks.progress import CONTEXT, report_states_as_progress
from workflow_engine.nodes.contract import NodeTimedOut, TimeLimits
from workflow_engine.nodes.results import NodeExecutionResult, failure, failure_of, success, waiting

REFUSED = "TASK_REFUSED"
"""The type of the error of a task that does what a node cannot."""

LONGEST_PAUSE = 60.0
"""Seconds after which a node runs again at the latest, if its task gives the message back each time."""

STAMPS = ("stamps", "stamped_headers")

FRAMES_OF_THE_TRACER = ("celery.app.trace", "celery.app.autoretry", __name__)


class ReplacementRefused(Ignore):  # type: ignore[misc]
    """Raised inside a task that replaces itself.

    Like Celery's own exceptions of this kind, it is not retried by `autoretry_for`.
    """


class _NoReplacement:
    """Stands where `self.replace` counts how often a task was replaced, and refuses to be counted."""

    def __add__(self, other: int) -> int:
        raise ReplacementRefused


class _Tracers:
    """The tracers of the tasks of this process, each built at the first run, as Celery does."""

    def __init__(self) -> None:
        self._kept: dict[Task, Any] = {}

    def of(self, task: Task) -> Any:
        if (tracer := self._kept.get(task)) is None:
            report_states_as_progress()
            # By its module: error trackers replace the function there.
            tracer = self._kept[task] = trace.build_tracer(task.name, task, app=task.app)
        return tracer


_tracers = _Tracers()


def registered_task(name: str) -> Task:
    """Return the task of the present app. Raises `UnknownNodeType` if it has none of this name."""
    try:
        return current_app.tasks[name]
    except NotRegistered:
        raise UnknownNodeType(
            name,
            f"no Celery task is registered as {name!r} in the app {current_app.main!r}",
            "have the worker's app import its module, by `include` or `autodiscover_tasks`",
        ) from None


def limits_of(name: str) -> TimeLimits:
    """Return the time limits of a task. Raises `UnknownNodeType`."""
    task = registered_task(name)
    return TimeLimits(task.time_limit, task.soft_time_limit, SoftTimeLimitExceeded)


def run_task(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    context: ExecutionContext,
    headers: Mapping[str, Any],
    errbacks: Sequence[Mapping[str, Any]] = (),
) -> NodeExecutionResult:
    """Run a registered task once, and return what follows from its end; `success` has the task's own value.

    Raises `UnknownNodeType`, and the task's exception if it has failed for good.
    """
    task = registered_task(name)
    tracer = _tracers.of(task)
    request = _request(task, context, headers) | {"errbacks": [_signature(each) for each in errbacks]}
    value, info, *_ = tracer(context.idempotency_key, list(args), dict(kwargs), request)
    if info is None:
        return success(value)
    ended = info.retval
    match info.state:
        case states.RETRY:
            return _retried(task, ended, args, kwargs)
        case states.IGNORED if isinstance(ended, ReplacementRefused):
            return failure(
                REFUSED,
                f"task {name!r} called self.replace, which a node cannot: make the replacement a node of its "
                "own, after this one",
            )
        case states.IGNORED:
            return success(None)
        case states.REJECTED:
            return _rejected(name, ended, context)
    raise ended.with_traceback(_own_part(ended.__traceback__))


def _request(task: Task, context: ExecutionContext, headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task's request; its worker and logger are those of the task that runs the node."""
    outer = current_task.request if current_task else None
    place = {} if outer is None else outer.delivery_info or {}
    return {
        **headers,
        "lang": "py",
        "task": task.name,
        "id": context.idempotency_key,
        "correlation_id": context.idempotency_key,
        "root_id": context.execution_id,
        "parent_id": None,
        "retries": context.attempt - 1,
        "is_eager": True,
        "ignore_result": True,
        "hostname": (outer.hostname if outer is not None else None) or socket.gethostname(),
        "loglevel": getattr(outer, "loglevel", None),
        "logfile": getattr(outer, "logfile", None),
        # `is_eager` has errbacks of the older kind called here, too, in place of a message for each.
        "delivery_info": {"exchange": "", "routing_key": None, "priority": None, **place, "is_eager": True},
        "timelimit": [task.time_limit, task.soft_time_limit],
        "headers": {name: value for name, value in headers.items() if name not in STAMPS},
        "replaced_task_nesting": _NoReplacement(),
        CONTEXT: context,
    }


def _signature(errback: Mapping[str, Any]) -> dict[str, Any]:
    """Return an errback as the signature that Celery calls."""
    return {"args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False, **errback}


def _retried(task: Task, retry: Retry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NodeExecutionResult:
    if isinstance(retry.exc, NodeTimedOut):
        raise retry.exc  # Celery would have killed it, and autoretry not have seen it
    sent = retry.sig
    if sent is not None and (list(sent.args or ()), dict(sent.kwargs or {})) != (list(args), dict(kwargs)):
        return failure(
            REFUSED,
            f"task {task.name!r} called self.retry with other arguments, which a node cannot: leave out "
            "`args` and `kwargs`, and keep what changes in a store of your own or in the next node",
        )
    if retry.exc is not None:
        error = retry.exc
        failed = failure_of(error.with_traceback(_own_part(error.__traceback__)))
    else:
        failed = failure("Retry", str(retry))
    return dataclasses.replace(failed, retry_in=_seconds(retry.when, task))


def _seconds(when: Any, task: Task) -> float:
    """Return how long to wait for the next attempt, given Celery's seconds or time."""
    if isinstance(when, datetime):
        when = (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)
    if when is None:
        when = task.default_retry_delay
    seconds = when.total_seconds() if hasattr(when, "total_seconds") else float(when)
    return float(min(max(seconds, 0.0), LONGEST_WAIT))


def _rejected(name: str, rejected: Reject, context: ExecutionContext) -> NodeExecutionResult:
    if not rejected.requeue:
        return failure("Reject", f"task {name!r} rejected its message: {rejected.reason}")
    waited = context.wake.waited if context.wake is not None else 0.0
    return waiting(seconds=min(LONGEST_PAUSE, max(1.0, waited)))


def _own_part(trace_: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames with which the tracer has called the task."""
    own = trace_
    while own is not None and own.tb_frame.f_globals.get("__name__") in FRAMES_OF_THE_TRACER:
        own = own.tb_next
    return own or trace_
