"""A node whose code a worker lacks waits in Postgres for a worker that has it, and holds up no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.workflows import calling
from workflow_engine import (
    ExecutionStatus,
    NodeExecutionResult,
    NodeStatus,
    Settings,
    WorkflowBuilder,
    WorkflowClient,
    node,
    waiting,
)
from workflow_engine.definition.workflow import Edge, Node, Workflow
from workflow_engine.engine.assembly import Engine
from workflow_engine.health.doctor.postgres import ask_postgres
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.presentation.phrases import describe_wait
from workflow_engine.redis.keys import Keys

UNKNOWN = "test.not_deployed_here"

Sql = Callable[..., list[tuple[Any, ...]]]


def newer(missing: Node) -> Workflow:
    """Return a workflow of a trigger and this node."""
    start = Node(id="start", type="trigger", sub_type="manual")
    return Workflow(id="newer", nodes=(start, missing), edges=(Edge(source="start", target=missing.id),))


@pytest.fixture(params=["function", "node type"])
def lacking(request: pytest.FixtureRequest, engine: Engine, client: WorkflowClient) -> str:
    """Return the id of an execution whose node needs code that this worker does not have."""
    missing = (
        Node(id="missing", type="action", sub_type="python", config={"function": UNKNOWN})
        if request.param == "function"
        else Node(id="missing", type="action", sub_type=UNKNOWN)
    )
    engine.deployments.deploy(newer(missing))
    return client.start("newer").id


@pytest.fixture
def stuck(lacking: str, workers: Workers) -> str:
    """Return the id of such an execution once its node waits for the code."""
    workers.drain()
    return lacking


@pytest.fixture
def hours_pass(sql: Sql) -> Callable[[float], None]:
    """Return a function that lets seconds pass for nodes that wait for code."""

    def by(seconds: float) -> None:
        sql(
            "UPDATE execution_wait_states SET claimed_until = claimed_until - %s * interval '1 second', "
            "needed_until = needed_until - %s * interval '1 second'",
            seconds,
            seconds,
        )

    return by


@pytest.fixture
def with_code(engine: Engine, new_engine: Callable[..., Engine]) -> Callable[[Callable[..., Any]], Engine]:
    """Return a factory of workers of a newer release, which have one more function than the others."""

    def deploy(function: Callable[..., Any]) -> Engine:
        newer_worker = new_engine()
        node(UNKNOWN)(function)
        return newer_worker

    return deploy


@pytest.fixture(autouse=True)
def _without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove after a test what it registers."""
    from workflow_engine.nodes.registry import registry

    monkeypatch.setattr(registry, "_types", dict(registry._types))
    monkeypatch.setattr(registry, "_functions", dict(registry._functions))


def wake(worker: Engine) -> list[str]:
    """Play the timekeeper of a worker."""
    due = worker.waits.claim_due(known=worker.registry.names)
    worker.publisher.wake(due)
    return [wait.node_id for wait in due]


def older(worker: Engine) -> frozenset[str]:
    """Return the names that a worker of the previous release has."""
    return worker.registry.names - {UNKNOWN, f"action/{UNKNOWN}"}


def test_no_message_goes_round_for_it(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    stuck: str,
    hours_pass: Callable[[float], None],
    redis_client: redis.Redis,
    settings: Settings,
) -> None:
    assert client.get(stuck).status is ExecutionStatus.WAITING
    assert not engine.locks.is_locked(stuck)
    assert not redis_client.hexists(Keys.of(settings).context(stuck), "mark")
    hours_pass(settings.unknown_type_timeout - 1)
    assert wake(engine) == []
    assert not broker.queue
    # Nor does a worker that lacks the code look for it without a pause.
    assert engine.due_times.next(engine.registry.names).wait > 0


def test_it_runs_as_soon_as_a_worker_has_its_code(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    stuck: str,
    with_code: Callable[..., Engine],
    hours_pass: Callable[[float], None],
) -> None:
    newer_worker = with_code(lambda: "here")
    hours_pass(1)

    assert engine.waits.claim_due(known=older(engine)) == []
    assert wake(newer_worker) == ["missing"]
    workers.drain()

    assert client.get(stuck).result == "here"
    assert [row.status for row in client.journal(stuck)] == [
        NodeStatus.COMPLETED,
        NodeStatus.WAITING,
        NodeStatus.COMPLETED,
    ]
    assert client.context(stuck).to_dict()["metadata"]["executionPath"] == ["start", "missing"]


def test_a_worker_without_its_code_does_not_count_as_a_run_of_a_node_that_must_not_be_repeated(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    with_code: Callable[..., Engine],
    hours_pass: Callable[[float], None],
    settings: Settings,
) -> None:
    config = {"function": UNKNOWN}
    missing = Node(id="missing", type="action", sub_type="python", config=config, on_crash="fail")
    engine.deployments.deploy(newer(missing))
    execution = client.start("newer").id
    workers.drain()
    hours_pass(settings.unknown_type_timeout - 20)
    engine.publisher.wake(engine.waits.claim_due(known=engine.registry.names | {UNKNOWN}))
    workers.drain()  # a worker that claimed to have it has not

    newer_worker = with_code(lambda: "here")
    hours_pass(30)
    assert wake(newer_worker) == ["missing"]
    workers.drain()

    assert client.get(execution).result == "here"


def test_a_node_whose_code_never_comes_fails_and_says_so(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    stuck: str,
    hours_pass: Callable[[float], None],
    settings: Settings,
) -> None:
    hours_pass(settings.unknown_type_timeout)

    assert wake(engine) == ["missing"]
    workers.drain()

    failed = client.get(stuck)
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error_details == {"nodeId": "missing", "type": "UNKNOWN_NODE_TYPE"}
    assert UNKNOWN in (failed.error or "")


def test_with_a_timeout_of_zero_it_fails_at_once(
    client: WorkflowClient, new_engine: Callable[..., Engine], broker: Broker, lacking: str
) -> None:
    new_engine(unknown_type_timeout=0).executor.continue_execution(broker.take())

    assert client.get(lacking).status is ExecutionStatus.FAILED


def test_workers_without_the_code_that_take_its_message_leave_it_again_and_its_timeout_restarts(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    broker: Broker,
    stuck: str,
    sql: Sql,
    with_code: Callable[..., Engine],
    hours_pass: Callable[[float], None],
    settings: Settings,
) -> None:
    """Most of a fleet that is being deployed is of the older release."""
    known = engine.registry.names | {UNKNOWN, f"action/{UNKNOWN}"}
    pauses = []
    for _ in range(8):
        hours_pass(settings.unknown_type_timeout - 20)
        claimed = engine.waits.claim_due(known=known)
        assert [wait.node_id for wait in claimed] == ["missing"]
        engine.publisher.wake(claimed)
        workers.drain()
        ((pause, patience),) = sql(
            "SELECT extract(epoch FROM claimed_until - now())::float, "
            "extract(epoch FROM needed_until - now())::float FROM execution_wait_states"
        )
        pauses.append(round(pause))
        assert patience == pytest.approx(settings.unknown_type_timeout, abs=5)

    assert pauses == [2, 4, 8, 10, 10, 10, 10, 10]
    assert len(client.journal(stuck)) == 2, "the journal does not grow with every try"
    newer_worker = with_code(lambda: "here")
    hours_pass(10)
    wake(newer_worker)
    workers.drain()
    assert client.get(stuck).result == "here"


def test_other_branches_go_on(
    client: WorkflowClient, engine: Engine, workers: Workers, with_code: Callable[..., Engine]
) -> None:
    def beside() -> str:
        return "done"

    flow = WorkflowBuilder("branches")
    start = flow.trigger("start")
    other = calling(flow, beside)
    start >> other
    built = flow.build()
    missing = Node(id="missing", type="action", sub_type=UNKNOWN)
    engine.deployments.deploy(
        built.model_copy(
            update={
                "nodes": (*built.nodes, missing),
                "edges": (Edge(source="start", target="missing"), *built.edges),
            }
        )
    )
    execution = client.start("branches").id

    workers.drain()

    outputs = client.context(execution).to_dict()["nodeOutputs"]
    assert outputs["beside"] == "done"
    assert client.get(execution).status is ExecutionStatus.WAITING


def test_what_a_woken_node_was_sent_is_kept_for_the_worker_that_has_its_code(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    hours_pass: Callable[[float], None],
) -> None:
    wakes: list[Any] = []

    class Listener:
        def execute(self, node_id: str, node_data: Any, context: Any) -> NodeExecutionResult:
            return waiting(events=["paid"], correlation_id="order-7")

        def resume(self, node_id: str, node_data: Any, context: Any, wake: Any) -> NodeExecutionResult:
            wakes.append((wake.reason, dict(wake.events)))
            return NodeExecutionResult("success", output="resumed")

    from workflow_engine.nodes.contract import NodeType
    from workflow_engine.nodes.registry import FreeConfig, registry

    registry.add(NodeType("action", UNKNOWN, Listener(), FreeConfig))
    engine.deployments.deploy(newer(Node(id="missing", type="action", sub_type=UNKNOWN)))
    execution = client.start("newer").id
    workers.drain()
    taken = registry._types.pop(f"action/{UNKNOWN}")
    engine.workflows._kept.clear()
    workers._engines[1].workflows._kept.clear()

    client.send_event("order-7", "paid", {"amount": 5})
    workers.drain()
    assert wakes == []
    assert client.get(execution).status is ExecutionStatus.WAITING

    registry.add(taken)
    hours_pass(10)
    assert wake(engine) == ["missing"]
    workers.drain()
    assert wakes == [("events", {"paid": {"amount": 5}})]
    assert client.get(execution).result == "resumed"


def test_a_pause_stops_its_timeout(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    stuck: str,
    hours_pass: Callable[[float], None],
    settings: Settings,
) -> None:
    client.control.pause(stuck)
    for _ in range(3):
        hours_pass(settings.unknown_type_timeout)
        wake(engine)
    client.control.resume(stuck)
    workers.drain()

    assert client.get(stuck).status is ExecutionStatus.WAITING


def test_a_cancelled_execution_waits_for_no_code(client: WorkflowClient, stuck: str, sql: Sql) -> None:
    client.control.cancel(stuck)

    assert sql("SELECT status FROM execution_wait_states") == [("CANCELLED",)]


def test_a_timekeeper_finds_what_its_worker_can_run(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    broker: Broker,
    stuck: str,
    with_code: Callable[..., Engine],
    hours_pass: Callable[[float], None],
) -> None:
    Timekeeping(engine).round()
    assert not broker.queue

    newer_worker = with_code(lambda: "here")
    hours_pass(1)
    Timekeeping(newer_worker).round()
    workers.drain()

    assert client.get(stuck).result == "here"


def test_show_and_doctor_report_what_it_waits_for(
    client: WorkflowClient, stuck: str, settings: Settings
) -> None:
    wait = client.journal(stuck)[-1].wait
    assert wait is not None
    (needs,) = [name for name, _ in ask_postgres(settings).waiting_for_code]
    assert needs == wait.needs
    assert re.fullmatch(
        rf"for a worker that has '{needs}' until 20\d\d-.+ UTC, then it fails", describe_wait(wait)
    )


def test_the_log_reports_it_once_for_each_name(
    client: WorkflowClient, workers: Workers, lacking: str, log_lines: Callable[[], list[str]]
) -> None:
    from workflow_engine.engine.steps.attempts import _log_missing_code

    _log_missing_code.cache_clear()
    client.start("newer")
    workers.drain()

    (logged,) = [each for each in log_lines() if "does not have" in each]
    assert UNKNOWN in logged
    assert "fail after 600 s without one" in logged
