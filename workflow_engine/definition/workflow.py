"""The definition of a workflow: nodes, edges and settings, in one format for JSON, YAML and Python.

Attributes are snake_case in Python and camelCase in JSON and YAML. These classes hold the shape of a
definition only. `validation` decides whether it makes sense as a whole; it also turns raw data into a
`Workflow` and is the way in for all handwritten definitions. The input is kept: null is not the same as
left out, 30 does not become 30.0, a default that is spelled out stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    WrapValidator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from workflow_engine.errors import InvalidValue
from workflow_engine.json_values import LARGEST_INTEGER, normalise

ORDINARY = ""
"""The way out of a node that has only one; an edge without `sourceHandle` leaves from it."""

ERROR = "error"
"""The way out that is taken once a node has failed for good."""

NODE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
WORKFLOW_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
QUEUE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"

LONGEST_WAIT = 100 * 365 * 86_400
"""A hundred years in seconds: anything longer is a mistake in the unit."""

LONGEST_RETRY_WAIT = 8 * 7 * 24 * 3600 * 1000
"""Milliseconds between two attempts: eight weeks."""

MOST_RULES = 20
"""Rules in one node's `retry`."""

ALL_ERRORS = "all"
"""What a rule names in place of errors to match every one."""

MOST_LIMITS = 10
"""Limits of one workflow or node."""

RATE_UNITS = {
    "s": 1,
    "second": 1,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86_400,
    "day": 86_400,
}
"""Seconds by the unit of a rate."""

MAX_CONCURRENCY = 64
"""Nodes of one execution that may run at the same time, at most."""

UNSTORABLE = "unstorable"
"""pydantic's error type for data that is not JSON; the error's input is that data."""

FUNCTION_NAME_ATTRIBUTE = "__workflow_function__"
"""Where a decorated Python function keeps the name by which definitions call it."""


def _storable(value: Any) -> Any:
    try:
        return normalise(value)
    except InvalidValue as refusal:
        raise PydanticCustomError(UNSTORABLE, "{reason}", {"reason": refusal.message}) from None


def _storable_text(text: str) -> str:
    return text if text.isascii() and "\x00" not in text else _storable(text)  # most text, and quickly


def _storable_object(value: Any) -> Any:
    return _storable(value) if isinstance(value, dict) else value  # pydantic refuses anything else


def _as_written(number: Any, check: Callable[[Any], float]) -> Any:
    check(number)
    return _storable(number)


def _handle_name(value: Any) -> Any:
    """Return a boolean as text: YAML reads an unquoted `true` as one, but handles are text."""
    return str(value).lower() if isinstance(value, bool) else value


def _status_as_text(value: Any) -> Any:
    """Return a number as text: YAML reads an unquoted 503 as one."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _names_an_error(name: str) -> str:
    if not re.fullmatch(r"[1-5](\d\d|xx)|[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise ValueError(
            f"{name!r:.60} names no error; write an exception class or error type such as TimeoutError, "
            "or an HTTP status such as 503 or 5xx"
        )
    return name


def _errors_or_all(value: Any) -> Any:
    if value == ALL_ERRORS:
        return value
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of errors such as [TimeoutError, 5xx], or 'all'")
    if ALL_ERRORS in value:
        raise ValueError("'all' stands alone; write `on: all`, and leave out the other errors")
    return value


def _can_be_mapped(output: Any) -> Any:
    if isinstance(output, str) and "{{" not in output:
        raise ValueError(
            f"{output!r:.60} never changes; write an object, or an expression as in '{{{{ _response.id }}}}'"
        )
    return output


def rate_of(text: str) -> tuple[int, float]:
    """Return a rate such as 100/min as a number and the seconds that it is for. Raises ValueError."""
    number, _, unit = text.partition("/")
    if not re.fullmatch(r"[0-9]{1,9}", number) or unit not in RATE_UNITS:
        raise ValueError(
            f"{text!r:.60} is no rate; write a whole number, a slash and one of {', '.join(RATE_UNITS)}, "
            "as in 100/min"
        )
    return int(number), float(RATE_UNITS[unit])


def _is_rate(text: str) -> str:
    number, _ = rate_of(text)
    if not number:
        raise ValueError("nothing could ever begin; give a number from 1 on")
    return text


def _is_age(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,5}(min|h|d)", text):
        raise ValueError(f"{text!r:.60} is no time span; write a whole number and min, h or d, as in 30d")
    return text


def _at_most_eight_weeks(milliseconds: int) -> int:
    if milliseconds > LONGEST_RETRY_WAIT:
        raise ValueError(f"a wait is at most 8 weeks, {LONGEST_RETRY_WAIT} ms, not {milliseconds}")
    return milliseconds


Text = Annotated[str, AfterValidator(_storable_text)]

Whole = Annotated[int, Field(le=LARGEST_INTEGER)]

RetryWait = Annotated[
    int,
    Field(ge=0, json_schema_extra={"maximum": LONGEST_RETRY_WAIT}),
    AfterValidator(_at_most_eight_weeks),
]
"""Milliseconds between two attempts."""

ErrorName = Annotated[
    Text, AfterValidator(_names_an_error), BeforeValidator(_status_as_text, json_schema_input_type=str | int)
]
"""An exception class or an HTTP status, as `retryOn` names errors."""

Age = Annotated[Text, AfterValidator(_is_age)]
"""A time span in Postgres' own words."""

_KeptAsWritten = (WrapValidator(_as_written), PlainSerializer(lambda number: number))

Seconds = Annotated[float, Field(gt=0, le=LONGEST_WAIT), *_KeptAsWritten]
"""A positive number that stays an integer or a float, as it was given."""

Factor = Annotated[float, Field(ge=1), *_KeptAsWritten]

Json = Annotated[Any, BeforeValidator(_storable)]
"""Any JSON value in normal form, a copy of what was given."""

JsonObject = Annotated[dict[str, Any], BeforeValidator(_storable_object)]
"""An object of JSON values in normal form, a copy of what was given."""

Handle = Annotated[
    Text, Field(min_length=1), BeforeValidator(_handle_name, json_schema_input_type=str | bool)
]


class DefinitionPart(BaseModel):
    """Base of the parts of a definition: immutable, camelCase outside, no unknown keys, no conversions."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )


_ERROR_NAMES = "by exception class (base classes count), error type or HTTP status such as 503 or 5xx"


class RetryPolicy(DefinitionPart):
    """How often and when a failed node is retried. Times are in milliseconds."""

    max_attempts: Whole = Field(3, ge=1, description="attempts in all, the first one included")
    wait_duration: RetryWait = Field(1000, description="wait before the second attempt, in ms; 0: at once")
    exponential_backoff: bool = Field(True, description="whether each wait is longer than the one before")
    multiplier: Factor = Field(2.0, description="how many times longer each wait is than the one before")
    max_wait_duration: RetryWait | None = Field(None, description="ceiling of one wait, in ms")
    jitter: bool = Field(
        False,
        description="whether up to half of each wait is dropped at random, so that retries do not coincide",
    )
    schedule: Annotated[tuple[RetryWait, ...], Strict(False)] | None = Field(
        None, min_length=1, description="waits in ms, which replace the formula; up to weeks"
    )


class Retry(RetryPolicy):
    """One policy for all errors of a node, or for those that it names."""

    retry_on: Annotated[tuple[ErrorName, ...], Strict(False)] = Field(
        (), description=f"only these errors are retried, {_ERROR_NAMES}; empty: all"
    )
    ignore_exceptions: Annotated[tuple[ErrorName, ...], Strict(False)] = Field(
        (), description=f"these errors are never retried, {_ERROR_NAMES}"
    )


class RetryRule(RetryPolicy):
    """One of several policies: the first that names an error decides, and counts only its own errors."""

    on: Annotated[
        Literal["all"] | Annotated[tuple[ErrorName, ...], Strict(False)],
        BeforeValidator(_errors_or_all),
    ] = Field(description=f"the errors of this rule, {_ERROR_NAMES}; `all`: every other one")


class Limit(DefinitionPart):
    """How many of those with the same key may run at a time, or begin within a time."""

    key: Text = Field(
        min_length=1, max_length=1000, description="what is counted together; usually an expression {{ … }}"
    )
    concurrency: Whole | None = Field(None, ge=1, description="how many may run at the same time")
    rate: Annotated[Text, AfterValidator(_is_rate)] | None = Field(
        None, description="how many may begin within a time, such as 100/min, 10/s, 5/hour or 1000/day"
    )

    @property
    def rate_per_seconds(self) -> tuple[int, float] | None:
        """The rate as a number and the seconds that it is for."""
        return None if self.rate is None else rate_of(self.rate)

    @model_validator(mode="after")
    def _limits_something(self) -> Limit:
        if self.concurrency is None and self.rate is None:
            raise ValueError("it limits nothing; give `concurrency`, `rate` or both")
        return self


Limits = Annotated[tuple[Limit, ...], Strict(False)]


class Node(DefinitionPart):
    """One step of a workflow."""

    id: str = Field(
        pattern=NODE_ID_PATTERN,
        description="unique here; starts with a letter or digit, then letters, digits, - and _, 100 at most",
    )
    type: Literal["trigger", "logic", "action"] = Field(description="family of steps")
    sub_type: Text = Field(min_length=1, max_length=100, description="step within that family")
    config: JsonObject = Field(
        default_factory=dict, description="what the step does; values may be expressions {{ … }}"
    )
    label: Text | None = Field(None, max_length=200, description="what people see instead of the id")
    retry: (
        Retry
        | Annotated[tuple[RetryRule, ...], Strict(False), Field(min_length=1, max_length=MOST_RULES)]
        | None
    ) = Field(
        None,
        description="how often a failed node is retried, or a list of rules, tried in order; left out: never",
    )
    timeout: Seconds | None = Field(None, description="seconds one attempt may run")
    queue_timeout: Seconds | None = Field(
        None, description="seconds it may stand in its queue before it fails with QUEUE_TIMEOUT"
    )
    queue: str | None = Field(
        None,
        pattern=QUEUE_PATTERN,
        description="Celery queue that runs it; letters, digits, '.', - and _, 100 at most",
    )
    priority: int | None = Field(None, ge=0, le=9, description="0 is served first")
    on_error: Literal["fail", "continue"] | None = Field(
        None, description="what a failure does to the execution; an edge from `error` is the third way"
    )
    output: Annotated[JsonObject | Text | None, AfterValidator(_can_be_mapped)] = Field(
        None,
        description="the output, in place of what the step returns: an object or expression over `_response`",
    )
    on_crash: Literal["retry", "fail"] | None = Field(
        None, description="`fail` for work that must not be repeated when a worker dies in the middle of it"
    )
    limits: Limits | None = Field(
        None,
        min_length=1,
        max_length=MOST_LIMITS,
        description="what an attempt needs a slot of; it waits without a worker until there is one",
    )

    @property
    def kind(self) -> str:
        """`type/subType`, the name under which the node's code is registered."""
        return f"{self.type}/{self.sub_type}"


class Edge(DefinitionPart):
    """A way from one node to another."""

    source: Text = Field(description="id of the node it leaves")
    target: Text = Field(description="id of the node it leads to")
    source_handle: Handle | None = Field(
        None, description="branch of the source it leaves from; left out where the source has one way out"
    )

    @property
    def handle(self) -> str:
        return self.source_handle if self.source_handle is not None else ORDINARY


class Keep(DefinitionPart):
    """How long executions are kept after they have ended; those of a status that is left out stay."""

    completed: Age | None = Field(None, description="after they have completed, such as 30d or 12h")
    failed: Age | None = Field(None, description="after they have failed, such as 90d")
    cancelled: Age | None = Field(None, description="after they were cancelled, such as 30d")


class WorkflowSettings(DefinitionPart):
    """Settings of a whole workflow."""

    concurrency: int = Field(
        1, ge=1, le=MAX_CONCURRENCY, description="nodes of one execution that may run at the same time"
    )
    hops: Literal["spread", "inline"] = Field(
        "spread", description="`spread`: each node is a Celery task; `inline`: a worker keeps walking"
    )
    pure: Literal["spread", "inline"] = Field(
        "spread",
        description="nodes that only compute. `spread`: each is a Celery task like all others; `inline`: the "
        "worker that made one due runs it itself",
    )
    timeout: Seconds | None = Field(None, description="seconds an execution may take")
    keep: Keep | None = Field(
        None, description="how long ended executions are kept; left out: until they are purged by hand"
    )


class OnFailure(DefinitionPart):
    """What the end of a failed execution starts."""

    workflow: str = Field(pattern=WORKFLOW_ID_PATTERN, description="the id of another workflow")
    trigger: Text | None = Field(None, description="the trigger to start at, if it has several")
    data: Json = Field(
        None,
        description="what it is started with; expressions read `_failure`, `_trigger` and variables; "
        "left out: `_failure`",
    )


class Workflow(DefinitionPart):
    """A named graph of nodes and edges."""

    id: str = Field(
        pattern=WORKFLOW_ID_PATTERN,
        description="unique; starts with a letter or digit, then letters, digits, - and _, 100 at most",
    )
    name: Text | None = Field(None, max_length=200, description="what people see instead of the id")
    description: Text | None = Field(None, description="what the workflow is for")
    settings: WorkflowSettings = Field(default_factory=WorkflowSettings)
    variables: JsonObject = Field(
        default_factory=dict, description="values that every node can read by name; never expressions"
    )
    limits: Limits | None = Field(
        None,
        min_length=1,
        max_length=MOST_LIMITS,
        description="what an execution needs a slot of, from its first node to its end",
    )
    on_failure: OnFailure | None = Field(None, description="what is started once an execution has failed")
    nodes: Annotated[tuple[Node, ...], Strict(False)] = Field(
        (), description="the steps, at least one of them a trigger"
    )
    edges: Annotated[tuple[Edge, ...], Strict(False)] = Field((), description="the ways between the nodes")

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as it was given, camelCase, without omitted keys."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def to_json(self) -> str:
        """Return the definition as indented JSON."""
        return orjson.dumps(self.to_dict(), option=orjson.OPT_INDENT_2).decode()

    def content_hash(self) -> str:
        """Return the SHA-256 (hex) of the definition, which does not depend on the order of its keys."""
        return hashlib.sha256(orjson.dumps(self.to_dict(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    @classmethod
    def from_stored(cls, content: dict[str, Any]) -> Workflow:
        """Rebuild a definition that was validated before it was stored."""
        return cls.model_validate(content)
