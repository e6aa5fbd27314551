"""A failed node is retried as its `retry` says, each attempt in the journal and each wait in Postgres."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.workflows import calling, line
from workflow_engine import (
    ExecutionContext,
    ExecutionStatus,
    NodeStatus,
    WorkflowBuilder,
    WorkflowClient,
    failure,
    waiting,
)
from workflow_engine.definition.workflow import Retry
from workflow_engine.engine.assembly import Engine

TimePasses = Callable[[float], None]
WakeDue = Callable[[], list[str]]
Sql = Callable[..., Any]


class Flaky:
    """A node's function that raises these errors, one for each call, before it succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.attempts: list[int] = []
        self.keys: set[str] = set()

    @property
    def node(self) -> Callable[..., Any]:
        def flaky(context: ExecutionContext) -> Any:
            assert context.wake is None
            self.attempts.append(context.attempt)
            self.keys.add(context.idempotency_key)
            if self._errors:
                raise self._errors.pop(0)
            return "done"

        return flaky


class Declined(ConnectionError):
    pass


class HttpError(Exception):
    """Carries a response, as the exceptions of HTTP libraries do."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered {status}")
        self.response = SimpleNamespace(status_code=status)


class UnreadableResponse(Exception):
    @property
    def response(self) -> Any:
        raise RuntimeError("there is none")


def after_flaky() -> str:
    return "went on"


def attempts(client: WorkflowClient, execution: str) -> list[tuple[NodeStatus, int, str | None]]:
    rows = client.journal(execution)
    return [(row.status, row.attempt, row.error) for row in rows if row.node_id == "flaky"]


def retry_waits(sql: Sql) -> list[tuple[str, float]]:
    """Return status and length in seconds of each wait for an attempt."""
    return [
        (status, float(seconds))
        for status, seconds in sql(
            "SELECT status, extract(epoch FROM resume_at - created_at) FROM execution_wait_states "
            "WHERE wait_type = 'RETRY' ORDER BY seq"
        )
    ]


@pytest.fixture
def run(
    client: WorkflowClient, workers: Workers, time_passes: TimePasses, wake_due: WakeDue
) -> Callable[..., str]:
    """Return a function that runs an execution to its end, however long it waits, and returns its id."""

    def to_end(flaky: Flaky, **retry: Any) -> str:
        client.deploy(line(flaky.node, retry=Retry(**retry)))
        execution = client.start("line").id
        workers.drain()
        while not client.get(execution).is_finished:
            time_passes(3600)
            assert wake_due() == ["flaky"]
            workers.drain()
        return execution

    return to_end


# -- attempts and the waits between them -----------------------------------------------------------------


def test_a_node_that_fails_twice_shows_three_attempts_with_their_errors_and_the_waits_between(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    engine: Engine,
    time_passes: TimePasses,
    wake_due: WakeDue,
    sql: Sql,
) -> None:
    flaky = Flaky(TimeoutError("slow"), ValueError("odd"))
    client.deploy(line(flaky.node, retry=Retry(max_attempts=3, wait_duration=1000)))
    execution = client.start("line").id

    workers.drain()
    assert client.get(execution).status is ExecutionStatus.WAITING
    assert broker.messages == []
    assert not engine.locks.is_locked(execution)
    assert wake_due() == []
    for seconds in (1, 2):
        time_passes(seconds)
        assert wake_due() == ["flaky"]
        workers.drain()

    finished = client.get(execution)
    assert (finished.status, finished.result, finished.nodes_executed) == (
        ExecutionStatus.COMPLETED,
        "done",
        1,
    )
    assert attempts(client, execution) == [
        (NodeStatus.RETRYING, 1, "slow"),
        (NodeStatus.RETRYING, 2, "odd"),
        (NodeStatus.COMPLETED, 3, None),
    ]
    assert sql(
        "SELECT error_details->>'type', retry_details FROM node_executions WHERE seq > 1 ORDER BY seq"
    ) == [
        ("TimeoutError", {"nextAttempt": 2, "waitMs": 1000}),
        ("ValueError", {"nextAttempt": 3, "waitMs": 2000}),
        (None, None),
    ]
    assert retry_waits(sql) == [("COMPLETED", 1.0), ("COMPLETED", 2.0)]
    assert flaky.attempts == [1, 2, 3]
    assert flaky.keys == {f"{execution}:flaky:1"}


def test_the_path_names_a_node_once_however_often_it_is_tried(
    client: WorkflowClient, workers: Workers
) -> None:
    def path(context: ExecutionContext) -> list[str]:
        return [*context.metadata["executionPath"]]

    flaky = Flaky(ValueError("odd"))
    client.deploy(line(flaky.node, path, retry=Retry(wait_duration=0)))
    execution = client.start("line").id
    workers.drain()

    assert client.get(execution).result == ["start", "flaky"]


def test_a_retry_without_a_wait_follows_at_once_and_leaves_no_wait_state(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    flaky = Flaky(ValueError("one"), ValueError("two"))
    client.deploy(line(flaky.node, retry=Retry(wait_duration=0)))
    execution = client.start("line").id

    assert workers.drain() == 3

    assert client.get(execution).result == "done"
    assert [attempt for _, attempt, _ in attempts(client, execution)] == [1, 2, 3]
    assert sql("SELECT count(*) FROM execution_wait_states") == [(0,)]


def test_a_schedule_gives_each_wait_and_lasts_weeks_without_a_message(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    time_passes: TimePasses,
    wake_due: WakeDue,
    sql: Sql,
) -> None:
    weeks = 7 * 24 * 3600 * 1000
    flaky = Flaky(*[ValueError("odd")] * 2)
    client.deploy(line(flaky.node, retry=Retry(schedule=(500, 2 * weeks))))
    execution = client.start("line").id
    workers.drain()

    time_passes(0.5)
    assert wake_due() == ["flaky"]
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.WAITING
    assert retry_waits(sql)[1] == ("WAITING", 2 * weeks / 1000)
    assert broker.messages == []


def test_a_node_that_is_retried_at_once_runs_before_its_neighbours_and_one_that_waits_after_them(
    client: WorkflowClient, workers: Workers, time_passes: TimePasses, wake_due: WakeDue
) -> None:
    flaky = Flaky(ValueError("at once"), ValueError("later"))
    flow = WorkflowBuilder("neighbours")
    first = calling(flow, flaky.node, retry=Retry(schedule=(0, 1000)))
    flow.trigger("start") >> [first, calling(flow, after_flaky)]
    client.deploy(flow.build())
    execution = client.start("neighbours").id
    workers.drain()
    time_passes(1)
    wake_due()
    workers.drain()

    assert [row.node_id for row in client.journal(execution)] == [
        "start",
        "flaky",
        "flaky",
        "after_flaky",
        "flaky",
    ]


@pytest.mark.parametrize("wait_duration", [0, 1000])
def test_the_number_of_the_attempt_survives_the_loss_of_redis(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    redis_client: redis.Redis,
    time_passes: TimePasses,
    wake_due: WakeDue,
    wait_duration: int,
) -> None:
    flaky = Flaky(*[ValueError("odd")] * 3)
    client.deploy(line(flaky.node, retry=Retry(max_attempts=4, wait_duration=wait_duration)))
    execution = client.start("line").id
    for _ in range(4):
        redis_client.flushdb()
        time_passes(8)
        wake_due()
        workers.hop()

    assert flaky.attempts == [1, 2, 3, 4]
    assert flaky.keys == {f"{execution}:flaky:1"}
    assert client.get(execution).status is ExecutionStatus.COMPLETED


@pytest.mark.parametrize("is_redis_lost", [False, True], ids=["from Redis", "from the journal"])
@pytest.mark.parametrize("hops", ["spread", "inline"])
def test_each_rule_counts_its_own_failures_over_hops_waits_and_the_loss_of_redis(
    client: WorkflowClient,
    workers: Workers,
    redis_client: redis.Redis,
    time_passes: TimePasses,
    wake_due: WakeDue,
    sql: Sql,
    is_redis_lost: bool,
    hops: str,
) -> None:
    busy, odd = HttpError(503), ValueError("odd")
    flaky = Flaky(busy, odd, busy, odd, odd)
    rules = [
        {"on": ["5xx"], "maxAttempts": 3, "waitDuration": 0},
        {"on": "all", "maxAttempts": 3, "waitDuration": 1000},
    ]
    client.deploy(line(flaky.node, retry=rules, settings={"hops": hops}))
    execution = client.start("line").id
    for _ in range(6):
        if is_redis_lost:
            redis_client.flushdb()
        time_passes(8)
        wake_due()
        workers.drain()

    failed = client.get(execution)
    assert (failed.status, failed.error) == (ExecutionStatus.FAILED, "odd")
    assert flaky.attempts == [1, 2, 3, 4, 5]
    used = [row.retry_rule for row in client.journal(execution)]
    assert used == [None, 0, 1, 0, 1, None]
    assert retry_waits(sql) == [("COMPLETED", 1.0), ("COMPLETED", 2.0)]


def test_a_message_for_an_attempt_that_has_to_wait_yet_is_dropped(
    client: WorkflowClient, engine: Engine, workers: Workers
) -> None:
    flaky = Flaky(ValueError("odd"))
    client.deploy(line(flaky.node, retry=Retry()))
    execution = client.start("line").id
    message = workers.hop()

    engine.executor.continue_execution(message)

    assert flaky.attempts == [1]
    assert client.get(execution).status is ExecutionStatus.WAITING


# -- the end of all attempts -----------------------------------------------------------------------------


def test_the_last_failure_ends_the_execution(
    client: WorkflowClient, run: Callable[..., str], sql: Sql
) -> None:
    execution = run(Flaky(*[ValueError(f"no. {n}") for n in (1, 2, 3)]))

    failed = client.get(execution)
    assert (failed.status, failed.error) == (ExecutionStatus.FAILED, "no. 3")
    assert [status for status, _, _ in attempts(client, execution)] == [
        *[NodeStatus.RETRYING] * 2,
        NodeStatus.FAILED,
    ]
    assert [status for status, _ in retry_waits(sql)] == ["COMPLETED", "COMPLETED"]


@pytest.mark.parametrize("route", ["error edge", "continue"])
def test_the_last_failure_takes_its_route_and_names_the_attempt(
    client: WorkflowClient, workers: Workers, route: str
) -> None:
    flaky = Flaky(*[ValueError("odd")] * 2)
    flow = WorkflowBuilder("routed")
    retry = Retry(max_attempts=2, wait_duration=0)
    handled = flow.function("handled", "{{ flaky.error }}")
    if route == "continue":
        flow.trigger("start") >> calling(flow, flaky.node, retry=retry, on_error="continue") >> handled
    else:
        risky = calling(flow, flaky.node, retry=retry)
        flow.trigger("start") >> risky >> calling(flow, after_flaky)
        risky.on_error >> handled
    client.deploy(flow.build())
    execution = client.start("routed").id
    workers.drain()

    finished = client.get(execution)
    error = {"type": "ValueError", "message": "odd", "attempt": 2, "details": {}}
    assert finished.status is ExecutionStatus.COMPLETED
    assert finished.result == (error if route == "continue" else {"handled": error})
    assert attempts(client, execution)[-1] == (NodeStatus.FAILED, 2, "odd")


def test_a_failure_elsewhere_cancels_an_attempt_that_waits(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    def fails() -> None:
        raise ValueError("declined")

    flow = WorkflowBuilder("failing")
    flow.trigger("start") >> [calling(flow, Flaky(ValueError()).node, retry=Retry()), calling(flow, fails)]
    client.deploy(flow.build())
    execution = client.start("failing").id
    workers.drain()

    assert client.get(execution).error == "declined"
    assert [status for status, _ in retry_waits(sql)] == ["CANCELLED"]


# -- which errors are tried again ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "retry", "tries"),
    [
        (Declined("no"), {}, 2),
        (Declined("no"), {"retry_on": ["Declined"]}, 2),
        (Declined("no"), {"retry_on": ["ConnectionError"]}, 2),
        (Declined("no"), {"retry_on": ["builtins.OSError"]}, 2),
        (Declined("no"), {"retry_on": ["TimeoutError"]}, 1),
        (Declined("no"), {"retry_on": ["OSError"], "ignore_exceptions": ["Declined"]}, 1),
        (Declined("no"), {"ignore_exceptions": ["ConnectionError"]}, 1),
        (Declined("no"), {"ignore_exceptions": ["TimeoutError"]}, 2),
        (HttpError(503), {"retry_on": ["5xx"]}, 2),
        (HttpError(503), {"retry_on": ["503"]}, 2),
        (HttpError(404), {"retry_on": ["5xx", "429"]}, 1),
        (HttpError(404), {"ignore_exceptions": ["4xx"]}, 1),
        (UnreadableResponse("broken"), {"retry_on": ["5xx"]}, 1),
        (UnreadableResponse("broken"), {}, 2),
    ],
    ids=lambda value: repr(value) if not isinstance(value, Exception) else str(value),
)
def test_an_error_is_tried_again_if_retry_on_names_it_and_ignore_exceptions_does_not(
    client: WorkflowClient, workers: Workers, error: Exception, retry: dict[str, Any], tries: int
) -> None:
    flaky = Flaky(error)
    client.deploy(line(flaky.node, retry=Retry(wait_duration=0, **retry)))
    execution = client.start("line").id
    workers.drain()

    assert len(flaky.attempts) == tries
    assert len(attempts(client, execution)) == tries
    status = ExecutionStatus.COMPLETED if tries == 2 else ExecutionStatus.FAILED
    assert client.get(execution).status is status


def test_a_retry_waits_as_long_as_the_other_side_asks(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    def flaky() -> Any:
        return failure("BUSY", "come back later", status=429, retry_after=90)

    client.deploy(line(flaky, retry=Retry(wait_duration=200, retry_on=("429",))))
    client.start("line")
    workers.drain()

    assert retry_waits(sql) == [("WAITING", 90.0)]


def test_a_failure_that_a_node_returns_is_retried_by_its_type(
    client: WorkflowClient, workers: Workers
) -> None:
    answers = [failure("RATE_LIMITED", "slow down"), failure("GONE", "for good"), "never reached"]

    def flaky() -> Any:
        return answers.pop(0)

    client.deploy(line(flaky, retry=Retry(wait_duration=0, retry_on=("RATE_LIMITED",))))
    execution = client.start("line").id
    workers.drain()

    assert attempts(client, execution) == [
        (NodeStatus.RETRYING, 1, "slow down"),
        (NodeStatus.FAILED, 2, "for good"),
    ]


def test_deterministic_failures_are_not_retried(client: WorkflowClient, workers: Workers) -> None:
    def not_json() -> Any:
        return {1, 2}

    flow = WorkflowBuilder("hopeless")
    flow.trigger("start") >> flow.function("flaky", "{{ start.missing.path }}", retry=Retry(wait_duration=0))
    client.deploy(flow.build())
    client.deploy(line(not_json, retry=Retry(wait_duration=0)))
    executions = [client.start("hopeless").id, client.start("line").id]
    workers.drain()

    for execution in executions:
        assert client.get(execution).status is ExecutionStatus.FAILED
        assert [row.attempt for row in client.journal(execution)[1:]] == [1]


# -- retries of nodes that wait --------------------------------------------------------------------------


@pytest.mark.parametrize("wait_duration", [0, 1000])
def test_an_attempt_inherits_no_time_from_the_attempts_before(
    client: WorkflowClient,
    workers: Workers,
    time_passes: TimePasses,
    wake_due: WakeDue,
    wait_duration: int,
) -> None:
    waited: list[float] = []

    def patient(context: ExecutionContext) -> Any:
        if context.wake is None:
            return waiting(seconds=3600)
        waited.append(context.wake.waited)
        if context.attempt == 1:
            raise TimeoutError("nobody came")
        return context.attempt

    client.deploy(line(patient, retry=Retry(wait_duration=wait_duration)))
    execution = client.start("line").id
    workers.drain()
    while not client.get(execution).is_finished:
        time_passes(3600)
        assert wake_due() == ["patient"]
        workers.drain()

    assert client.get(execution).result == 2
    assert [round(seconds / 3600) for seconds in waited] == [1, 1]
    assert [(row.status, row.attempt) for row in client.journal(execution)[1:]] == [
        (NodeStatus.WAITING, 1),
        (NodeStatus.RETRYING, 1),
        (NodeStatus.WAITING, 2),
        (NodeStatus.COMPLETED, 2),
    ]
