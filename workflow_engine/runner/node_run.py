"""Running one node: evaluate its config, call its executor, and make a storable outcome of the result.

Any mistake of a node becomes that node's failure, in words its author can act on. Only errors that are not
the node's own are raised: an order to stop, a type or function that this process lacks, and a server of the
engine that is unavailable.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ERROR, ORDINARY, Node
from workflow_engine.errors import (
    ContextUnavailable,
    ExpressionError,
    InvalidValue,
    UnknownNodeType,
)
from workflow_engine.execution.bounded_texts import readable_part
from workflow_engine.execution.context import ExecutionContext, Run
from workflow_engine.execution.records import DonePart, NewChildren, WantedSlot
from workflow_engine.execution.states import NodeStatus
from workflow_engine.expressions import Scope, Template
from workflow_engine.expressions.secrets import Secrets
from workflow_engine.json_values import check_size, encode, encode_normal, normalise
from workflow_engine.nodes.contract import NodeTimedOut, ResumableExecutor
from workflow_engine.nodes.results import (
    NodeError,
    NodeExecutionResult,
    Wait,
    failure,
    failure_of,
    is_http_status,
    is_retry_after,
    success,
)
from workflow_engine.runner.compiled import CompiledNode
from workflow_engine.runner.interruption import call_interruptibly, causes, order_behind
from workflow_engine.runner.retry_policy import next_attempt
from workflow_engine.runner.storable import (
    bounded,
    check_children,
    check_wait,
    checked_variables,
    error_of_refusal,
    storable_error,
    stored_part,
    stored_text,
)
from workflow_engine.runner.time_limit import with_time_limit
from workflow_engine.telemetry.attempt_log import AttemptLog, kept

TIMEOUT = "TIMEOUT"
"""The type of the error of a node that ran too long."""

RESULTS = "a JSON value, success(…), failure(…) or waiting(…)"

NOT_KEPT = nullcontext()
"""Stands for the log of an attempt that keeps none."""


class Parts(Protocol):
    """The parts of a node's work that are done, and where further ones are stored."""

    def done(self) -> Sequence[DonePart]: ...

    def save(self, place: int, value: bytes) -> None:
        """Store the value of a part; raises if the execution has moved on without this run."""
        ...


@dataclass(slots=True)
class Outcome:
    """The outcome of a node's run, in the form in which it is committed; `run_node` completes it."""

    status: NodeStatus
    handles: tuple[str, ...] = ()
    """The ways out taken; none after a failure that nothing handles."""
    output: bytes | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    input_data: bytes | None = None
    error: NodeError | None = None
    wait: Wait | None = None
    """What a waiting node waits for."""
    children: NewChildren | None = None
    """The children of that wait, made ready to start."""
    needs: str | None = None
    """The node type or function that this worker lacks, for which the node waits."""
    limits: tuple[WantedSlot, ...] = ()
    """The slots of limits for which the node waits."""
    retry_in_ms: int | None = None
    """After a failed attempt that is followed by another: milliseconds until that one."""
    retry_rule: int | None = None
    """The position of the rule that allows it, if `retry` is a list of rules."""
    is_divided: bool = False
    """Its work has parts, which were stored one by one."""
    logs: bytes | None = None
    """What the node has logged, as JSON, if that is kept."""
    duration_ms: float = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether the node stays in the walk, to go on when a wait is over."""
        return self.wait is not None or self.needs is not None or bool(self.limits) or bool(self.retry_in_ms)

    @property
    def ends_execution(self) -> bool:
        """True for a failure that neither an edge from `error` nor `onError: continue` handles."""
        return self.status is NodeStatus.FAILED and not self.handles


def run_node(
    compiled: CompiledNode,
    graph: Graph,
    context: ExecutionContext,
    output_limit: int,
    token: str = "",
    begin: Callable[[], NodeError | None] | None = None,
    log_limit: int = 0,
    parts: Parts | None = None,
) -> Outcome:
    """Run a node and return the outcome of its result.

    `begin` is called right before the executor. If it returns an error, the node fails with that instead.
    `parts` keeps what the parts of the node's work have returned, if it has any; without it they run again.

    Raises `UnknownNodeType`, `ContextUnavailable` if an output that it reads cannot be fetched,
    `NodeInterrupted` if another thread interrupts the run of this `token`, and any order to the worker.

    `output_limit` is in bytes of JSON and bounds the output, the variables and the stored input. `log_limit`
    bounds what is kept of its log lines; with 0 none are.
    """
    started = time.perf_counter()
    secrets = Secrets()
    input_data: bytes | None = None
    divided: Sequence[Any] | None = None
    log = AttemptLog(log_limit, partial(stored_text, secrets)) if log_limit else None
    try:
        # Before the node runs, since it may change its arguments.
        node_data, input_data = _node_data(compiled, context, secrets, output_limit)
        if begin is not None and (error := begin()) is not None:
            outcome = failure_outcome(compiled.node, graph, error, context.attempt)
            outcome.input_data = input_data
            return outcome
        run_context = _with_masked_reports(context, secrets)
        divided = compiled.node_type.divide(node_data)
        with kept(log) if log is not None else NOT_KEPT:
            if divided is None:
                result = _execute(compiled, node_data, run_context, token)
            else:
                keep = partial(stored_part, secrets, output_limit)
                result = _execute_parts(compiled, divided, run_context, token, parts, keep)
        outcome = _guarded_outcome(compiled, graph, context, result, secrets, output_limit)
        if outcome.wait is not None and outcome.wait.children is not None:
            check_children(outcome.wait.children, input_data, secrets, output_limit)
    except (ExpressionError, InvalidValue) as refusal:
        error = error_of_refusal(refusal, secrets)
        outcome = failure_outcome(compiled.node, graph, error, context.attempt)
    outcome.input_data = input_data
    outcome.is_divided = divided is not None
    outcome.logs = log.encoded() if log is not None else None
    outcome.duration_ms = (time.perf_counter() - started) * 1000
    return outcome


def failure_outcome(node: Node, graph: Graph, error: NodeError, attempt: int) -> Outcome:
    """Return the outcome of a failure: along the error edge, on with `onError: continue`, or the end.

    A long message, traceback or details are stored and passed on only in part.
    """
    error = bounded(error)
    handles: tuple[str, ...] = ()
    if graph.handles_errors(node.id):
        handles = (ERROR,)
    elif node.on_error == "continue":
        handles = (ORDINARY,)
    output = {"error": error.as_output(attempt)}
    return Outcome(NodeStatus.FAILED, handles, encode(output) if handles else None, error=error)


def attempt_failure_outcome(
    node: Node, graph: Graph, error: NodeError, attempt: int, failures: Sequence[int] = ()
) -> Outcome:
    """Return the outcome of a failure of the node itself: another attempt, if its `retry` has one left.

    `failures` counts the failed attempts before this one by each rule of `retry`, if it has several.
    """
    if node.retry is not None and (following := next_attempt(node.retry, error, attempt, failures)):
        return Outcome(
            NodeStatus.RETRYING,
            error=bounded(error),
            retry_in_ms=following.wait_ms,
            retry_rule=following.rule,
        )
    return failure_outcome(node, graph, error, attempt)


def _execute(
    compiled: CompiledNode, node_data: Any, context: ExecutionContext, token: str
) -> NodeExecutionResult:
    try:
        if compiled.is_limitless:
            result = call_interruptibly(token, _call, compiled, node_data, context)
        else:
            limits = compiled.limits
            call = partial(call_interruptibly, token, _call, compiled, node_data, context)
            result = with_time_limit(limits.hard, call, soft=limits.soft, soft_error=limits.soft_error)
    except (UnknownNodeType, ContextUnavailable):
        raise
    except BaseException as error:  # noqa: BLE001 - a node may raise anything, and must not end its worker
        if (order := order_behind(error)) is not None:
            raise order from None
        return _failure_of(error)
    if not isinstance(result, NodeExecutionResult):
        return failure(
            "INVALID_RESULT", f"the executor returned {type(result).__name__}; it may return {RESULTS}"
        )
    if (problem := _problem_with(result)) is not None:
        return failure("INVALID_RESULT", problem)
    return result


def _execute_parts(
    compiled: CompiledNode,
    divided: Sequence[Any],
    context: ExecutionContext,
    token: str,
    parts: Parts | None,
    keep: Callable[[Any, int], tuple[Any, bytes]],
) -> NodeExecutionResult:
    """Run the parts of a node's work that are not done, each with limits, a key and attempts of its own.

    The last one is stored by the commit of the node.
    """
    done = list(parts.done()) if parts is not None and len(divided) > 1 else []
    values, begun = [each.value for each in done], done[-1].attempt if done else 1
    for place in range(len(values), len(divided)):
        if len(divided) > 1:
            context.report_progress(place / len(divided), f"{place} of {len(divided)}")
        # An operator's retry has the node count its attempts from one again.
        attempt = context.attempt - begun + 1 if context.attempt >= begun else context.attempt
        of_part = dataclasses.replace(
            context, attempt=attempt, idempotency_key=f"{context.idempotency_key}:{place}"
        )
        result = _execute(compiled, divided[place], of_part, token)
        if result.kind != "success":
            return _of_part(result, place)
        value, encoded = keep(result.output, place)
        if parts is not None and place < len(divided) - 1:
            parts.save(place, encoded)
        values.append(value)
        begun = context.attempt
    return success(values)


def _of_part(result: NodeExecutionResult, place: int) -> NodeExecutionResult:
    """Return the result of a part as that of its node; a failure says which part it was."""
    if result.error is None or not isinstance(result.error.details, Mapping):
        return result
    return _with_error(result, details={**result.error.details, "part": place})


def _failure_of(error: BaseException) -> NodeExecutionResult:
    """Return a node's error as a failure.

    If a time limit caused it, the failure names that limit, even if the node raised another error from it.
    Celery's limit is recognised by its name, because nodes run without Celery, too.
    """
    for each in causes(error):
        if isinstance(each, NodeTimedOut):
            return _with_error(failure_of(each), type=TIMEOUT)
        if type(each).__name__ == "SoftTimeLimitExceeded":
            soft = (
                "the node ran for longer than Celery's soft time limit (`task_soft_time_limit`, or "
                "`soft_time_limit` of the task that it runs)"
            )
            return _with_error(failure_of(each), message=soft)
    return failure_of(error)


def _with_error(result: NodeExecutionResult, **changes: Any) -> NodeExecutionResult:
    """Return a failure with parts of its error replaced, its traceback kept."""
    return dataclasses.replace(result, error=result.error and dataclasses.replace(result.error, **changes))


def _call(compiled: CompiledNode, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
    executor = compiled.node_type.executor
    if context.wake is not None and isinstance(executor, ResumableExecutor):
        return executor.resume(compiled.node.id, node_data, context, context.wake)
    return executor.execute(compiled.node.id, node_data, context)


def _problem_with(result: NodeExecutionResult) -> str | None:
    """Return what is wrong with the parts of a result; a node's code may not be type-checked."""
    if not isinstance(result.variables, Mapping):
        return f"variables must be an object of names and values, not {type(result.variables).__name__}"
    if result.kind == "failure" and not isinstance(result.error, NodeError):
        return "a failure needs an error; return failure(type, message)"
    if result.kind == "waiting" and not isinstance(result.wait, Wait):
        return "a waiting node needs a wait; return waiting(…)"
    return None if result.error is None else _problem_with_error(result.error)


def _problem_with_error(error: NodeError) -> str | None:
    if not isinstance(error.details, Mapping):
        return f"the details of a failure must be an object, not {type(error.details).__name__}"
    if error.status is not None and not is_http_status(error.status):
        return f"the status of a failure must be an HTTP status from 100 to 599, not {error.status!r:.60}"
    if error.retry_after is not None and not is_retry_after(error.retry_after):
        return f"retry_after must be a number of seconds from 0 on, not {error.retry_after!r:.60}"
    return None


def _guarded_outcome(
    compiled: CompiledNode,
    graph: Graph,
    context: ExecutionContext,
    result: NodeExecutionResult,
    secrets: Secrets,
    output_limit: int,
) -> Outcome:
    """Return the outcome of a result, which may contain the node's own objects, whose methods may raise."""
    try:
        return _outcome(compiled, graph, context, result, secrets, output_limit)
    except (InvalidValue, ExpressionError, ContextUnavailable):
        raise
    except BaseException as error:  # noqa: BLE001 - a node may raise anything, and must not end its worker
        if (order := order_behind(error)) is not None:
            raise order from None
        return _outcome(compiled, graph, context, failure_of(error), secrets, output_limit)


def _outcome(
    compiled: CompiledNode,
    graph: Graph,
    context: ExecutionContext,
    result: NodeExecutionResult,
    secrets: Secrets,
    output_limit: int,
) -> Outcome:
    if result.error is not None:
        error = storable_error(result.error, secrets)
        if result.retry_in is not None:
            wait = round(result.retry_in * 1000)
            return Outcome(NodeStatus.RETRYING, error=error, retry_in_ms=wait)
        return attempt_failure_outcome(compiled.node, graph, error, context.attempt, context.failures)
    if result.wait is not None:
        check_wait(result.wait, secrets)
        return Outcome(NodeStatus.WAITING, wait=result.wait)
    if result.handle is not None and result.handle not in compiled.handles:
        ways = ", ".join(repr(way) for way in compiled.handles)
        error = NodeError("INVALID_RESULT", f"the node left by {result.handle!r}; its ways out are {ways}")
        return failure_outcome(compiled.node, graph, storable_error(error, secrets), context.attempt)
    produced = result.output
    if compiled.output is not None:
        produced = _mapped(compiled.output, produced, _scope(context, secrets))
    if secrets:
        output = encode(secrets.mask_data(normalise(produced, "output"), "output"))
    else:
        output = encode_normal(produced, "output")
    check_size(output, output_limit, "output")
    handles = () if result.handle is None else (result.handle,)
    variables = checked_variables(result.variables, graph, secrets, output_limit) if result.variables else {}
    return Outcome(NodeStatus.COMPLETED, handles, output, variables)


def _mapped(output: Template, produced: Any, scope: Scope) -> Any:
    """Return what a node's `output` makes of its executor's result, which may be of any size."""
    scope = dataclasses.replace(scope, response=normalise(produced, "_response"))
    try:
        return output.evaluate(scope)
    except ExpressionError as refusal:
        raise ExpressionError(refusal.expression, f"output: {refusal}") from None


def _node_data(
    compiled: CompiledNode, context: ExecutionContext, secrets: Secrets, limit: int
) -> tuple[Any, bytes | None]:
    """Return the evaluated config for the executor, and for the journal, or its size if it is too large."""
    if compiled.template.is_constant:
        node_data, encoded = compiled.constant_config(), compiled.recorded_constants
    else:
        node_data = compiled.evaluate(_scope(context, secrets))
        recorded = compiled.recorded(node_data)
        if not recorded:
            return node_data, None
        try:
            encoded = encode_normal(secrets.mask_texts(recorded), "config")
        except InvalidValue as refusal:
            return node_data, encode({"_omitted": str(refusal)})
    if encoded is not None and len(encoded) > limit:
        encoded = encode({"_omitted": f"{len(encoded)} bytes"})
    return node_data, encoded


@dataclass(frozen=True)
class _MaskedRun:
    """The run of a node that may read secrets: it masks the node's reports."""

    run: Run
    secrets: Secrets

    @property
    def is_unwanted(self) -> bool:
        return self.run.is_unwanted

    def report_progress(self, fraction: float | None, message: str) -> None:
        self.run.report_progress(fraction, self.secrets.mask_text(readable_part(str(message))))


def _with_masked_reports(context: ExecutionContext, secrets: Secrets) -> ExecutionContext:
    if context.run is None or not secrets:
        return context
    return dataclasses.replace(context, run=_MaskedRun(context.run, secrets))


def _scope(context: ExecutionContext, secrets: Secrets) -> Scope:
    return Scope(
        variables=context.variables,
        node_outputs=context.node_outputs,
        trigger_node_id=context.trigger_node_id,
        metadata=context.metadata,
        secrets=secrets,
        iteration=context.iteration,
    )
