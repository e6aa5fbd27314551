"""Messages: what makes a worker run a node, and the form in which one waits in a Redis queue."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from workflow_engine.errors import InvalidMessage
from workflow_engine.telemetry.log_events import log_context

LONGEST_NAME = 700
"""Characters of the id of a workflow or node in a message; definitions allow fewer, also of nested bodies."""

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class HopMessage:
    """The body of a message: run this node of this execution, whose journal has come to `seq`."""

    execution_id: str
    workflow: str
    version: int
    node_id: str
    seq: int

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> HopMessage:
        """Read the keyword arguments of a task. Raises `InvalidMessage` for any that the engine never writes.

        Other programs may write to the broker, and these values go into statements and log lines.
        """
        execution_id_of(body)
        names, numbers = (body.get("workflow"), body.get("node_id")), (body.get("version"), body.get("seq"))
        if len(body) > len(fields(cls)) or not all(map(_is_name, names)) or not all(map(_is_number, numbers)):
            raise _invalid(body)
        return cls(**body)

    def log_context(self) -> AbstractContextManager[None]:
        """Have the log lines of a block name this node of this execution."""
        return log_context(self.execution_id, self.workflow, self.node_id, self.seq)


class NextMessage(NamedTuple):
    """The message that a process serves next, and the id of its task."""

    message: HopMessage
    task_id: str


LookAhead = Callable[[int | None], NextMessage | None]
"""Returns the message that this process is certain to serve next, if it has come already.

With a file descriptor, waits for the message until that is readable.
"""


def sees_nothing(_until: int | None) -> None:
    """Return None, where no message is known before it is served."""


def execution_id_of(body: Mapping[str, Any]) -> str:
    """Return the execution that a message is for, the only part that later forms are sure to share.

    Raises `InvalidMessage`.
    """
    execution_id = body.get("execution_id")
    if not isinstance(execution_id, str) or UUID.fullmatch(execution_id) is None:
        raise _invalid(body)
    return execution_id


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _is_number(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


def _invalid(body: Mapping[str, Any]) -> InvalidMessage:
    return InvalidMessage(reprlib.repr(dict(body)))


@dataclass(frozen=True)
class Route:
    """Where the messages of a node go; None: where those of its execution go."""

    queue: str | None = None
    priority: int | None = None


@dataclass(frozen=True)
class QueuedMessage:
    """A message as it is pushed, on the left, onto a list of Redis."""

    key: str
    content: bytes


@dataclass(frozen=True)
class Dispatch:
    """A message and how it is sent."""

    message: HopMessage
    queue: str
    priority: int
    committed_at: datetime | None = None
    """The database's time of the commit or wake behind this message; it separates a backlog from a loss."""
    traceparent: str | None = None
    """The trace context of the span behind this message, if its execution is traced."""
