"""Every exception the engine raises on purpose.

    WorkflowEngineError
    ├── DefinitionError
    │   ├── DefinitionUnreadable      the text is not YAML or JSON, or repeats a key
    │   └── DefinitionInvalid         carries every problem of the definition, each with its path
    ├── InvalidValue                  data that cannot be stored as JSON
    ├── ExpressionError               an expression that does not compile or fails while it runs
    ├── TriggerDataInvalid            the trigger's schema rejects the data of a start
    ├── NotFound
    │   ├── WorkflowNotFound
    │   ├── ExecutionNotFound
    │   ├── NodeNotFound              an execution has no such node, or has not reached it
    │   └── UnknownNodeType           no code is registered for this type in this process
    ├── IdempotencyConflict           the same key was used before with other data
    ├── StartsRefused                 some of many starts are refused; carries the error of each
    ├── SessionRefused                a session cannot hold its caller's rows and an execution together
    ├── IllegalMove                   an execution cannot go from its status to the requested one
    ├── ExecutionMoved                an execution moves too fast for the requested operation
    ├── VersionDiffers                an execution's journal does not fit another version of its workflow
    ├── ModuleFailed                  a module that holds node types, or the Celery app, cannot be imported
    ├── AppUnusable                   the named Celery app cannot be loaded
    ├── WaitTimeout                   the execution did not finish within the time given to `wait`
    ├── NodeFailed                    stands in Celery for a node's exception that cannot be passed on
    ├── Requeue                       a server is unavailable, so the message has to be delivered again
    ├── InvalidMessage                a message that the engine did not write
    ├── LeftToOthers                  this worker cannot serve a message, but another one can
    ├── BackingServiceUnavailable     Postgres, Redis or the broker cannot be reached
    │   ├── DatabaseUnavailable
    │   ├── CacheUnavailable
    │   ├── BrokerUnavailable
    │   └── ContextUnavailable        a running node cannot fetch an output that it reads
    ├── DatabaseOutdated              migrations have to be applied first
    ├── MigrationRefused              the engine's tables cannot be created or migrated here
    ├── SettingsInvalid               an environment variable has an invalid value
    ├── ExtraMissing                  a command needs a package that only an extra installs
    └── EmbeddedServerFailed          an embedded Postgres or Redis cannot be started on this machine

Ids and paths are attributes, so that callers never parse a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMED_REFUSALS = 5
"""Refused starts that the message of `StartsRefused` names; its attribute has all of them."""


class WorkflowEngineError(Exception):
    """Base of every error raised by the engine. It can be pickled, as Celery pickles what a task raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class, as exceptions do: most classes build the message from other arguments.
        return _unpickled, (type(self), self.args), self.__dict__ or None


def _unpickled(kind: type[WorkflowEngineError], arguments: tuple[Any, ...]) -> WorkflowEngineError:
    return kind.__new__(kind, *arguments)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a definition: where, what, and how to fix it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class DefinitionError(WorkflowEngineError):
    """A definition cannot be used."""


class DefinitionUnreadable(DefinitionError):
    """The text of a definition cannot be read as YAML or JSON; `line` and `column` count from 1.

    If the text is readable but repeats keys, `problems` holds every repeated key.
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


class ChildrenRefused(InvalidValue):
    """The limits of a tree of executions do not allow these children."""

    def __init__(self, message: str) -> None:
        super().__init__("children", message)


class ExpressionError(WorkflowEngineError):
    """An expression does not compile, or failed while it was evaluated."""

    def __init__(self, expression: str, message: str) -> None:
        self.expression = expression
        super().__init__(message)


class TriggerDataInvalid(WorkflowEngineError):
    """The data given to `start` does not match the schema of the trigger node; nothing was stored."""

    def __init__(self, workflow_id: str, trigger_node_id: str, problems: Sequence[Problem]) -> None:
        self.workflow_id = workflow_id
        self.trigger_node_id = trigger_node_id
        self.problems = tuple(problems)
        details = "; ".join(str(problem) for problem in self.problems)
        super().__init__(f"trigger {trigger_node_id!r} of {workflow_id!r} rejects this data: {details}")


class NotFound(WorkflowEngineError):
    """Nothing has the given name or id."""


class WorkflowNotFound(NotFound):
    """No such workflow, version or trigger has been deployed."""


class TriggerNotFound(NotFound):
    """The current version of a workflow has no such trigger."""

    def __init__(self, workflow_id: str, node_id: str, known: Sequence[str]) -> None:
        self.workflow_id = workflow_id
        self.node_id = node_id
        super().__init__(
            f"workflow {workflow_id!r} has no trigger {node_id!r}; "
            f"it has {', '.join(sorted(known)) or 'none'}"
        )


class StartRefused(WorkflowEngineError):
    """An operator has decided that a workflow, or one of its triggers, starts nothing."""


class WorkflowInactive(StartRefused):
    """The workflow is deactivated or archived."""

    def __init__(self, workflow_id: str, state: str, note: str) -> None:
        self.workflow_id = workflow_id
        self.state = state
        super().__init__(
            f"workflow {workflow_id!r} is {state}{note} and starts nothing; "
            f"`workflow-engine activate {workflow_id}` changes that"
        )


class TriggerPaused(StartRefused):
    """The trigger is paused."""

    def __init__(self, workflow_id: str, node_id: str, note: str) -> None:
        self.workflow_id = workflow_id
        self.node_id = node_id
        super().__init__(
            f"trigger {node_id!r} of workflow {workflow_id!r} is PAUSED{note} and starts nothing; "
            f"`workflow-engine triggers resume {workflow_id} {node_id}` changes that"
        )


class ExecutionNotFound(NotFound):
    """No execution has this id."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        super().__init__(
            f"no execution has the id {execution_id!r}; `workflow-engine list` shows those that exist"
        )


class NodeNotFound(NotFound):
    """An execution's workflow has no such node, or the execution has not reached it."""

    def __init__(self, execution_id: str, node_id: str, message: str) -> None:
        self.execution_id = execution_id
        self.node_id = node_id
        super().__init__(message)


class UnknownNodeType(NotFound):
    """The code behind a node type, or a function it names, is not registered in this process."""

    def __init__(
        self,
        name: str,
        message: str,
        remedy: str = "deploy it here, and name its module in WORKFLOW_ENGINE_IMPORTS",
    ) -> None:
        self.name = name
        self.remedy = remedy
        """What to do about it where the worker runs."""
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


class StartsRefused(WorkflowEngineError):
    """Some of many starts are refused; `refusals` holds each one's error by its index, counted from 0.

    Nothing was started, unless another process used a key in the same moment: then `started` holds what the
    batches before had started, by index.
    """

    def __init__(
        self,
        workflow_id: str,
        total: int,
        refusals: Mapping[int, WorkflowEngineError],
        started: Mapping[int, Any] | None = None,
    ) -> None:
        self.workflow_id = workflow_id
        self.refusals = dict(sorted(refusals.items()))
        self.started = dict(started or {})
        named = list(self.refusals.items())[:NAMED_REFUSALS]
        lines = "".join(f"\n  [{index}] {error}" for index, error in named)
        if (more := len(self.refusals) - len(named)) > 0:
            lines += f"\n  and {more:,} more"
        what = f"{len(self.started):,} were started before" if self.started else "nothing was started"
        super().__init__(
            f"{len(self.refusals):,} of {total:,} starts of {workflow_id!r} are refused, {what}:{lines}"
        )


class SessionRefused(WorkflowEngineError):
    """The session or connection given to `start` cannot hold an execution and its caller's rows together.

    It leads to another database, commits each statement by itself, or cannot be used by synchronous code.
    Nothing was written.
    """


class IllegalMove(WorkflowEngineError):
    """An execution cannot go from its present status to the requested one."""

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


class IllegalNodeMove(WorkflowEngineError):
    """An operator's move is not possible for this node of an execution."""

    def __init__(self, execution_id: str, node_id: str, wanted: str, why: str) -> None:
        self.execution_id = execution_id
        self.node_id = node_id
        self.wanted = wanted
        super().__init__(f"cannot {wanted} node {node_id!r} of execution {execution_id}: {why}")


class ChildNotAwaited(WorkflowEngineError):
    """A child that has ended cannot go on by itself: its parent no longer waits for it."""

    def __init__(self, execution_id: str, operation: str, parent_id: str, root_id: str) -> None:
        self.execution_id = execution_id
        self.parent_id = parent_id
        self.root_id = root_id
        super().__init__(
            f"cannot {operation} execution {execution_id}: its parent, execution {parent_id}, no longer "
            f"waits for it; {operation} its root, execution {root_id}, which goes down to what has failed"
        )


class ExecutionMoved(WorkflowEngineError):
    """An execution moved on, each time, between being read and being written; nothing was changed."""

    def __init__(self, execution_id: str, operation: str) -> None:
        self.execution_id = execution_id
        super().__init__(
            f"execution {execution_id} moves too fast for a {operation}; pause it first, then try again"
        )


class VersionDiffers(WorkflowEngineError):
    """An execution's journal does not fit another version of its workflow; `problems` says where."""

    def __init__(self, execution_id: str, version: int, problems: Sequence[Problem]) -> None:
        self.execution_id = execution_id
        self.version = version
        self.problems = tuple(problems)
        details = "; ".join(str(problem) for problem in self.problems)
        super().__init__(f"execution {execution_id} cannot continue on version {version}: {details}")


class ModuleFailed(WorkflowEngineError):
    """The named module cannot be imported; `reason` is one line, `error` the exception its import raised."""

    def __init__(self, module: str, reason: str, error: BaseException) -> None:
        self.module = module
        self.reason = reason
        self.error = error
        super().__init__(f"module {module!r} cannot be imported: {reason}")


class AppUnusable(WorkflowEngineError):
    """The named Celery app, or a module with its tasks, cannot be loaded; `reason` is one line."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"the Celery app {name!r} cannot be loaded: {reason}")


class WaitTimeout(WorkflowEngineError):
    """An execution had not finished when the time given to `wait` ran out."""

    def __init__(self, execution_id: str, seconds: float, status: str) -> None:
        self.execution_id = execution_id
        self.status = status
        super().__init__(
            f"execution {execution_id} is still {status} after {seconds:g} s; it continues on the workers"
        )


class NodeFailed(WorkflowEngineError):
    """Stands for a node's failure in Celery where the node's own exception cannot.

    The node returned `failure(…)`, or its exception cannot be pickled, contains a secret or means something
    else to Celery. `type` and `message` are those of the journal.
    """

    def __init__(self, type: str, message: str) -> None:
        self.type = type
        self.message = message
        super().__init__(f"{type}: {message}")


class Requeue(WorkflowEngineError):
    """A server is unavailable, so the message has to be delivered again; nothing was done or lost."""


class InvalidMessage(WorkflowEngineError):
    """A message does not have the engine's form, so another program wrote it. It is dropped."""


class LeftToOthers(WorkflowEngineError):
    """A newer release wrote this message, its execution or its definition; only newer workers can serve it.

    The message is dropped. The newer workers rescue its execution once it has stalled.
    """


class BackingServiceUnavailable(WorkflowEngineError):
    """A server that the engine depends on cannot be reached; the call can be retried."""


class DatabaseUnavailable(BackingServiceUnavailable):
    """Postgres cannot be reached."""


class CacheUnavailable(BackingServiceUnavailable):
    """Redis cannot be reached, or rejects the command."""


class BrokerUnavailable(BackingServiceUnavailable):
    """The message broker cannot be reached."""


class ContextUnavailable(BackingServiceUnavailable):
    """A running node cannot fetch an output that it reads; the error's cause names the server."""


class DatabaseOutdated(WorkflowEngineError):
    """The tables are older than this release needs; run `workflow-engine db upgrade`."""


class MigrationRefused(WorkflowEngineError):
    """The engine's tables cannot be created or migrated in this database; nothing was changed."""


class SettingsInvalid(WorkflowEngineError):
    """Environment variables have invalid values; the message names each of them."""


class ExtraMissing(WorkflowEngineError):
    """A command needs a package that is not installed; `pip install` with `requirement` installs it."""

    def __init__(self, package: str, requirement: str, instead: str = "") -> None:
        self.requirement = requirement
        remedy = f"run `pip install '{requirement}'`{instead and f', or {instead}'}"
        super().__init__(f"{package} is not installed; {remedy}")


class EmbeddedServerFailed(WorkflowEngineError):
    """An embedded Postgres or Redis cannot be started; `server` names it and `log` holds what it printed."""

    def __init__(self, server: str, message: str, log: str = "") -> None:
        self.server = server
        self.log = log
        super().__init__(f"{message}\nLast log lines:\n{log}" if log else message)
