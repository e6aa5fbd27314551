"""What a hop pays for telemetry, and for limits that it does not use, is counted in Python calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from opentelemetry import context, trace

from support.broker import Broker
from support.python_calls import calls_into
from support.workflows import line
from workflow_engine import WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.telemetry import counting
from workflow_engine.telemetry.tracing import is_sampled

CODE_FOR_LIMITS = (
    "workflow_engine.engine.preconditions.slots",
    "workflow_engine.runner.limits",
    "workflow_engine.postgres.limits",
)


def one() -> int:
    return 1


def two() -> int:
    return 2


def three() -> int:
    return 3


def four() -> int:
    return 4


def limited() -> int:
    return 5


@pytest.fixture
def counts() -> Iterator[Callable[[], object]]:
    """Return what makes this process count as a worker with metrics does."""
    kept = []
    yield lambda: kept.append(counting.begin())
    counting.stop()
    for each in kept:
        each.remove()


@contextmanager
def within_a_trace_that_is_not_sampled() -> Iterator[None]:
    about = trace.SpanContext(0xA11CE, 0xB0B, is_remote=False, trace_flags=trace.TraceFlags(0))
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(about)))
    try:
        yield
    finally:
        context.detach(token)


def calls_of_a_hop(engine: Engine, broker: Broker, *modules: str) -> Counter[str]:
    """Count the calls of the third node of four, which neither begins nor ends an execution."""
    client = WorkflowClient(engine=engine)
    client.deploy(line(one, two, three, four))
    called: Counter[str] = Counter()
    for _ in range(2):  # the first execution opens connections and compiles the workflow
        with within_a_trace_that_is_not_sampled():
            client.start("line")
        for node_id in ("one", "two", "three", "four"):
            dispatch = broker.queue.popleft()
            with calls_into(*modules) as called_of_node:
                engine.executor.continue_execution(dispatch.message, traceparent=dispatch.traceparent)
            assert dispatch.message.node_id == node_id
            assert dispatch.traceparent is None or not is_sampled(dispatch.traceparent)
            called = called_of_node if node_id == "three" else called
    return called


def test_a_worker_with_metrics_calls_two_functions_more_for_a_hop(
    engine: Engine, broker: Broker, counts: Callable[[], object]
) -> None:
    without = calls_of_a_hop(engine, broker)

    counts()
    extra = calls_of_a_hop(engine, broker) - without

    assert sum(extra.values()) <= 2, extra


def test_a_trace_that_is_not_sampled_is_one_call_more_for_a_hop(
    engine: Engine, new_engine: Callable[..., Engine], broker: Broker
) -> None:
    without = calls_of_a_hop(engine, broker)

    extra = calls_of_a_hop(new_engine(tracing=True), broker) - without

    assert extra == {"attempt": 1}


def test_a_hop_without_limits_runs_no_code_for_limits(
    client: WorkflowClient, engine: Engine, broker: Broker
) -> None:
    client.deploy(line(limited, id="limited", limits=[{"key": "bank", "concurrency": 1}]))
    client.start("limited")
    engine.executor.continue_execution(broker.take())

    assert not calls_of_a_hop(engine, broker, *CODE_FOR_LIMITS)
