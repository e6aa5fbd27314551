"""What a node executor returns: success, failure or a wait."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from workflow_engine.definition.workflow import LONGEST_WAIT, ORDINARY
from workflow_engine.execution.bounded_texts import readable_part
from workflow_engine.json_values import is_storable_time, storable_text
from workflow_engine.nodes.children import Children
from workflow_engine.nodes.raised import Raised, traceback_text

TRACEBACK = "traceback"
"""The key in an error's details for the traceback of the exception behind it."""

LONGEST_NAME = 200
"""Characters of an event's name, its id and its correlation id."""


@dataclass(frozen=True)
class NodeError:
    """Why a node failed. `type` is the exception's class name or an upper-case code of the engine."""

    type: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    """Dotted names of the exception's class and its bases, by which retries may name it; not stored."""
    status: int | None = None
    """The HTTP status of the response behind the error, if there is one."""
    retry_after: float | None = None
    """Seconds that the other side asks to wait; a retry waits no less. Not stored."""
    raised: Raised | None = field(default=None, compare=False, repr=False)
    """The exception behind the error, if any; not stored."""

    def as_output(self, attempt: int) -> dict[str, Any]:
        """Return what the nodes that follow read of the failed one, and what its conditions can look at."""
        return {
            "type": self.type,
            "message": self.message,
            "attempt": attempt,
            "details": {name: value for name, value in self.details.items() if name != TRACEBACK},
            **self._status,
        }

    def as_stored(self) -> dict[str, Any]:
        """Return what the journal keeps beside the message, each part where it can be queried."""
        details = dict(self.details)
        traceback = {TRACEBACK: details.pop(TRACEBACK)} if TRACEBACK in details else {}
        return {"type": self.type, **self._status, **({"details": details} if details else {}), **traceback}

    @property
    def _status(self) -> dict[str, int]:
        return {} if self.status is None else {"status": self.status}


@dataclass(frozen=True)
class Wait:
    """What a node waits for: a time, named events of a correlation id, or children that it starts."""

    until: datetime | None = None
    """A point in time, with its zone."""
    seconds: float | None = None
    """Seconds from now, by the database's clock."""
    events: tuple[str, ...] = ()
    required: Literal["all", "any"] | tuple[str, ...] = "all"
    """Which of the events wake the node."""
    correlation_id: str | None = None
    timeout: float | None = None
    """Seconds after which the node is woken without the events."""
    children: Children | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a wait that would never end, or that cannot be stored."""
        given = (self.until, self.seconds, self.events or None, self.children)
        if sum(way is not None for way in given) != 1:
            raise ValueError(
                "wait for one of these: until a time, for some seconds, for events, or for children"
            )
        if self.until is not None and (not isinstance(self.until, datetime) or self.until.tzinfo is None):
            raise ValueError(f"until must be a datetime with its zone, not {self.until!r:.60}")
        if self.until is not None and not is_storable_time(self.until):
            raise ValueError(f"until must be between the years 1 and 9999, not {self.until.isoformat()}")
        for name, seconds in (("seconds", self.seconds), ("timeout", self.timeout)):
            if seconds is not None and not (isinstance(seconds, int | float) and math.isfinite(seconds)):
                raise ValueError(f"{name} must be a number of seconds, not {seconds!r:.60}")
            if seconds is not None and abs(seconds) > LONGEST_WAIT:
                raise ValueError(f"{name}: {seconds:g} s are more than a hundred years")
        if self.events and not self.correlation_id:
            raise ValueError("events are found by a correlation_id; give one")
        if isinstance(self.required, str) and self.required not in ("all", "any"):
            raise ValueError(f"required is 'all', 'any' or the names of events, not {self.required!r:.60}")
        required = () if isinstance(self.required, str) else self.required
        for text in (*self.events, *required, *filter(None, [self.correlation_id])):
            if not isinstance(text, str) or storable_text(text) != text:
                raise ValueError(f"names of events and correlation ids are text, not {text!r:.60}")
            if not 0 < len(text) <= LONGEST_NAME:
                raise ValueError(
                    f"names of events and correlation ids have 1 to {LONGEST_NAME} characters, "
                    f"{text!r:.60} has {len(text)}"
                )


@dataclass(frozen=True)
class NodeExecutionResult:
    """The result of a node executor: success, failure or waiting. Build one with the functions below."""

    kind: Literal["success", "failure", "waiting"]
    output: Any = None
    handle: str | None = ORDINARY
    """The way out that is taken; None ends the branch here."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    error: NodeError | None = None
    wait: Wait | None = None
    retry_in: float | None = None
    """After a failure whose code decides by itself on another attempt: the seconds until then."""


def success(
    output: Any = None, *, handle: str | None = ORDINARY, variables: Mapping[str, Any] | None = None
) -> NodeExecutionResult:
    """Return the result of a node that is done.

    `output` is any JSON value; `variables` are set for the whole execution.
    """
    return NodeExecutionResult("success", output=output, handle=handle, variables=variables or {})


def failure(
    type: str,
    message: str,
    details: Mapping[str, Any] | None = None,
    *,
    status: int | None = None,
    retry_after: float | None = None,
) -> NodeExecutionResult:
    """Return the result of a node that could not do its work.

    `type` names the error in routes and retries, as does `status`, an HTTP status. A retry waits for at least
    `retry_after` seconds.
    """
    error = NodeError(type, message, details or {}, status=status, retry_after=retry_after)
    return NodeExecutionResult("failure", error=error)


def failure_of(error: BaseException) -> NodeExecutionResult:
    """Return an exception as a failure, with its traceback in the details."""
    name = type(error).__name__
    classes = tuple(f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__[:-1])
    node_error = NodeError(
        name,
        _text_of(error) or name,
        {TRACEBACK: storable_text(readable_part(traceback_text(error)))},
        classes,
        _status_of(error),
        _retry_after_of(error),
        Raised(error),
    )
    return NodeExecutionResult("failure", error=node_error)


def is_http_status(value: Any) -> bool:
    """Return whether a value is a status that a response can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599


def is_retry_after(value: Any) -> bool:
    """Return whether a value is a number of seconds that a retry can wait."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf


def _status_of(error: BaseException) -> int | None:
    """Return the status that errors of HTTP libraries have in `response.status_code`, or in `status`."""
    for status in (_attribute(_attribute(error, "response"), "status_code"), _attribute(error, "status")):
        if is_http_status(status):
            return int(status)
    return None


def _retry_after_of(error: BaseException) -> float | None:
    seconds = _attribute(error, "retry_after")
    return float(seconds) if is_retry_after(seconds) else None


def _attribute(value: Any, name: str) -> Any:
    try:
        return getattr(value, name, None)
    except BaseException:  # noqa: BLE001 - an attribute may be a property that raises
        return None


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - an exception may be as broken as the code that raises it
        return "<unprintable: __str__ raised>"


def waiting(
    *,
    until: datetime | None = None,
    seconds: float | None = None,
    events: Sequence[str] = (),
    required: Literal["all", "any"] | Sequence[str] = "all",
    correlation_id: str | None = None,
    timeout: float | None = None,
    children: Children | None = None,
) -> NodeExecutionResult:
    """Return the result of a node that waits: until a time, for seconds, for events, or for children.

    The node holds no worker while it waits. Afterwards any worker calls its `resume`, or calls a function
    again, with `context.wake`. Raises ValueError for a wait that would never end.
    """
    if isinstance(events, str):
        raise ValueError(f"events are a list of names; write [{events!r:.60}]")
    chosen: Any = required if isinstance(required, str) else tuple(required)
    wait = Wait(until, seconds, tuple(events), chosen, correlation_id, timeout, children)
    return NodeExecutionResult("waiting", wait=wait)
