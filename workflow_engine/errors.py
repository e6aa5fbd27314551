"""Every exception the engine raises on purpose.

    WorkflowEngineError
    ├── DefinitionError
    │   ├── DefinitionUnreadable      the text is no YAML or JSON, or repeats a key
    │   └── DefinitionInvalid         carries every problem of the definition, each with its path
    ├── InvalidValue                  data that cannot be stored as JSON
    ├── ExpressionError               an expression that does not compile or fails while it runs
    ├── TriggerDataInvalid            the data of a start is refused by the trigger's schema
    ├── NotFound
    │   ├── WorkflowNotFound
    │   ├── ExecutionNotFound
    │   ├── NodeNotFound              an execution has no such node, or has not come to it
    │   └── UnknownNodeType           no code is registered for this type on this machine
    ├── IdempotencyConflict           the same key was used before with other data
    ├── SessionRefused                a session cannot hold its caller's rows and an execution together
    ├── IllegalMove                   an execution cannot go from its status to the one asked for
    ├── ExecutionMoved                an execution moves too fast for what was asked of it
    ├── VersionDiffers                what an execution has done does not fit another version
    ├── WaitTimeout                   the execution was not finished in the time given to wait
    ├── GivenBack                     a message has to come again later; the worker backs off
    ├── BackingServiceUnavailable     Postgres, Redis or the broker cannot be reached
    │   ├── DatabaseUnavailable
    │   ├── CacheUnavailable
    │   └── BrokerUnavailable
    ├── DatabaseOutdated              migrations have to be applied first
    └── EmbeddedServerFailed          an embedded Postgres or Redis cannot be started on this machine

Ids and paths are attributes, so that callers never parse a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class WorkflowEngineError(Exception):
    """Base of every error raised by the engine."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a definition: where it is, what it is and what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class DefinitionError(WorkflowEngineError):
    """A definition cannot be used."""


class DefinitionUnreadable(DefinitionError):
    """The text of a definition is not readable as YAML or JSON; `line` and `column` count from 1.

    Where the text is readable but repeats keys, `problems` holds every repeated key.
    """

    def __init__(
        self,
        message: str,
        *,
        line: int | None = None,
        column: int | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        self.line = line
        self.column = column
        self.problems = tuple(problems)
        super().__init__(message)


class DefinitionInvalid(DefinitionError):
    """A definition was read but has problems; `problems` holds all of them."""

    def __init__(self, problems: Sequence[Problem], workflow_id: str | None = None) -> None:
        self.problems = tuple(problems)
        self.workflow_id = workflow_id
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"workflow {workflow_id or '(no id)'} has {count}:{lines}")


class InvalidValue(WorkflowEngineError):
    """A value that cannot be stored as JSON; `path` says where inside the value."""

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        self.message = message
        super().__init__(f"{path}: {message}")


class ExpressionError(WorkflowEngineError):
    """An expression does not compile, or failed while it was evaluated."""

    def __init__(self, expression: str, message: str) -> None:
        self.expression = expression
        super().__init__(message)


class TriggerDataInvalid(WorkflowEngineError):
    """The data given to `start` does not fit the schema of the trigger node; nothing was stored."""

    def __init__(self, workflow_id: str, trigger_node_id: str, problems: Sequence[Problem]) -> None:
        self.workflow_id = workflow_id
        self.trigger_node_id = trigger_node_id
        self.problems = tuple(problems)
        details = "; ".join(str(problem) for problem in self.problems)
        super().__init__(f"the data for trigger {trigger_node_id!r} of {workflow_id!r} is refused: {details}")


class NotFound(WorkflowEngineError):
    """Something that was asked for by name or id does not exist."""


class WorkflowNotFound(NotFound):
    """No such workflow, version or trigger has been deployed."""


class ExecutionNotFound(NotFound):
    """No execution has this id."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        super().__init__(
            f"no execution has the id {execution_id!r}; `workflow-engine list` shows those there are"
        )


class NodeNotFound(NotFound):
    """An execution's workflow has no such node, or the execution has not come to it."""

    def __init__(self, execution_id: str, node_id: str, message: str) -> None:
        self.execution_id = execution_id
        self.node_id = node_id
        super().__init__(message)


class UnknownNodeType(NotFound):
    """The code behind a node type, or a function it names, is not registered in this process."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


class IdempotencyConflict(WorkflowEngineError):
    """An idempotency key was used before to start this workflow with other data."""

    def __init__(self, workflow_id: str, key: str, execution_id: str) -> None:
        self.workflow_id = workflow_id
        self.key = key
        self.execution_id = execution_id
        super().__init__(
            f"idempotency key {key!r} already started execution {execution_id} of {workflow_id!r} with other "
            "data; use a new key for a new start, or the same data to get that execution"
        )


class SessionRefused(WorkflowEngineError):
    """The session or connection given to `start` cannot hold an execution and its caller's rows together.

    It leads to another database, commits each statement by itself, or is nothing that synchronous code can
    use. Nothing was written.
    """


class IllegalMove(WorkflowEngineError):
    """An execution cannot be moved from where it stands to the status asked for."""

    def __init__(
        self, execution_id: str, status: str, wanted: str, possible_from: Sequence[str] = ()
    ) -> None:
        self.execution_id = execution_id
        self.status = status
        self.wanted = wanted
        self.possible_from = tuple(possible_from)
        refusal = (
            f"{wanted} is possible only from {', '.join(possible_from)}"
            if possible_from
            else f"cannot become {wanted}"
        )
        super().__init__(f"execution {execution_id} is {status} and {refusal}")


class ExecutionMoved(WorkflowEngineError):
    """An execution moved on, again and again, between being read and being written; nothing was changed."""

    def __init__(self, execution_id: str, operation: str) -> None:
        self.execution_id = execution_id
        super().__init__(
            f"execution {execution_id} moves too fast for a {operation}; pause it first, then try again"
        )


class VersionDiffers(WorkflowEngineError):
    """What an execution has done does not fit another version of its workflow; `problems` says where."""

    def __init__(self, execution_id: str, version: int, problems: Sequence[Problem]) -> None:
        self.execution_id = execution_id
        self.version = version
        self.problems = tuple(problems)
        details = "; ".join(str(problem) for problem in self.problems)
        super().__init__(f"execution {execution_id} cannot go on with version {version}: {details}")


class WaitTimeout(WorkflowEngineError):
    """An execution was still going on when the time given to `wait` was over."""

    def __init__(self, execution_id: str, seconds: float, status: str) -> None:
        self.execution_id = execution_id
        self.status = status
        super().__init__(
            f"execution {execution_id} is still {status} after {seconds:g} s; it goes on by itself"
        )


class GivenBack(WorkflowEngineError):
    """A message cannot be served now and has to come again; nothing was done or lost."""


class BackingServiceUnavailable(WorkflowEngineError):
    """A server the engine depends on cannot be reached; the work can be repeated."""


class DatabaseUnavailable(BackingServiceUnavailable):
    """Postgres cannot be reached."""


class CacheUnavailable(BackingServiceUnavailable):
    """Redis cannot be reached, or refuses to answer."""


class BrokerUnavailable(BackingServiceUnavailable):
    """The message broker cannot be reached."""


class DatabaseOutdated(WorkflowEngineError):
    """The tables do not have the form this release needs; run `workflow-engine db upgrade`."""


class EmbeddedServerFailed(WorkflowEngineError):
    """An embedded Postgres or Redis cannot be started; `server` names it and `log` holds what it printed."""

    def __init__(self, server: str, message: str, log: str = "") -> None:
        self.server = server
        self.log = log
        super().__init__(f"{message}\nIts last words:\n{log}" if log else message)
