"""Executions whose contexts are on a Redis Cluster go on whatever happens to one of its nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest

from support.broker import Broker, Workers
from support.locks import does
from support.polling import poll
from support.redis_cluster import EmbeddedCluster
from support.workflows import calling, line
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.broker.dispatcher import CeleryDispatcher, producer_app
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import Dispatch, HopMessage
from workflow_engine.redis.keys import Keys

FAILED_OVER = 40.0
"""Seconds that are enough for a replica to take the place of its primary."""


def first() -> str:
    return "first"


def second() -> str:
    return "second"


def third() -> str:
    return "third"


@pytest.fixture
def new_keys(cluster: EmbeddedCluster) -> Callable[[], dict[str, set[int]]]:
    """Return a function that returns, for each execution, the ports of the nodes that have its keys."""

    def new_keys() -> dict[str, set[int]]:
        nodes: dict[str, set[int]] = defaultdict(set)
        for key, node in cluster.keys().items():
            _, brace, rest = key.partition("{")
            if brace and key.startswith(("execution:", "lock:")):
                nodes[rest.partition("}")[0]].add(node.port)
        return nodes

    return new_keys


def test_all_keys_of_an_execution_are_on_one_node_and_the_executions_on_all_nodes(
    client: WorkflowClient, workers: Workers, new_keys: Callable[[], dict[str, set[int]]]
) -> None:
    flow = WorkflowBuilder("both", settings={"concurrency": 2})
    begin, joined = flow.trigger("begin"), flow.merge("joined")
    for function in (first, second):
        begin >> calling(flow, function) >> joined
    client.deploy(flow.build())
    executions = [client.start("both").id for _ in range(24)]
    for _ in range(2 * len(executions)):
        workers.hop()

    nodes = new_keys()
    workers.drain()

    assert nodes.keys() == set(executions)
    assert {len(ports) for ports in nodes.values()} == {1}
    assert len(set.union(*nodes.values())) == 3
    assert [client.get(each).result for each in executions] == [{"first": "first", "second": "second"}] * 24
    assert new_keys() == {}, "a finished execution leaves nothing behind"


def test_the_end_of_an_execution_is_announced_through_any_node(
    client: WorkflowClient, engine: Engine, workers: Workers
) -> None:
    client.deploy(line(first))
    execution = client.start("line").id

    with engine.cache.finished_signal(execution) as wait:
        workers.drain()
        wait(20)  # it is over at once, or the time limit of the test is

    assert client.get(execution).result == "first"


def test_an_execution_goes_on_while_its_keys_move_to_another_node(
    client: WorkflowClient, workers: Workers, cluster: EmbeddedCluster, settings: Settings
) -> None:
    client.deploy(line(first, second, third))
    execution = client.start("line").id
    key = Keys.of(settings).context(execution)
    workers.hop()
    workers.hop()
    before = cluster.primary_of(key)

    cluster.move_slot(key)
    workers.drain()

    assert cluster.primary_of(key) is not before
    assert client.get(execution).result == "third"
    assert [row.node_id for row in client.journal(execution)][1:] == ["first", "second", "third"]


def test_a_node_that_loses_its_data_costs_its_executions_nothing_and_is_noticed(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    workers: Workers,
    cluster: EmbeddedCluster,
    settings: Settings,
) -> None:
    client.deploy(line(first, second, third))
    execution = client.start("line").id
    workers.hop()
    poll(lambda: engine.data_age.seconds() > 0.5, "each node has kept its data for a while")

    cluster.flush(cluster.primary_of(Keys.of(settings).context(execution)))

    assert second_engine.data_age.seconds() < 0.5
    workers.drain()
    assert client.get(execution).result == "third"


def test_locks_on_the_other_nodes_are_renewed_while_one_is_away(
    engine: Engine, cluster: EmbeddedCluster, settings: Settings
) -> None:
    keys = Keys.of(settings)
    claims = [engine.locks.acquire_lock(f"execution-{number}") for number in range(24)]
    locks = {keys.lock(claim.execution_id) for claim in claims if claim is not None}
    assert len(locks) == 24
    away, *others = cluster.primaries()
    left = {key: node for key, node in cluster.keys().items() if key in locks and node is not away}
    for key, node in left.items():
        cluster.ask(node, "PEXPIRE", key, 10_000)
    cluster.kill(away)

    assert not does(engine.locks.renew), "that a lock was not renewed is no secret"

    assert {node.port for node in left.values()} == {node.port for node in others}
    assert all(int(cluster.ask(node, "PTTL", key)) > 10_000 for key, node in left.items())
    engine.locks.stop_all_renewing()


def test_messages_are_sent_apart_from_the_context_since_the_broker_is_another_server(
    settings: Settings,
) -> None:
    dispatcher = CeleryDispatcher(producer_app(settings), settings.redis_url)
    message = HopMessage("01890000-0000-7000-8000-000000000001", "line", 1, "first", 1)

    assert dispatcher.queued(Dispatch(message, "workflow", 3)) is None


# -- with replicas -------------------------------------------------------------------------------------------


@pytest.fixture
def replicated() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(replicas=1) as cluster:
        yield cluster


def test_an_execution_goes_on_where_a_replica_took_the_place_of_its_node(
    replicated: EmbeddedCluster, new_engine: Callable[..., Engine], broker: Broker
) -> None:
    engine, other = (new_engine(redis_url=replicated.url) for _ in range(2))
    client, workers = WorkflowClient(engine=engine), Workers(broker, engine, other)
    client.deploy(line(first, second, third))
    execution = client.start("line").id
    workers.hop()
    workers.hop()
    context = Keys.of(engine.settings).context(execution)
    message = broker.take()

    replicated.kill(replicated.primary_of(context))
    poll(lambda: does(lambda: other.executor.continue_execution(message)), "it is served", FAILED_OVER)
    poll(lambda: does(workers.drain), "the rest is served", FAILED_OVER)

    assert client.get(execution).result == "third"
    assert [row.node_id for row in client.journal(execution)][1:] == ["first", "second", "third"]
    assert len(replicated.primaries()) == 3
