"""The contract of a node type: the executor that runs, the config it takes, the ways it leaves.

A node executor only computes: it gets its config with the expressions already evaluated and the
execution context, and returns a `NodeExecutionResult`. It never touches a store, a lock or a queue,
so the same executor runs in any worker and in a unit test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from workflow_engine.definition.workflow import ORDINARY
from workflow_engine.errors import UnknownNodeType
from workflow_engine.execution.context import ExecutionContext, Wake
from workflow_engine.nodes.results import NodeExecutionResult


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
    """The code behind a node type that may return `waiting(…)`."""

    def resume(
        self, node_id: str, node_data: Any, context: ExecutionContext, wake: Wake
    ) -> NodeExecutionResult:
        """Go on after a wait, on any worker; like `execute`, and it may return `waiting(…)` again."""
        ...


class Config(BaseModel):
    """Base of the models that describe a node type's config: camelCase, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


ConfigModel = type[BaseModel]
Prepare = Callable[[dict[str, Any]], dict[str, Any]]


def as_written(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config unchanged: its expressions are evaluated as they stand."""
    return config


def one_way_out(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ways out of a node that does not choose between branches."""
    return (ORDINARY,)


def no_way_out(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ways out of a node that ends its branch: none."""
    return ()


DISTRIBUTION = "celery-workflow-engine"
"""As in `workflow_engine`, which this room may not import from."""


@dataclass(frozen=True)
class Extra:
    """A package without which a node type cannot run, and the extra of the distribution that installs it."""

    package: str
    name: str

    @property
    def is_missing(self) -> bool:
        return find_spec(self.package) is None

    @property
    def requirement(self) -> str:
        return f"{DISTRIBUTION}[{self.name}]"


class NodeTimedOut(Exception):
    """Raised inside a node that has run for as long as it may."""


@dataclass(frozen=True)
class TimeLimits:
    """How long one attempt of a node may run, in seconds; None: no limit."""

    hard: float | None = None
    soft: float | None = None
    """When `soft_error` is raised inside the node, which may clean up until the hard limit."""
    soft_error: type[Exception] = NodeTimedOut


def in_one_piece(node_data: Any) -> Sequence[Any] | None:
    """Return the parts of work that has none: None."""
    return None


def never_pure(config: Mapping[str, Any]) -> bool:
    """Say of a node type that another run of a node may give another result, or acts on something."""
    return False


def always_pure(config: Mapping[str, Any]) -> bool:
    """Say of a node type that its nodes only compute, and from the same input always the same."""
    return True


def without_limits(config: Mapping[str, Any]) -> TimeLimits:
    """Return the time limits of a node whose code brings none along."""
    return TimeLimits()


@dataclass(frozen=True)
class NodeType:
    """A registered kind of node: how its config looks, how it leaves, and what runs."""

    type: Literal["trigger", "logic", "action"]
    sub_type: str
    executor: NodeExecutor
    config_model: ConfigModel
    """Checks a config before its expressions are evaluated: any value may be an expression."""
    handles: Callable[[Mapping[str, Any]], tuple[str, ...]] = one_way_out
    """Returns the ways out of a node with this config, which `config_model` accepts; `error` apart."""
    verbatim: frozenset[str] = frozenset()
    """Top-level config keys in which `{{ … }}` has no meaning and stays unchanged."""
    unrecorded: frozenset[str] = frozenset()
    """Top-level config keys that the journal leaves out: parts of the definition, the same at every run."""
    prepare: Prepare = as_written
    """Rewrites a config that `config_model` accepts, before its expressions are compiled.

    Some operations need this before the values exist: `exists` has to test a path before reading it.
    The shape of the config stays, so that paths in messages still fit what its author wrote.
    """
    description: str = ""
    extra: Extra | None = None
    limits: Callable[[Mapping[str, Any]], TimeLimits] = without_limits
    """Returns the time limits that its code brings along; the `timeout` of a node takes precedence."""
    divide: Callable[[Any], Sequence[Any] | None] = in_one_piece
    """Returns the parts of the work with this evaluated config, each a config of its own; None: it has none.

    They run one after the other, and the node's output is the list of theirs. What a part returns is stored
    before the next one begins, so that it runs once although the node may run again.
    """
    is_pure: Callable[[Mapping[str, Any]], bool] = never_pure
    """Returns whether another run of such a node, with the same input, gives the same and touches nothing.

    It may then run again after a crash, so its result is committed together with that of the next node.
    """

    @property
    def kind(self) -> str:
        return f"{self.type}/{self.sub_type}"

    @property
    def lacks(self) -> str | None:
        """What this process lacks to run such a node, and what to do; None if it lacks nothing."""
        if self.extra is None or not self.extra.is_missing:
            return None
        return (
            f"{self.kind!r} needs the package {self.extra.package}; run `pip install "
            f"'{self.extra.requirement}'` wherever workflows are deployed, and on every worker"
        )

    def check_runnable(self) -> None:
        """Raise `UnknownNodeType` if a package is missing here that its executor needs."""
        if (problem := self.lacks) is not None and self.extra is not None:
            raise UnknownNodeType(self.kind, problem, f"run `pip install '{self.extra.requirement}'`")


KNOWN_KINDS_OF_LATER_RELEASES = (
    "action/publish-event",
    "action/send-email",
    "action/send-webhook",
)
"""Planned node types: refused by name as "not in this release" rather than as misspelt."""
