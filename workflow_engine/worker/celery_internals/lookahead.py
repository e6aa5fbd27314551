"""Lets a process of the pool see its next task, which waits in its pipe, before it has ended the present one.

Celery's process reads its pipe only when it is idle. A node that is left with the next message in sight can
share a round trip with it. The task stays the next one that the process runs.
"""

from __future__ import annotations

import select
from typing import Any

import orjson
from billiard import current_process
from celery import current_app
from celery.signals import worker_process_init, worker_process_shutdown

from workflow_engine.broker.wire_format import FORMAT_HEADER, TASK_NAME
from workflow_engine.engine.assembly import worker_engine
from workflow_engine.errors import InvalidMessage
from workflow_engine.execution.messages import HopMessage, LookAhead, NextMessage, sees_nothing
from workflow_engine.execution.records import FORMAT
from workflow_engine.worker.celery_internals.compatibility import (
    changes_for_lookahead,
    is_turned_on,
    log_changes,
)

LONGEST_WAIT = 1_000
"""Milliseconds."""


class Lookahead:
    """The tasks of a pool process: `loop` is what runs them, one after another."""

    def __init__(self, loop: Any) -> None:
        self._receive = loop.wait_for_job
        self._seen: Any = None
        self._poll = select.poll()
        self._poll.register(loop.inq._reader, select.POLLIN)
        loop.wait_for_job = self._wait

    def _wait(self) -> Any:
        if self._seen is None:
            return self._receive()
        seen, self._seen = self._seen, None
        if isinstance(seen, BaseException):
            raise seen
        return seen

    def next_message(self, until: int | None = None) -> NextMessage | None:
        """Return the message of the next task if that is a node and has come.

        With a file descriptor, wait until that is readable, or the task comes.
        """
        if self._seen is None:
            if not self._has_come(until):
                return None
            try:
                self._seen = self._receive()
            except SystemExit as end:  # of the loop, which comes to it once the present task has ended
                self._seen = end
        return _message_of(self._seen)

    def _has_come(self, until: int | None) -> bool:
        if until is None:
            return bool(self._poll.poll(0))
        self._poll.register(until, select.POLLIN)
        try:
            return any(which != until for which, _ in self._poll.poll(LONGEST_WAIT))
        finally:
            self._poll.unregister(until)


def _message_of(job: Any) -> NextMessage | None:
    match job:
        case (_, (_, _, _, (name, task_id, request, body, "application/json", *_), _)) if name == TASK_NAME:
            form = request.get(FORMAT_HEADER)
            if isinstance(form, int) and form > FORMAT:
                return None
            try:
                _, message, *_ = orjson.loads(body)
                return NextMessage(HopMessage.of(message), task_id)
            except (ValueError, TypeError, AttributeError, InvalidMessage):
                return None  # the task itself refuses it
    return None


_lookahead: Lookahead | None = None


def sight() -> LookAhead:
    """Return what sees the next message of this process."""
    return _lookahead.next_message if _lookahead is not None else sees_nothing


@worker_process_init.connect(weak=False)
def _look_ahead(**_: Any) -> None:
    global _lookahead  # noqa: PLW0603 - of this process
    process: Any = current_process()
    # The pool `solo` sends this signal for the main process.
    if process.name == "MainProcess" or not is_turned_on(current_app):
        return
    if changed := changes_for_lookahead(process):
        log_changes(changed, "A process enters each node by a call to Redis of its own")
        return
    _lookahead = Lookahead(process._target)


@worker_process_shutdown.connect(weak=False)
def _settle(**_: Any) -> None:
    if _lookahead is not None:
        worker_engine(current_app._get_current_object()).executor.settle()
