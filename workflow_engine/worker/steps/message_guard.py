"""Refuses messages that would end a worker, or write lines of their own into its log.

Celery's main process does not check the headers and the body of a message: a list in place of a text ends the
process. Write access to a queue must not be enough for that. A refused message is acknowledged and logged in
one line of bounded length.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery import bootsteps
from kombu.exceptions import ContentDisallowed, DecodeError

from workflow_engine.broker.wire_format import FORMAT_HEADER, TASK_NAME
from workflow_engine.errors import InvalidMessage
from workflow_engine.execution.messages import HopMessage, execution_id_of
from workflow_engine.execution.records import FORMAT
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

LONGEST_ID = 255
"""Characters of a task's id or name."""

NAMES = ("id", "task")
TEXTS = ("root_id", "parent_id", "group", "shadow", "eta", "expires", "argsrepr", "kwargsrepr", "origin")


class MessageGuard(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Part of the consumer; stands before its handler of messages."""

    requires = {"celery.worker.consumer.connection:Connection"}  # noqa: RUF012 - celery's way to order steps

    def create(self, consumer: Any) -> None:
        consumer.create_task_handler = partial(_guard_handler, consumer, consumer.create_task_handler)


def _guard_handler(consumer: Any, create: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    handle = create(*arguments, **options)

    def receive(message: Any) -> Any:
        try:
            check(message)
        except InvalidMessage as refusal:
            log.warning(
                "Refused a message that no worker can read: %s",
                refusal,
                extra=log_fields(LogEvent.MESSAGE_REFUSED, error=refusal),
            )
            return message.ack_log_error(log, consumer.connection_errors)
        return handle(message)

    return receive


def check(message: Any) -> None:
    """Raise `InvalidMessage` for a message that Celery or the engine cannot read."""
    headers = message.headers
    if not isinstance(headers, Mapping) or "task" not in headers:
        raise InvalidMessage(f"it names no task; its headers are {reprlib.repr(headers)}")
    for name in NAMES:
        if not _is_name(headers.get(name)):
            raise InvalidMessage(f"its {name} is {reprlib.repr(headers.get(name))}")
    for name in TEXTS:
        if not isinstance(headers.get(name), str | None):
            raise InvalidMessage(f"its {name} is {reprlib.repr(headers[name])}")
    if not isinstance(headers.get("retries"), int | None):
        raise InvalidMessage(f"its retries are {reprlib.repr(headers['retries'])}")
    if not _is_time_limit(headers.get("timelimit")):
        raise InvalidMessage(f"its timelimit is {reprlib.repr(headers['timelimit'])}")
    if not isinstance(message.delivery_info, Mapping):
        raise InvalidMessage(f"its delivery_info is {reprlib.repr(message.delivery_info)}")
    if headers["task"] == TASK_NAME:
        _check_hop(headers, message)
    else:
        _check_body(message)


def _check_hop(headers: Mapping[str, Any], message: Any) -> None:
    body, form = _body_of(message), headers.get(FORMAT_HEADER)
    if not isinstance(body, list) or len(body) < 2 or not isinstance(body[1], dict):
        raise InvalidMessage(f"its body is {reprlib.repr(body)}")
    if isinstance(form, int) and form > FORMAT:
        execution_id_of(body[1])
    else:
        HopMessage.of(body[1])
    if headers.get("eta") or headers.get("expires"):
        raise InvalidMessage("it has an eta or expires, which the engine never sets")


def _check_body(message: Any) -> None:
    try:
        body = _body_of(message)
    except InvalidMessage as refusal:
        if isinstance(refusal.__cause__, DecodeError | ContentDisallowed):
            return  # Celery reports these
        raise
    if not isinstance(body, list | tuple | dict):
        raise InvalidMessage(f"its body is {reprlib.repr(body)}")


def _body_of(message: Any) -> Any:
    try:
        return message.payload
    except Exception as error:
        raise InvalidMessage(f"its body cannot be read: {type(error).__name__}") from error


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_ID and value.isprintable()


def _is_time_limit(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(isinstance(limit, int | float | None) for limit in value)
