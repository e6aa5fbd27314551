"""A hop costs the round trips to Postgres, Redis and the broker that are counted here, and no more.

The hop runs in this process, in front of real servers, and publishes with Celery. It is measured in the
steady state: connections are open, scripts loaded, the definition compiled.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.wire import Traffic, Wire, read_postgres_messages, read_redis_commands
from workflow_engine import Settings, Workflow, WorkflowBuilder, WorkflowClient, node
from workflow_engine.engine import inline
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import HopMessage


@dataclass
class Cost:
    """The traffic of one hop on each wire."""

    postgres: Traffic
    redis: Traffic
    broker: Traffic


class WiredWorker:
    """A worker that reaches each server over a wire of its own, and takes its messages from the broker.

    With `one_redis` the Redis of the contexts is the broker as well, and its traffic is counted as `redis`.
    """

    def __init__(self, settings: Settings, queues: redis.Redis, *, one_redis: bool) -> None:
        self._queues = queues
        self.postgres = Wire(settings.database_url.replace("+psycopg2", ""), read_postgres_messages)
        self.redis = Wire(settings.redis_url, read_redis_commands)
        self.broker = Wire(settings.redis_url, read_redis_commands)
        wired = {
            "database_url": self.postgres.url.replace("postgresql:", "postgresql+psycopg2:"),
            "redis_url": self.redis.url,
            "broker_url": "" if one_redis else self.broker.url,
        }
        self.engine = Engine.assemble(settings.model_copy(update=wired))

    def measured_hop(self) -> Cost:
        message = message_in(self.take())
        with (
            self.postgres.recorded() as postgres,
            self.redis.recorded() as cache,
            self.broker.recorded() as broker,
        ):
            self.engine.executor.continue_execution(message)
        return Cost(postgres, cache, broker)

    def take(self) -> bytes:
        """Return the next message as it is in the broker's queue."""
        queues = [key for key in self._queues.scan_iter() if self._queues.type(key) == b"list"]
        _, envelope = self._queues.brpop(queues, timeout=1)  # type: ignore[misc]
        assert isinstance(envelope, bytes)
        return envelope

    def close(self) -> None:
        self.engine.database.dispose()
        for wire in (self.postgres, self.redis, self.broker):
            wire.close()


def message_in(envelope: bytes) -> HopMessage:
    _, kwargs, _ = json.loads(base64.b64decode(json.loads(envelope)["body"]))
    return HopMessage(**kwargs)


@pytest.fixture(params=[True, False], ids=["one Redis", "a broker of its own"])
def one_redis(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def worker(settings: Settings, redis_client: redis.Redis, one_redis: bool) -> Iterator[WiredWorker]:
    worker = WiredWorker(settings, redis_client, one_redis=one_redis)
    yield worker
    worker.close()


def sequence(nodes: int, *, reads: str = "", **options: Any) -> Workflow:
    """Return a sequence of nodes that each put out a text as long as the trigger's data asks for.

    `reads` is an expression that the last node but one reads as well; `options` are those of all nodes.
    """
    node("test.text")(lambda length, reads=None: "x" * length)
    flow = WorkflowBuilder("sequence")
    last = flow.trigger("start")
    for number in range(1, nodes + 1):
        arguments = {"length": "{{ _trigger.length }}"}
        if number == nodes - 1 and reads:
            arguments["reads"] = reads
        last = last >> flow.python(f"node{number}", "test.text", arguments=arguments, **options)
    return flow.build()


@pytest.fixture
def hop_before_the_last(
    client: WorkflowClient, broker: Broker, workers: Workers, worker: WiredWorker
) -> Callable[[Workflow, int], Cost]:
    """Measure the last node but one of a sequence; other workers run most of those before it."""

    def measure(workflow: Workflow, length: int) -> Cost:
        client.deploy(workflow)
        client.start("sequence", {"length": length})
        for _ in range(len(workflow.nodes) - 6):
            workers.hop()
        worker.engine.executor.continue_execution(broker.take())
        for _ in range(2):
            worker.measured_hop()
        return worker.measured_hop()

    return measure


@pytest.mark.parametrize(
    ("nodes", "length"),
    [
        pytest.param(10, 10, id="10 nodes"),
        pytest.param(1000, 10, id="1000 nodes"),
        pytest.param(10, 100_000, id="10 large outputs"),
        pytest.param(100, 100_000, id="100 large outputs"),
    ],
)
def test_a_hop_is_two_calls_of_redis_and_one_round_trip_to_postgres(
    hop_before_the_last: Callable[[Workflow, int], Cost], one_redis: bool, nodes: int, length: int
) -> None:
    cost = hop_before_the_last(sequence(nodes), length)

    assert cost.redis.names == ["EVALSHA", "EVALSHA"]
    assert cost.redis.round_trips == 2
    assert cost.redis.bytes_received < 1000, "outputs that the node does not read came along"
    assert cost.redis.bytes_sent < 3000 + length
    assert [request[:1] for request in cost.postgres.requests] == [b"Q"], "simple queries, BEGIN included"
    assert cost.postgres.round_trips == 1
    assert cost.broker.names == ([] if one_redis else ["LPUSH"]), "the second call sends the message too"
    assert cost.broker.round_trips == len(cost.broker.names)


@pytest.mark.parametrize("meets_a_sibling", [False, True], ids=["alone", "behind a sibling's commit"])
def test_where_nodes_may_run_at_the_same_time_a_hop_costs_the_same_calls(
    worker: WiredWorker,
    client: WorkflowClient,
    broker: Broker,
    engine: Engine,
    one_redis: bool,
    meets_a_sibling: bool,
) -> None:
    siblings: list[HopMessage] = []

    def branch() -> None:
        if siblings:
            engine.executor.continue_execution(siblings.pop())

    node("test.branch")(branch)
    flow = WorkflowBuilder("wide", settings={"concurrency": 4})
    start, merge = flow.trigger("start"), flow.merge("joined")
    for number in range(12):
        start >> flow.python(f"branch{number}", "test.branch") >> merge
    client.deploy(flow.build())
    client.start("wide")
    for _ in range(2):
        worker.engine.executor.continue_execution(broker.take())
    worker.measured_hop()
    siblings += [broker.take()] if meets_a_sibling else []

    cost = worker.measured_hop()

    assert not siblings
    assert cost.redis.names == ["EVALSHA", "EVALSHA"]
    assert cost.redis.round_trips == 2
    assert cost.postgres.round_trips == 1
    assert cost.broker.names == ([] if one_redis else ["LPUSH"])


@pytest.mark.parametrize(
    "options",
    [
        {"output": {"length": "{{ _response | length }}"}},
        {"retry": [{"on": ["TimeoutError"]}, {"on": "all"}]},
        {"on_error": "continue"},
    ],
    ids=["an output", "rules of a retry", "onError"],
)
def test_options_of_a_node_cost_no_call(
    hop_before_the_last: Callable[[Workflow, int], Cost], options: dict[str, Any]
) -> None:
    cost = hop_before_the_last(sequence(10, **options), 10)

    assert (cost.redis.round_trips, cost.postgres.round_trips) == (2, 1)


def test_limits_of_other_workflows_cost_no_call(
    client: WorkflowClient,
    broker: Broker,
    hop_before_the_last: Callable[[Workflow, int], Cost],
    one_redis: bool,
) -> None:
    flow = WorkflowBuilder("limited", limits=[{"key": "bank", "concurrency": 1}])
    flow.trigger("start") >> flow.function("work", "{{ 1 }}", limits=[{"key": "till", "concurrency": 1}])
    client.deploy(flow.build())
    for _ in range(2):  # the second waits in line
        client.start("limited")
    broker.queue.clear()

    cost = hop_before_the_last(sequence(10), 10)

    assert cost.redis.names == ["EVALSHA", "EVALSHA"]
    assert cost.postgres.round_trips == 1
    assert cost.broker.names == ([] if one_redis else ["LPUSH"])


def test_a_node_that_must_not_be_repeated_costs_one_more_statement(
    hop_before_the_last: Callable[[Workflow, int], Cost],
) -> None:
    cost = hop_before_the_last(sequence(10, on_crash="fail"), 10)

    assert cost.redis.names == ["EVALSHA", "EVALSHA"]
    assert cost.postgres.round_trips == 2
    assert b"mark" in cost.postgres.requests[0]


@pytest.mark.parametrize(
    ("every", "commits"), [(2, 5), (1, 1)], ids=["every other node is pure", "all nodes are pure"]
)
def test_on_an_inline_walk_pure_nodes_cost_no_call(
    worker: WiredWorker,
    client: WorkflowClient,
    one_redis: bool,
    every: int,
    commits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inline, "LONGEST_UNCOMMITTED", 60.0)  # a busy machine commits earlier
    monkeypatch.setattr(inline, "TIME_SLICE", 60.0)
    node("test.costs")(lambda: 1)
    flow = WorkflowBuilder("walked", settings={"hops": "inline"})
    last = flow.trigger("start")
    for number in range(1, 11):
        is_pure = number % every == every - 1
        name = f"node{number}"
        last = last >> (flow.function(name, number) if is_pure else flow.python(name, "test.costs"))
    client.deploy(flow.build())
    starting = WorkflowClient(engine=worker.engine)
    for _ in range(3):  # the second connects for commits that are awaited while a pure node runs
        starting.start("walked")
    worker.measured_hop()
    worker.measured_hop()

    cost = worker.measured_hop()

    read, *committed = cost.postgres.requests
    assert b"load_snapshot" in read, "the first hop of an execution"
    assert [b"commit_node" in request for request in committed] == [True] * commits
    assert cost.redis.round_trips == 3, "enter, store what was read, end"
    assert cost.broker.names == []


def test_on_an_inline_walk_an_output_that_several_nodes_read_is_fetched_once(
    worker: WiredWorker, client: WorkflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    node("test.reads")(lambda value: value)
    flow = WorkflowBuilder("reading", settings={"hops": "inline"})
    last = flow.trigger("start") >> flow.function("first", {"length": 3})
    for number, read in enumerate(["_trigger", "_trigger", "first", "first", "_trigger"]):
        last = last >> flow.python(
            f"reads{number}", "test.reads", arguments={"value": f"{{{{ {read}.length }}}}"}
        )
    client.deploy(flow.build())
    starting = WorkflowClient(engine=worker.engine)
    for _ in range(2):  # the first loads the scripts
        started = starting.start("reading", {"length": 2})
        monkeypatch.setattr(inline, "TIME_SLICE", 0.0)
        worker.measured_hop()
        monkeypatch.setattr(inline, "TIME_SLICE", 60.0)
        cost = worker.measured_hop()

    assert client.get(started.id).result == 2
    assert cost.redis.names == ["EVALSHA"] * 3, "enter with `_trigger`, fetch `first` once, end"


def test_a_hop_fetches_the_outputs_that_its_node_reads_and_no_others(
    hop_before_the_last: Callable[[Workflow, int], Cost],
) -> None:
    cost = hop_before_the_last(sequence(10, reads="{{ [node2, node5] | length }}"), 50_000)

    assert cost.redis.names == ["EVALSHA", "EVALSHA"]
    assert 100_000 < cost.redis.bytes_received < 101_000


def test_a_start_is_one_transaction_and_one_message(worker: WiredWorker, client: WorkflowClient) -> None:
    client.deploy(sequence(10))
    starting = WorkflowClient(engine=worker.engine)
    starting.start("sequence", {"length": 1})

    with (
        worker.postgres.recorded() as postgres,
        worker.redis.recorded() as cache,
        worker.broker.recorded() as broker,
    ):
        starting.start("sequence", {"length": 1}, idempotency_key="order-1")

    (write,) = postgres.requests
    assert b"start_execution" in write, (
        "all that is checked and written, since this process has started it before"
    )
    assert postgres.round_trips == 1
    assert [*cache.names, *broker.names] == ["LPUSH"]


def second_message(
    worker: WiredWorker, client: WorkflowClient, workflow: str, node: str, nodes: int
) -> bytes:
    """Return the message in the queue after the first hop of a workflow with these names."""
    flow = WorkflowBuilder(workflow)
    steps = [flow.function(f"{node}{number:03}", 1) for number in range(nodes)]
    flow.trigger("start") >> steps
    client.deploy(flow.build())
    WorkflowClient(engine=worker.engine).start(workflow, {"text": "x" * 100_000})
    worker.measured_hop()
    return worker.take()


@pytest.mark.parametrize("nodes", [10, 1000], ids="{} nodes".format)
def test_a_message_is_under_a_kilobyte_whatever_the_graph(
    worker: WiredWorker, client: WorkflowClient, nodes: int
) -> None:
    envelope = second_message(worker, client, "order-fulfilment-international", "notifyCustomer", nodes)

    assert len(envelope) < 1024, "as it stands in the queue, with all that kombu adds"


def test_body_and_headers_are_under_a_kilobyte_with_the_longest_names(
    worker: WiredWorker, client: WorkflowClient
) -> None:
    envelope = json.loads(second_message(worker, client, "w" * 100, "n" * 97, 2))

    assert len(base64.b64decode(envelope["body"])) + len(json.dumps(envelope["headers"])) < 1024
