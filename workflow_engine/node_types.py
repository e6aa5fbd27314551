"""What stands behind a node type: executors, their results, and the registry that finds them by name.

A node executor only computes: it gets its config with the expressions already evaluated and the
execution context, and answers with a `NodeExecutionResult`. It never touches a store, a lock or a
queue, which is why the same executor runs in any worker and in a unit test alike.
"""

from __future__ import annotations

import functools
import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar, overload, runtime_checkable

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from workflow_engine.context import ExecutionContext, Wake
from workflow_engine.definition import FUNCTION_NAME_ATTRIBUTE, ORDINARY
from workflow_engine.errors import UnknownNodeType
from workflow_engine.json_values import storable_text

LONGEST_TRACEBACK = 8000
"""Characters of a traceback that are kept, counted from its end."""


@dataclass(frozen=True)
class NodeError:
    """Why a node failed. `type` is the exception's class name or an upper-case code of the engine."""

    type: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    """Dotted names of the exception's class and its bases, which retries may name; not stored."""
    http_status: int | None = None


@dataclass(frozen=True)
class Wait:
    """What a waiting node waits for: a time, or named events by correlation id."""

    until: datetime | None = None
    """A point in time, with its zone."""
    seconds: float | None = None
    """A time from now on, by the database's clock."""
    events: tuple[str, ...] = ()
    required: Literal["all", "any"] | tuple[str, ...] = "all"
    """Which of the events wake the node."""
    correlation_id: str | None = None
    timeout: float | None = None
    """Seconds after which the node is woken without the events."""

    def __post_init__(self) -> None:
        """Raises ValueError for a wait that nothing would end, or that nobody could keep."""
        ways = [self.until is not None, self.seconds is not None, bool(self.events)]
        if sum(ways) != 1:
            raise ValueError("wait for one of these: until a time, for some seconds, or for events")
        if self.until is not None and (not isinstance(self.until, datetime) or self.until.tzinfo is None):
            raise ValueError(f"until must be a datetime with its zone, not {self.until!r:.60}")
        for name, seconds in (("seconds", self.seconds), ("timeout", self.timeout)):
            if seconds is not None and not (isinstance(seconds, int | float) and math.isfinite(seconds)):
                raise ValueError(f"{name} must be a number of seconds, not {seconds!r:.60}")
        if self.events and not self.correlation_id:
            raise ValueError("events are found by a correlation_id; give one")
        if isinstance(self.required, str) and self.required not in ("all", "any"):
            raise ValueError(f"required is 'all', 'any' or the names of events, not {self.required!r:.60}")
        required = () if isinstance(self.required, str) else self.required
        for text in (*self.events, *required, *filter(None, [self.correlation_id])):
            if not isinstance(text, str) or storable_text(text) != text:
                raise ValueError(f"names of events and correlation ids are text, not {text!r:.60}")


@dataclass(frozen=True)
class NodeExecutionResult:
    """What a node executor answers: success, failure or waiting. Build one with the functions below."""

    kind: Literal["success", "failure", "waiting"]
    output: Any = None
    handle: str | None = ORDINARY
    """The way out that is taken; None ends the branch here."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    error: NodeError | None = None
    wait: Wait | None = None


def success(
    output: Any = None, *, handle: str | None = ORDINARY, variables: Mapping[str, Any] | None = None
) -> NodeExecutionResult:
    """The node is done. `output` is any JSON value; `variables` are set for the whole execution."""
    return NodeExecutionResult("success", output=output, handle=handle, variables=variables or {})


def failure(type: str, message: str, details: Mapping[str, Any] | None = None) -> NodeExecutionResult:
    """The node could not do its work. `type` names the error in routes and retries."""
    return NodeExecutionResult("failure", error=NodeError(type, message, details or {}))


def failure_of(error: BaseException) -> NodeExecutionResult:
    """The failure that an exception stands for, with its traceback in the details."""
    trace = storable_text("".join(traceback.format_exception(error)))
    if len(trace) > LONGEST_TRACEBACK:
        # Cut between lines, or a secret cut in two would no longer be known as one.
        trace = trace[-LONGEST_TRACEBACK:].partition("\n")[2]
    name = type(error).__name__
    classes = tuple(f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__[:-1])
    told = NodeError(
        name,
        _text_of(error) or name,
        {"traceback": trace},
        classes,
        _http_status_of(error),
    )
    return NodeExecutionResult("failure", error=told)


def _http_status_of(error: BaseException) -> int | None:
    """The status that HTTP libraries tell with `error.response.status_code`."""
    try:
        status = getattr(getattr(error, "response", None), "status_code", None)
    except Exception:  # noqa: BLE001 - what looks like an attribute may be code that raises
        return None
    return status if isinstance(status, int) else None


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception may be as broken as the code that raises it
        return "its text cannot be told: its __str__ raises"


def waiting(
    *,
    until: datetime | None = None,
    seconds: float | None = None,
    events: Sequence[str] = (),
    required: Literal["all", "any"] | Sequence[str] = "all",
    correlation_id: str | None = None,
    timeout: float | None = None,
) -> NodeExecutionResult:
    """The node goes on later: at a time (`until`), in some `seconds`, or when events have arrived.

    It holds no worker meanwhile. On whatever worker it goes on, its `resume` is called, or a function
    once more, with `context.wake`. Raises ValueError for a wait that nothing would end.
    """
    if isinstance(events, str):
        raise ValueError(f"events are a list of names; write [{events!r:.60}]")
    chosen: Any = required if isinstance(required, str) else tuple(required)
    wait = Wait(until, seconds, tuple(events), chosen, correlation_id, timeout)
    return NodeExecutionResult("waiting", wait=wait)


class NodeExecutor(Protocol):
    """The code behind a node type."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        """Do the node's work.

        `node_data` is the node's config after its expressions were evaluated. An exception counts as
        the node's failure.
        """
        ...


@runtime_checkable
class ResumableExecutor(NodeExecutor, Protocol):
    """The code behind a node type that may answer `waiting(…)`."""

    def resume(
        self, node_id: str, node_data: Any, context: ExecutionContext, wake: Wake
    ) -> NodeExecutionResult:
        """Go on after a wait, on any worker; like `execute`, and it may answer `waiting(…)` again."""
        ...


class Config(BaseModel):
    """Base of the models that describe a node type's config: camelCase, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


ConfigModel = type[BaseModel]
Prepare = Callable[[dict[str, Any]], dict[str, Any]]


def as_written(config: dict[str, Any]) -> dict[str, Any]:
    """The expressions of this config are evaluated as they stand."""
    return config


def one_way_out(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Ways out of a node that does not choose between branches."""
    return (ORDINARY,)


@dataclass(frozen=True)
class NodeType:
    """A registered kind of node: how its config looks, how it leaves, and what runs."""

    type: Literal["trigger", "logic", "action"]
    sub_type: str
    executor: NodeExecutor
    config_model: ConfigModel
    """Checks a config as it is written, expressions not yet evaluated: any value may be an expression."""
    handles: Callable[[Mapping[str, Any]], tuple[str, ...]] = one_way_out
    """The ways out that a node with this config, which `config_model` accepts, has; `error` apart."""
    verbatim: frozenset[str] = frozenset()
    """Top-level config keys in which `{{ … }}` has no meaning and is left as it is."""
    prepare: Prepare = as_written
    """Rewrites a config that `config_model` accepts, before its expressions are compiled.

    For what cannot wait until the values are there: `exists` has to ask about a path before reading it.
    The shape of the config stays, so that paths in messages still lead to what was written.
    """
    description: str = ""

    @property
    def kind(self) -> str:
        return f"{self.type}/{self.sub_type}"


KNOWN_KINDS_OF_LATER_RELEASES = (
    "logic/loop",
    "logic/sub-workflow",
    "action/celery-task",
    "action/api-call",
    "action/publish-event",
    "action/send-email",
    "action/send-webhook",
)
"""Node types that are planned: refused by name with "not in this release", not as misspelt."""

Function = TypeVar("Function", bound=Callable[..., Any])


class NodeRegistry:
    """The node types and Python functions known in one process, by name."""

    def __init__(self) -> None:
        self._types: dict[str, NodeType] = {}
        self._functions: dict[str, RegisteredFunction] = {}

    def add(self, node_type: NodeType) -> NodeType:
        """Register a node type; a later one of the same name replaces the earlier.

        Raises ValueError if a function and a node type of another sort would share the name: which of
        them a workflow gets must not depend on the order of imports.
        """
        earlier = self._types.get(node_type.kind)
        if earlier is not None and _is_function(earlier) != _is_function(node_type):
            raise ValueError(
                f"{node_type.kind!r} is a node type and the name of a function; give one another name"
            )
        self._types[node_type.kind] = node_type
        return node_type

    def add_function(self, function: RegisteredFunction) -> None:
        """Register a function under its name, for `action/python` and as a node type of its own."""
        self.add(function.as_node_type())
        self._functions[function.name] = function

    def find(self, kind: str) -> NodeType | None:
        return self._types.get(kind)

    def get(self, kind: str) -> NodeType:
        """The node type of this name. Raises `UnknownNodeType` if no code for it is loaded."""
        if (found := self._types.get(kind)) is None:
            raise UnknownNodeType(
                kind, f"node type {kind!r} is not registered here; known are {', '.join(sorted(self._types))}"
            )
        return found

    def function(self, name: str) -> RegisteredFunction:
        """The function of this name. Raises `UnknownNodeType` if it is not loaded."""
        if (found := self._functions.get(name)) is None:
            known = ", ".join(sorted(self._functions)) or "none"
            raise UnknownNodeType(
                name,
                f"no function is registered as {name!r} (known: {known}); decorate it with "
                f"@node({name!r}) and list its module in WORKFLOW_ENGINE_IMPORTS",
            )
        return found

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted(self._types))

    @property
    def functions(self) -> tuple[str, ...]:
        return tuple(sorted(self._functions))


def _is_function(node_type: NodeType) -> bool:
    return isinstance(node_type.executor, RegisteredFunction)


@dataclass(frozen=True)
class RegisteredFunction:
    """A Python function that nodes call by name: the executor of the node type that it makes.

    It is called with the node's arguments as keyword arguments and, if it has a parameter named
    `context`, with the execution context.
    """

    name: str
    function: Callable[..., Any]
    handles: tuple[str, ...] = (ORDINARY,)

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @functools.cached_property
    def takes_context(self) -> bool:
        return "context" in self.signature.parameters

    def check(self, arguments: Mapping[str, Any]) -> str | None:
        """What is wrong with these arguments for this function, or None. Only their names matter."""
        return self._problem_with(frozenset(arguments))

    @functools.cached_property
    def _problem_with(self) -> Callable[[frozenset[str]], str | None]:
        """Remembers what was found of the names given last: a node gives the same ones every time."""
        return functools.lru_cache(maxsize=16)(self._find_problem)

    def _find_problem(self, names: frozenset[str]) -> str | None:
        given: dict[str, None] = dict.fromkeys(sorted(names))
        if self.takes_context:
            if "context" in given:
                return f"{self.name}{self.signature}: `context` is given by the engine; leave it out"
            given["context"] = None
        try:
            self.signature.bind(**given)
        except TypeError as error:
            return f"{self.name}{self.signature}: {error}"
        return None

    def call(self, arguments: Mapping[str, Any], context: ExecutionContext) -> NodeExecutionResult:
        """Call the function and tell what it answered.

        What it returns is the output unless it is a `NodeExecutionResult`. Wrong arguments are a failure;
        whatever the function raises goes through.
        """
        if (problem := self.check(arguments)) is not None:
            return failure("WRONG_ARGUMENTS", problem)
        answer = self.function(**arguments, **({"context": context} if self.takes_context else {}))
        return answer if isinstance(answer, NodeExecutionResult) else success(answer)

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        """Call the function with the node's config as its arguments."""
        return self.call(node_data, context)

    def as_node_type(self) -> NodeType:
        description = inspect.getdoc(self.function) or ""
        return NodeType(
            "action", self.name, self, FreeConfig, lambda _config: self.handles, description=description
        )


class FreeConfig(BaseModel):
    """The config of a decorated function: its keyword arguments, which its signature checks."""

    model_config = ConfigDict(extra="allow")


registry = NodeRegistry()
"""The registry of this process, filled by `@node` and by `workflow_engine.nodes`."""


@overload
def node(name: Function) -> Function: ...
@overload
def node(
    name: str | None = None, *, handles: Sequence[str] = (ORDINARY,)
) -> Callable[[Function], Function]: ...


def node(name: Any = None, *, handles: Sequence[str] = (ORDINARY,)) -> Any:
    """Make a Python function a node type.

    ``@node("shop.charge")`` lets a node of type `action/python` name it as its `function`, and makes
    `shop.charge` a subType of `action` whose config is the function's keyword arguments. The function
    stays an ordinary function. `handles` names its ways out if it has several; it then answers with
    `success(output, handle=…)`. Raises TypeError for an async function.
    """

    def register(function: Function) -> Function:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__name__} is async; node functions are ordinary functions (def)")
        registered_as = name if isinstance(name, str) else function.__name__
        registry.add_function(RegisteredFunction(registered_as, function, tuple(handles)))
        setattr(function, FUNCTION_NAME_ATTRIBUTE, registered_as)
        return function

    return register(name) if callable(name) else register
