"""Running one node: evaluate its config, call its executor, and make a storable outcome of the answer.

Whatever a node does wrong ends here as that node's failure, in words its author can act on. Only a type
or function that this process does not know is not the node's fault, and is raised.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workflow_engine.context import ExecutionContext
from workflow_engine.definition import ERROR, ORDINARY, Node
from workflow_engine.errors import (
    BackingServiceUnavailable,
    ExpressionError,
    InvalidValue,
    UnknownNodeType,
)
from workflow_engine.expressions import Scope
from workflow_engine.graph import Graph
from workflow_engine.interruption import interruptible
from workflow_engine.json_values import check_size, encode, normalise, storable_text
from workflow_engine.node_types import (
    NodeError,
    NodeExecutionResult,
    ResumableExecutor,
    Wait,
    failure,
    failure_of,
)
from workflow_engine.plan import NodePlan
from workflow_engine.retry import is_retryable, next_wait_ms
from workflow_engine.secret_values import Secrets
from workflow_engine.states import NodeStatus
from workflow_engine.time_limits import NodeTimedOut, limited

TIMEOUT = "TIMEOUT"
"""The type of the error of a node that ran too long."""

ANSWERS = "a JSON value, success(…), failure(…) or waiting(…)"


@dataclass(frozen=True)
class Outcome:
    """What came of running a node, in the form in which it is committed."""

    status: NodeStatus
    handles: tuple[str, ...] = ()
    """The ways out taken; none after a failure that nothing handles."""
    output: bytes | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    input_data: bytes | None = None
    error: NodeError | None = None
    wait: Wait | None = None
    """What a waiting node waits for."""
    retry_in_ms: int | None = None
    """For a failed attempt that is followed by another: how long that waits."""
    duration_ms: float = 0.0

    @property
    def is_held(self) -> bool:
        """Whether the node stays in the walk, to go on when a wait is over."""
        return self.wait is not None or bool(self.retry_in_ms)

    @property
    def ends_execution(self) -> bool:
        """True for a failure that neither an edge from `error` nor `onError: continue` handles."""
        return self.status is NodeStatus.FAILED and not self.handles


def run_node(
    plan: NodePlan, graph: Graph, context: ExecutionContext, output_limit: int, token: str = ""
) -> Outcome:
    """Run a node and take its answer to pieces.

    Raises `UnknownNodeType`, `DatabaseUnavailable` if an output that it reads cannot be fetched, and
    `NodeInterrupted` if another thread interrupts the run of this `token`.

    `output_limit` is in bytes of JSON and bounds the output, the variables and the input that is kept.
    """
    started = time.perf_counter()
    secrets = Secrets()
    input_data: bytes | None = None
    try:
        node_data = plan.evaluate(_scope(context, secrets))
        # Before the node runs, since what it does to its arguments is not what it was given.
        input_data = _input_data(node_data, secrets, output_limit)
        result = _execute(plan, node_data, context, token)
        outcome = _outcome(plan, graph, context, result, secrets, output_limit)
    except (ExpressionError, InvalidValue) as refusal:
        error = NodeError(type(refusal).__name__, str(secrets.mask(str(refusal))))
        outcome = failed(plan.node, graph, error, context.attempt)
    return dataclasses.replace(
        outcome,
        input_data=input_data,
        duration_ms=(time.perf_counter() - started) * 1000,
    )


def failed(node: Node, graph: Graph, error: NodeError, attempt: int) -> Outcome:
    """The outcome of a failure: along the error edge, onwards with `onError: continue`, or the end."""
    handles: tuple[str, ...] = ()
    if graph.handles_errors(node.id):
        handles = (ERROR,)
    elif node.on_error == "continue":
        handles = (ORDINARY,)
    told = {"error": {"type": error.type, "message": error.message, "attempt": attempt}}
    return Outcome(NodeStatus.FAILED, handles, encode(told) if handles else None, error=error)


def failed_attempt(node: Node, graph: Graph, error: NodeError, attempt: int) -> Outcome:
    """The outcome of a failure of the node's own doing: another attempt, if its `retry` has one left."""
    if node.retry is not None and is_retryable(node.retry, error):
        wait = next_wait_ms(node.retry, attempt)
        if wait is not None:
            return Outcome(NodeStatus.RETRYING, error=error, retry_in_ms=wait)
    return failed(node, graph, error, attempt)


def _execute(plan: NodePlan, node_data: Any, context: ExecutionContext, token: str) -> NodeExecutionResult:
    def call() -> NodeExecutionResult:
        return interruptible(token, lambda: _call(plan, node_data, context))

    try:
        result = limited(plan.node.timeout, call)
    except (UnknownNodeType, BackingServiceUnavailable):
        raise
    except NodeTimedOut as error:
        return failure(TIMEOUT, str(error))
    except SystemExit as error:
        if _ordered_by_signal(error):
            raise
        return failure_of(error)
    except Exception as error:  # noqa: BLE001 - a node may raise anything, and must not end its worker
        return failure_of(error)
    if not isinstance(result, NodeExecutionResult):
        return failure(
            "INVALID_RESULT", f"the executor answered {type(result).__name__}; it may answer {ANSWERS}"
        )
    if (problem := _misshapen(result)) is not None:
        return failure("INVALID_RESULT", problem)
    return result


def _call(plan: NodePlan, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
    executor = plan.node_type.executor
    if context.wake is not None and isinstance(executor, ResumableExecutor):
        return executor.resume(plan.node.id, node_data, context, context.wake)
    return executor.execute(plan.node.id, node_data, context)


def _misshapen(result: NodeExecutionResult) -> str | None:
    """What is wrong with the parts of a result; nobody checks types for a node's author."""
    if not isinstance(result.variables, Mapping):
        return f"variables must be an object of names and values, not {type(result.variables).__name__}"
    if result.kind == "failure" and not isinstance(result.error, NodeError):
        return "a failure needs an error; answer failure(type, message)"
    if result.kind == "waiting" and not isinstance(result.wait, Wait):
        return "a waiting node needs to say for what; answer waiting(…)"
    if result.error is not None and not isinstance(result.error.details, Mapping):
        return f"the details of a failure must be an object, not {type(result.error.details).__name__}"
    return None


def _ordered_by_signal(error: SystemExit) -> bool:
    """Whether this process was told to end while the node ran, which is no failure of the node.

    The signal handler of Celery's pool (`billiard.common`) then exits with the signal's number less 256,
    which no program that calls `sys.exit` itself asks for.
    """
    return isinstance(error.code, int) and -256 < error.code <= -256 + signal.NSIG


def _outcome(
    plan: NodePlan,
    graph: Graph,
    context: ExecutionContext,
    result: NodeExecutionResult,
    secrets: Secrets,
    output_limit: int,
) -> Outcome:
    if result.error is not None:
        error = _storable_error(result.error, secrets)
        return failed_attempt(plan.node, graph, error, context.attempt)
    if result.wait is not None:
        return Outcome(NodeStatus.WAITING, wait=result.wait)
    handles = () if result.handle is None else (result.handle,)
    known = plan.node_type.handles(plan.config)
    if any(handle not in known for handle in handles):
        ways = ", ".join(repr(way) for way in known)
        error = NodeError("INVALID_RESULT", f"the node left by {result.handle!r}; its ways out are {ways}")
        return failed(plan.node, graph, error, context.attempt)
    output = encode(secrets.mask(normalise(result.output, "output")))
    check_size(output, output_limit, "output")
    variables = _checked_variables(result.variables, graph, secrets, output_limit) if result.variables else {}
    return Outcome(NodeStatus.COMPLETED, handles, output, variables)


def _checked_variables(
    given: Mapping[str, Any], graph: Graph, secrets: Secrets, limit: int
) -> dict[str, Any]:
    variables: dict[str, Any] = secrets.mask(normalise(dict(given), "variables"))
    for name in variables:
        if name.startswith("_") or name in graph.nodes:
            raise InvalidValue(
                f"variables.{name}", "a variable may not start with _ nor have the name of a node; rename it"
            )
    check_size(encode(variables), limit, "variables")
    return variables


def _input_data(node_data: Any, secrets: Secrets, limit: int) -> bytes | None:
    """The evaluated config for the journal; what is too large is told by its size."""
    if not node_data:
        return None
    try:
        encoded = encode(normalise(secrets.mask(node_data), "config"))
    except InvalidValue as refusal:
        return encode({"_omitted": str(refusal)})
    return encoded if len(encoded) <= limit else encode({"_omitted": f"{len(encoded)} bytes"})


def _storable_error(error: NodeError, secrets: Secrets) -> NodeError:
    """The error without secrets or what Postgres cannot hold. Raises `InvalidValue` for its details."""
    details = secrets.mask(normalise(dict(error.details), "error details"))
    message = secrets.mask(storable_text(str(error.message)))
    return dataclasses.replace(error, type=storable_text(str(error.type)), message=message, details=details)


def _scope(context: ExecutionContext, secrets: Secrets) -> Scope:
    return Scope(
        variables=context.variables,
        node_outputs=context.node_outputs,
        trigger_node_id=context.trigger_node_id,
        metadata=context.metadata,
        secrets=secrets,
    )
