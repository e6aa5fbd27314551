"""An execution is one trace: a root where it starts, a span for each attempt, links to what led to each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import StatusCode

from support.broker import Broker, Workers
from support.pool_process import PoolProcess, held_up
from support.python_calls import calls_into
from support.workflows import line
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.telemetry.tracing import is_sampled

Sql = Callable[..., list[tuple[Any, ...]]]


class Switch(Sampler):
    """Samples roots while it is on."""

    is_on = True

    def should_sample(self, *given: Any, **named: Any) -> Any:
        return (ALWAYS_ON if self.is_on else ALWAYS_OFF).should_sample(*given, **named)

    def get_description(self) -> str:
        return "Switch"


SAMPLER = Switch()
EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def provider() -> None:
    """Set up the SDK, which a process can do once."""
    made = TracerProvider(sampler=ParentBased(SAMPLER))
    made.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(made)


@pytest.fixture
def spans() -> Callable[[], list[ReadableSpan]]:
    """Return a function that returns the spans of this test, in the order in which they ended."""
    EXPORTER.clear()
    SAMPLER.is_on = True
    return lambda: list(EXPORTER.get_finished_spans())


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    return new_engine(tracing=True)


@pytest.fixture
def second_engine(new_engine: Callable[..., Engine]) -> Engine:
    return new_engine(tracing=True)


def one() -> int:
    with trace.get_tracer("shop").start_as_current_span("ask the bank"):
        return 1


def two() -> int:
    return 2


def three() -> int:
    return 3


def calls_out() -> dict[str, str]:
    """Return the headers with which an instrumented client would send a request."""
    headers: dict[str, str] = {}
    with trace.get_tracer("httpx").start_as_current_span("GET"):
        propagate.inject(headers)
    return headers


def fails(context: Any) -> int:
    if context.attempt == 1:
        raise ConnectionError("no route")
    return 4


def raises_an_order() -> None:
    raise SystemExit(-241)  # as Celery's pool does at SIGTERM


def carries() -> list[Any]:
    current = trace.get_current_span().get_span_context()
    return [baggage.get_baggage("tenant"), current.trace_flags.sampled]


def asks(context: Any) -> Any:
    return waiting(events=["paid"], correlation_id="order-7") if context.wake is None else "paid"


def pauses(context: Any) -> Any:
    return waiting(seconds=60) if context.wake is None else None


def named(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def links_of(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def test_five_nodes_on_two_workers_are_one_trace_below_the_producers_span(
    client: WorkflowClient, workers: Workers, spans: Callable[[], list[ReadableSpan]]
) -> None:
    client.deploy(line(one, two, three, asks, pauses))
    with trace.get_tracer("shop").start_as_current_span("checkout") as checkout:
        client.start("line")
    workers.drain()

    found = spans()

    assert {span.context.trace_id for span in found if span.context} == {checkout.get_span_context().trace_id}
    [root] = named(found, "start line")
    assert root.parent is not None
    assert root.parent.span_id == checkout.get_span_context().span_id
    attempts = [span for span in found if span.name.startswith("line/")]
    assert [span.name for span in attempts] == ["line/one", "line/two", "line/three", "line/asks"]
    assert [span.parent.span_id for span in attempts if span.parent] == [id_of(root)] * 4
    assert [links_of(span) for span in attempts] == [[id_of(span)] for span in (root, *attempts[:-1])]
    [bank] = named(found, "ask the bank")
    assert bank.parent is not None
    assert bank.parent.span_id == id_of(attempts[0])


def test_each_attempt_has_a_span_with_its_error_and_its_wait(
    client: WorkflowClient,
    workers: Workers,
    engine: Engine,
    spans: Callable[[], list[ReadableSpan]],
    time_passes: Callable[[float], None],
) -> None:
    client.deploy(line(fails, retry={"maxAttempts": 2, "waitDuration": 30_000, "jitter": False}))
    execution = client.start("line").id
    workers.drain()
    time_passes(40)
    Timekeeping(engine).round()
    workers.drain()

    first, second = named(spans(), "line/fails")

    assert first.attributes is not None
    assert first.attributes["workflow_engine.outcome"] == "RETRYING"
    assert first.attributes["workflow_engine.execution_id"] == execution
    assert first.attributes["error.type"] == "ConnectionError"
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "no route")
    [begins] = first.events
    assert (begins.name, dict(begins.attributes or {})) == (
        "wait began",
        {"workflow_engine.type": "RETRY", "workflow_engine.seconds": 30.0},
    )
    assert second.attributes is not None
    assert second.attributes["workflow_engine.attempt"] == 2
    assert links_of(second) == [id_of(first)]
    assert [event.name for event in second.events] == ["wait ended"]


def test_a_node_that_an_event_wakes_is_linked_to_the_run_that_began_to_wait(
    client: WorkflowClient, workers: Workers, spans: Callable[[], list[ReadableSpan]]
) -> None:
    client.deploy(line(asks, two))
    client.start("line")
    workers.drain()
    client.send_event("order-7", "paid")
    workers.drain()

    before, after = named(spans(), "line/asks")
    [following] = named(spans(), "line/two")

    assert links_of(after) == [id_of(before)]
    assert links_of(following) == [id_of(after)]
    waits = [dict(event.attributes or {}) for event in (*before.events, *after.events)]
    assert [each["workflow_engine.type"] for each in waits] == ["EVENTS", "EVENTS"]
    assert {span.context.trace_id for span in (before, after, following) if span.context} == {
        before.context.trace_id  # type: ignore[union-attr]
    }


def test_children_and_inline_steps_belong_to_the_trace_of_their_root(
    client: WorkflowClient, workers: Workers, spans: Callable[[], list[ReadableSpan]]
) -> None:
    client.deploy(line(one, two, id="child", settings={"hops": "inline"}))
    flow = WorkflowBuilder("parent")
    flow.trigger("begin") >> flow.sub_workflow("sub", "child") >> flow.function("end", "{{ sub }}")
    client.deploy(flow.build())
    execution = client.start("parent").id
    workers.drain()

    found = spans()

    assert client.get(execution).result == 2
    assert len({span.context.trace_id for span in found if span.context}) == 1
    waiting_sub, _ = named(found, "parent/sub")
    [first], [second] = named(found, "child/one"), named(found, "child/two")
    assert first.parent is not None
    assert first.parent.span_id == id_of(waiting_sub)
    assert links_of(second) == [id_of(first)]


def test_branches_that_run_at_the_same_time_are_linked_to_what_led_to_each(
    client: WorkflowClient, workers: Workers, spans: Callable[[], list[ReadableSpan]]
) -> None:
    flow = WorkflowBuilder("branches", settings={"concurrency": 2})
    fork = flow.trigger("begin") >> flow.function("fork", "{{ 1 }}")
    left, right = flow.function("left", "{{ 2 }}"), flow.function("right", "{{ 3 }}")
    join = flow.merge("join")
    fork >> left >> join
    fork >> right >> join
    client.deploy(flow.build())
    execution = client.start("branches").id
    workers.drain()

    found = spans()

    assert client.get(execution).result == {"left": 2, "right": 3}
    [of_fork], [of_left], [of_right], [of_join] = (
        named(found, f"branches/{node}") for node in ("fork", "left", "right", "join")
    )
    assert links_of(of_left) == links_of(of_right) == [id_of(of_fork)]
    assert links_of(of_join) == [id_of(of_right)], "the branch that came last led to it"
    assert len({span.context.trace_id for span in found if span.context}) == 1


def test_a_start_that_is_not_sampled_makes_no_span_anywhere(
    client: WorkflowClient, workers: Workers, spans: Callable[[], list[ReadableSpan]], sql: Sql
) -> None:
    SAMPLER.is_on = False
    client.deploy(line(one, two, pauses))
    execution = client.start("line").id
    SAMPLER.is_on = True

    workers.drain()

    assert spans() == [], "what nodes trace themselves follows the decision of the start"
    [(traceparent,)] = sql("SELECT metadata->>'traceparent' FROM executions WHERE id = %s", execution)
    assert int(traceparent[-2:], 16) & 1 == 0


def test_a_hop_that_is_not_sampled_makes_no_span_and_passes_on_that_decision(
    client: WorkflowClient, broker: Broker, workers: Workers, spans: Callable[[], list[ReadableSpan]]
) -> None:
    spans()
    SAMPLER.is_on = False
    client.deploy(line(one, two, three, pauses))
    client.start("line")
    for _ in range(2):  # each worker reads the trace of an execution once
        workers.hop()

    with calls_into("opentelemetry") as called:
        workers.hop()

    assert not called
    [following] = broker.queue
    assert following.traceparent is not None, "Celery's own instrumentation follows it"
    assert not is_sampled(following.traceparent)


def test_a_request_of_a_node_that_is_not_sampled_carries_that_decision(
    client: WorkflowClient, workers: Workers, spans: Callable[[], list[ReadableSpan]], sql: Sql
) -> None:
    SAMPLER.is_on = False
    client.deploy(line(calls_out))
    execution = client.start("line").id
    SAMPLER.is_on = True

    workers.drain()

    sent = client.get(execution).result["traceparent"]
    [(traceparent,)] = sql("SELECT metadata->>'traceparent' FROM executions WHERE id = %s", execution)
    assert sent.split("-")[1] == traceparent.split("-")[1]
    assert not is_sampled(sent)
    assert spans() == []


def test_after_a_hop_that_is_not_sampled_its_process_makes_spans_of_its_own_again(
    client: WorkflowClient, workers: Workers, spans: Callable[[], list[ReadableSpan]]
) -> None:
    SAMPLER.is_on = False
    client.deploy(line(one, raises_an_order))
    client.start("line")
    SAMPLER.is_on = True
    workers.hop()
    with pytest.raises(SystemExit):
        workers.hop()

    one()

    assert [span.name for span in spans()] == ["ask the bank"]


@pytest.mark.parametrize("is_sampled_at_start", [True, False])
def test_a_node_sees_what_its_worker_has_put_around_it(
    is_sampled_at_start: bool,
    client: WorkflowClient,
    workers: Workers,
    spans: Callable[[], list[ReadableSpan]],
) -> None:
    spans()
    SAMPLER.is_on = is_sampled_at_start
    client.deploy(line(carries))
    execution = client.start("line").id

    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        workers.drain()
    finally:
        context.detach(token)

    assert client.get(execution).result == ["acme", is_sampled_at_start]


def test_a_process_does_not_wait_for_the_commit_of_a_hop_that_is_not_sampled(
    settings: Settings, spans: Callable[[], list[ReadableSpan]]
) -> None:
    spans()
    SAMPLER.is_on = False
    with closing(PoolProcess(settings.model_copy(update={"tracing": True}), settings.redis_url)) as process:
        client = WorkflowClient(engine=process.engine)
        client.deploy(line(two, three))
        execution, _ = client.start("line").id, client.start("line").id
        now, then = process.take(), process.take()

        with held_up(settings, execution):
            process.serve(now, then)
            assert [row.node_id for row in client.journal(execution)] == ["start"]

        process.serve(then)
        process.drain()
        assert client.get(execution).result == 3


def test_without_the_setting_nothing_is_stored_sent_or_traced(
    new_engine: Callable[..., Engine], broker: Broker, spans: Callable[[], list[ReadableSpan]], sql: Sql
) -> None:
    untraced = new_engine()
    client = WorkflowClient(engine=untraced)
    client.deploy(line(two, three))
    execution = client.start("line").id

    assert [dispatch.traceparent for dispatch in broker.queue] == [None]
    Workers(broker, untraced).drain()

    assert spans() == []
    assert sql("SELECT metadata ? 'traceparent' FROM executions WHERE id = %s", execution) == [(False,)]


def test_an_execution_of_an_untraced_producer_is_run_by_workers_that_trace(
    new_engine: Callable[..., Engine], workers: Workers, spans: Callable[[], list[ReadableSpan]]
) -> None:
    client = WorkflowClient(engine=new_engine())
    client.deploy(line(two, three))
    execution = client.start("line").id

    workers.drain()

    assert client.get(execution).is_finished
    assert spans() == []


@pytest.mark.parametrize(
    "traceparent", ["", "00-1-2-3", "no trace", "00-" + "f" * 90, f"00-{'0' * 32}-{'0' * 16}-01"]
)
def test_a_message_with_a_broken_trace_context_is_served(
    traceparent: str,
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    spans: Callable[[], list[ReadableSpan]],
) -> None:
    client.deploy(line(two))
    execution = client.start("line").id

    engine.executor.continue_execution(broker.take(), traceparent=traceparent)

    assert client.get(execution).is_finished
    assert [span.name for span in spans()] == ["start line", "line/two"]
