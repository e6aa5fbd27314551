"""Traces: an execution is one, with a span for its start and one for each attempt of a node.

The context of the start is kept with the execution's metadata. So any process that runs a node, however long
after, makes its span below that one, with a link to the span of the attempt that led to it. A process that
dies with a node takes the node's span along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVarTuple

from workflow_engine.engine.hop import Committed, Hop
from workflow_engine.engine.hop_report import HopEnd
from workflow_engine.execution.records import NewExecution, StartedExecution
from workflow_engine.execution.states import NodeStatus
from workflow_engine.runner.interruption import NodeInterrupted
from workflow_engine.runner.node_run import Outcome
from workflow_engine.telemetry.tracing import TRACEPARENT, Tracing, is_sampled

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Given = TypeVarTuple("Given")

PREFIX = "workflow_engine."


class Spans:
    """Makes the spans of executions. One instance serves a process."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def start(
        self, new: NewExecution, create: Callable[[NewExecution], StartedExecution]
    ) -> StartedExecution:
        """Create an execution inside of the span that is the root of its own."""
        about = {"execution_id": new.execution_id, "workflow": new.workflow_id, "version": new.version}
        with self._tracing.producer(f"start {new.workflow_id}", _named(about)) as carrier:
            return create(replace(new, metadata={**new.metadata, **carrier}))

    def begin(self, new: NewExecution) -> NewExecution:
        """Make the span that is the root of an execution which is created together with others."""
        about = {"execution_id": new.execution_id, "workflow": new.workflow_id, "version": new.version}
        with self._tracing.producer(f"start {new.workflow_id}", _named(about)) as carrier:
            return replace(new, metadata={**new.metadata, **carrier})

    def attempt(
        self, run_and_commit: Callable[[Hop, *Given], Committed], hop: Hop, *given: *Given
    ) -> Committed:
        """Run a node, and commit it, inside of its span if its execution is traced.

        In one that is not sampled there is no span. What the node traces itself follows that decision.
        """
        metadata: Mapping[str, Any] = hop.cached.identity["metadata"]
        traceparent = metadata.get(TRACEPARENT)
        if traceparent is None:
            return run_and_commit(hop, *given)
        # Every hop of such an execution does this, so it calls nothing else where nothing is around it.
        if (following := self._tracing.unsampled(traceparent)) is None:
            return self._traced(hop, metadata, lambda hop: run_and_commit(hop, *given))
        current = self._tracing.current
        around = current.get()
        token = current.set(self._tracing.merged(around, following) if around else following)
        try:
            return run_and_commit(hop, *given)
        finally:
            current.reset(token)

    def _traced(
        self, hop: Hop, metadata: Mapping[str, Any], run_and_commit: Callable[[Hop], Committed]
    ) -> Committed:
        woken, workflow = hop.woken, hop.workflow.workflow.id
        cause = hop.cause if is_sampled(hop.cause) else None
        if woken is not None and woken.traceparent:
            cause = woken.traceparent
        about = {
            "execution_id": hop.execution_id,
            "workflow": workflow,
            "version": hop.workflow.version,
            "node": hop.node.id,
            "node_type": hop.node.kind,
            "visit": hop.walk.visit(hop.node.id),
            "attempt": hop.attempt,
        }
        with self._tracing.consumer(f"{workflow}/{hop.node.id}", metadata, cause, _named(about)) as span:
            if woken is not None:
                ended = {"type": woken.type.value, "reason": woken.reason, "seconds": woken.waited}
                span.add_event("wait ended", _named(ended))
            with self._closing(span):
                done = run_and_commit(replace(hop, span=self._tracing.text_of(span)))
            self._report(span, done)
            return done

    @contextmanager
    def _closing(self, span: Span) -> Iterator[None]:
        """Say in a span how a run ended that was not committed."""
        try:
            yield
        except NodeInterrupted:
            span.set_attribute(f"{PREFIX}outcome", HopEnd.INTERRUPTED)
            raise
        except BaseException as error:
            # Not its text, from which no secret has been removed.
            self._tracing.fail(span, type(error).__name__, "the run ended without a commit")
            raise

    def _report(self, span: Span, done: Committed) -> None:
        outcome, result = done.outcome, done.result
        span.set_attribute(f"{PREFIX}outcome", outcome.status if result.accepted else HopEnd.REFUSED)
        span.set_attribute(f"{PREFIX}seq", result.seq)
        if outcome.error is not None:
            self._tracing.fail(span, outcome.error.type, outcome.error.message)
        if outcome.is_waiting and result.accepted:
            span.add_event("wait began", _named(_wait(outcome)))


def _wait(outcome: Outcome) -> dict[str, Any]:
    """Describe the wait that an outcome opens, without what may be data."""
    if outcome.needs is not None:
        return {"type": "CODE", "needs": outcome.needs}
    if outcome.status is NodeStatus.RETRYING:
        return {"type": "RETRY", "seconds": (outcome.retry_in_ms or 0) / 1000}
    if outcome.children is not None:
        return {"type": "CHILDREN", "children": outcome.children.total}
    wait = outcome.wait
    if wait is not None and wait.events:
        return {"type": "EVENTS", "events": ", ".join(wait.events)}
    until = wait.until.isoformat() if wait is not None and wait.until is not None else ""
    return {"type": "DELAY", "until": until, "seconds": wait.seconds or 0 if wait is not None else 0}


def _named(about: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{PREFIX}{name}": value for name, value in about.items()}
