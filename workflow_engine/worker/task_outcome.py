"""Reports the end of a hop to Celery, by the task's result or exception once everything is committed.

A failed node is a failed task, and an attempt that is repeated is a task's retry, for Celery's signals,
events, metrics and log. Everything else is a success, whose result describes it.
"""

from __future__ import annotations

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Retry, TaskPredicate

from workflow_engine.engine.hop_report import HopEnd, HopReport
from workflow_engine.errors import NodeFailed
from workflow_engine.nodes.results import NodeError

MEANT_FOR_CELERY = (TaskPredicate, Terminated, TimeLimitExceeded, WorkerLostError, MemoryError)
"""Exceptions that Celery takes as instructions, such as to put a message back."""


def task_outcome(report: HopReport, node_id: str) -> str | Exception:
    """Return the task's result, or the exception that it has to raise.

    `node_id` is the node of the task's message, by which Celery names the task.
    """
    if report.error is None:
        return str(report)
    error = exception_of(report.error)
    if report.node_id != node_id:
        error.add_note(f"in node {report.node_id!r}, which was run inline after {node_id!r}")
    for failure in report.failures:
        error.add_note(f"before it, {failure}")
    if report.end is HopEnd.RETRYING:
        retry: Exception = Retry(exc=error, when=report.retry_in)
        retry.__cause__ = error
        return retry
    return error


def exception_of(error: NodeError) -> Exception:
    """Return the node's exception if it is safe for Celery, else a `NodeFailed` in its place."""
    copy = error.raised.copy() if error.raised is not None else None
    if isinstance(copy, Exception) and not isinstance(copy, MEANT_FOR_CELERY):
        return copy
    trace = error.raised.traceback() if error.raised is not None else None
    return NodeFailed(error.type, error.message).with_traceback(trace)
