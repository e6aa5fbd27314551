"""The node types and functions that one process knows, by name, and the decorator that adds to them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from pydantic import BaseModel, ConfigDict

from workflow_engine.definition.workflow import FUNCTION_NAME_ATTRIBUTE, ORDINARY
from workflow_engine.errors import UnknownNodeType
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.contract import NodeType
from workflow_engine.nodes.results import NodeExecutionResult, failure, success

Function = TypeVar("Function", bound=Callable[..., Any])


class NodeRegistry:
    """The node types and Python functions known in one process, by name."""

    def __init__(self) -> None:
        self._types: dict[str, NodeType] = {}
        self._functions: dict[str, RegisteredFunction] = {}

    def add(self, node_type: NodeType) -> NodeType:
        """Register a node type; a later one of the same name replaces the earlier.

        Raises ValueError if a function and a node type of another sort would share the name. Which of them
        a workflow gets must not depend on the order of imports.
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
        """Return the node type of this name. Raises `UnknownNodeType` if no code for it is loaded."""
        if (found := self._types.get(kind)) is None:
            raise UnknownNodeType(
                kind, f"node type {kind!r} is not registered here (known: {', '.join(sorted(self._types))})"
            )
        return found

    def function(self, name: str) -> RegisteredFunction:
        """Return the function of this name. Raises `UnknownNodeType` if it is not loaded."""
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
    def runnable(self) -> tuple[str, ...]:
        """The node types that this process can run: all but those for which a package is missing."""
        return tuple(sorted(kind for kind, found in self._types.items() if found.lacks is None))

    def extras(self, kinds: Iterable[str]) -> list[str]:
        """Return what to install for those of these node types that need an extra of the distribution."""
        found = (self._types[kind].extra for kind in kinds if kind in self._types)
        return sorted({extra.requirement for extra in found if extra is not None})

    @property
    def names(self) -> frozenset[str]:
        """The names of all code that a node may need and that is here: node types and functions."""
        return frozenset((*self.runnable, *self._functions))

    @property
    def functions(self) -> tuple[str, ...]:
        return tuple(sorted(self._functions))


def _is_function(node_type: NodeType) -> bool:
    return isinstance(node_type.executor, RegisteredFunction)


@dataclass(frozen=True)
class RegisteredFunction:
    """A Python function that nodes call by name: the executor of its own node type.

    It is called with the node's arguments as keyword arguments and, if it has a parameter named
    `context`, with the execution context.
    """

    name: str
    function: Callable[..., Any]
    handles: tuple[str, ...] = (ORDINARY,)
    is_pure: bool = False
    """Its author says that it only computes: from the same arguments the same, and nothing is touched."""

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @functools.cached_property
    def takes_context(self) -> bool:
        return "context" in self.signature.parameters

    def check(self, arguments: Mapping[str, Any]) -> str | None:
        """Return what is wrong with these arguments for this function, or None. Only their names matter."""
        return self._problem_with(frozenset(arguments))

    @functools.cached_property
    def _problem_with(self) -> Callable[[frozenset[str]], str | None]:
        """A cache of the check by names: a node gives the same ones every time."""
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
        """Call the function and return its result.

        A return value other than a `NodeExecutionResult` is the output. Wrong arguments are a failure; an
        exception of the function passes through.
        """
        if (problem := self.check(arguments)) is not None:
            return failure("WRONG_ARGUMENTS", problem)
        result = self.function(**arguments, **({"context": context} if self.takes_context else {}))
        return result if isinstance(result, NodeExecutionResult) else success(result)

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        """Call the function with the node's config as its arguments."""
        return self.call(node_data, context)

    def as_node_type(self) -> NodeType:
        description = inspect.getdoc(self.function) or ""
        return NodeType(
            "action",
            self.name,
            self,
            FreeConfig,
            lambda _config: self.handles,
            is_pure=lambda _config: self.is_pure,
            description=description,
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
    name: str | None = None, *, handles: Sequence[str] = (ORDINARY,), pure: bool = False
) -> Callable[[Function], Function]: ...


def node(name: Any = None, *, handles: Sequence[str] = (ORDINARY,), pure: bool = False) -> Any:
    """Make a Python function a node type.

    ``@node("shop.charge")`` lets a node of type `action/python` name it as its `function`, and makes
    `shop.charge` a subType of `action` whose config is the function's keyword arguments. The function
    stays an ordinary function. `handles` names its ways out if it has several; it then returns
    `success(output, handle=…)`.

    `pure` is your word that the function only computes: called again with the same arguments, it returns the
    same, and it touches nothing outside. Where a worker walks through several nodes, its result is then
    committed together with that of the next node, and a crash in between repeats it.

    Raises TypeError for an async function.
    """

    def register(function: Function) -> Function:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__name__} is async; node functions are ordinary functions (def)")
        registered_as = name if isinstance(name, str) else function.__name__
        registry.add_function(RegisteredFunction(registered_as, function, tuple(handles), pure))
        setattr(function, FUNCTION_NAME_ATTRIBUTE, registered_as)
        return function

    return register(name) if callable(name) else register
