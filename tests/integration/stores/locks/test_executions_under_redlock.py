"""Executions under a lock that several servers hold go on without a minority of them, and lose nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from support.broker import Broker, Workers
from support.locks import EXPIRY, LockServer, does, urls_of
from support.polling import poll
from support.wire import Wire, read_redis_commands
from support.workflows import line
from workflow_engine import ExecutionStatus, Settings, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import Requeue
from workflow_engine.execution.messages import QueuedMessage
from workflow_engine.health.doctor import Severity, examine
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.redlock import Quorum
from workflow_engine.redis.results import Late

NODES = ["first", "second", "third"]


@pytest.fixture
def ran() -> list[str]:
    """Return the list of nodes that have run, in their order."""
    return []


@pytest.fixture
def during() -> dict[str, Callable[[], object]]:
    """Return a dict of actions, each while the node of this name runs."""
    return {}


@pytest.fixture
def new_worker(new_engine: Callable[..., Engine], servers: list[LockServer]) -> Callable[[], Engine]:
    return lambda: new_engine(lock_urls=urls_of(servers), lock_expiry=EXPIRY)


@pytest.fixture
def engine(new_worker: Callable[[], Engine]) -> Engine:
    return new_worker()


@pytest.fixture
def second_engine(new_worker: Callable[[], Engine]) -> Engine:
    return new_worker()


@pytest.fixture
def execution(client: WorkflowClient, ran: list[str], during: dict[str, Callable[[], object]]) -> str:
    """Return the id of an execution of three nodes in a row."""

    def run(name: str) -> str:
        ran.append(name)
        during.get(name, lambda: None)()
        return name

    def first() -> str:
        return run("first")

    def second() -> str:
        return run("second")

    def third() -> str:
        return run("third")

    client.deploy(line(first, second, third))
    return client.start("line").id


def test_executions_run_under_a_lock_that_is_held_on_all_servers_while_a_node_runs(
    client: WorkflowClient,
    workers: Workers,
    servers: list[LockServer],
    settings: Settings,
    during: dict[str, Callable[[], object]],
    ran: list[str],
    execution: str,
) -> None:
    key, held = Keys.of(settings).lock(execution), []
    during["second"] = lambda: held.extend(server.client.get(key) for server in servers)

    workers.drain()

    assert client.get(execution).result == "third"
    assert ran == NODES
    assert len(held) == 3
    assert None not in held
    assert len(set(held)) == 1
    assert [server.client.exists(key) for server in servers] == [0, 0, 0]


def test_no_message_is_sent_before_the_lock_on_other_servers_is_released(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    redis_client: redis.Redis,
    ran: list[str],
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker, "queued", lambda _: QueuedMessage("queue", b"sent on leaving a node"))

    workers.drain()

    assert client.get(execution).result == "third"
    assert ran == NODES
    assert redis_client.exists("queue") == 0


def test_executions_go_on_while_a_minority_dies_and_comes_back_empty(
    client: WorkflowClient,
    workers: Workers,
    servers: list[LockServer],
    during: dict[str, Callable[[], object]],
    ran: list[str],
    execution: str,
) -> None:
    def replace() -> None:
        servers[0].restart_empty()
        servers[1].freeze()

    during["first"] = servers[0].kill
    during["second"] = replace

    workers.drain()

    assert client.get(execution).result == "third"
    assert ran == NODES


@pytest.mark.parametrize("loss", [LockServer.kill, LockServer.freeze], ids=["dead", "silent"])
def test_without_a_majority_messages_are_requeued_and_nothing_is_lost(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    servers: list[LockServer],
    ran: list[str],
    execution: str,
    loss: Callable[[LockServer], None],
) -> None:
    workers.hop()
    message = broker.take()
    for server in servers[:2]:
        loss(server)

    for _ in range(2):
        with pytest.raises(Requeue, match="1 of 3 lock servers respond"):
            engine.executor.continue_execution(message)
    assert ran == ["first"]
    assert client.get(execution).status is ExecutionStatus.RUNNING

    for server in servers[:2]:
        server.recover()
    poll(lambda: does(lambda: engine.executor.continue_execution(message)), "the message is served")
    workers.drain()
    assert client.get(execution).result == "third"
    assert ran == NODES


def test_a_majority_that_is_lost_while_a_node_runs_costs_no_result(
    client: WorkflowClient,
    new_engine: Callable[..., Engine],
    broker: Broker,
    servers: list[LockServer],
    during: dict[str, Callable[[], object]],
    ran: list[str],
    execution: str,
) -> None:
    worker = new_engine(lock_urls=urls_of(servers), lock_expiry=1)
    during["first"] = lambda: [server.kill() for server in servers[:2]]

    worker.executor.continue_execution(broker.take())

    assert client.journal(execution)[-1].node_id == "first", "it was committed"
    for server in servers[:2]:
        server.restart_empty()
    message = broker.take()
    poll(lambda: does(lambda: worker.executor.continue_execution(message)), "the message is served")
    worker.executor.continue_execution(broker.take())
    assert client.get(execution).result == "third"
    assert ran == NODES


def test_two_holders_of_a_lock_that_its_servers_forgot_commit_a_node_once(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    servers: list[LockServer],
    during: dict[str, Callable[[], object]],
    ran: list[str],
    execution: str,
) -> None:
    message = broker.take()

    def be_overtaken() -> None:
        during.clear()
        for server in servers[:2]:
            server.client.flushall()
        second_engine.executor.continue_execution(message)

    during["first"] = be_overtaken

    engine.executor.continue_execution(message)
    workers.drain()

    assert ran[:2] == ["first", "first"], "no promise rests on the lock"
    assert [row.node_id for row in client.journal(execution)] == ["start", *NODES]
    assert client.get(execution).result == "third"


def test_a_late_message_never_holds_the_lock(
    engine: Engine,
    workers: Workers,
    servers: list[LockServer],
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = workers.hop()
    workers.hop()
    asked: list[str] = []
    monkeypatch.setattr(Quorum, "acquire", lambda *_: asked.append("acquire"))

    entered = engine.cache.enter(engine.locks.new_claim(execution), message.node_id, message.seq, ())

    assert isinstance(entered, Late)
    assert asked == []


def test_a_message_that_becomes_late_while_it_takes_the_lock_republishes_the_one_it_kept_out(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    ran: list[str],
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = broker.take()
    acquire = Quorum.acquire

    def acquire_late(quorum: Quorum, key: str, value: bytes) -> bytes:
        monkeypatch.setattr(Quorum, "acquire", acquire)
        second_engine.executor.continue_execution(message)
        holder = acquire(quorum, key, value)
        second_engine.executor.continue_execution(broker.take())
        assert ran == ["first"], "the message for the second node met the lock held, and was dropped"
        return holder

    monkeypatch.setattr(Quorum, "acquire", acquire_late)
    engine.executor.continue_execution(message)
    workers.drain()

    assert ran == NODES
    assert client.get(execution).result == "third"


def test_a_context_is_not_cached_by_a_worker_that_has_lost_the_lock(
    engine: Engine, servers: list[LockServer], settings: Settings, redis_client: redis.Redis, execution: str
) -> None:
    claim = engine.locks.acquire_lock(execution)
    assert claim is not None
    snapshot = engine.state.load_snapshot(execution)
    assert snapshot is not None
    for server in servers[:2]:
        server.client.flushall()

    assert not engine.cache.cache_context(claim, snapshot, b"{}")
    assert not redis_client.exists(Keys.of(settings).context(execution))
    engine.locks.renew()
    assert engine.cache.cache_context(claim, snapshot, b"{}")
    assert engine.cache.discard(claim).was_ours, "the lock was ours until now"
    assert not engine.cache.discard(claim).was_ours


def test_the_doctor_looks_at_every_lock_server(
    new_worker: Callable[[], Engine], servers: list[LockServer]
) -> None:
    servers[1].kill()

    findings = examine(new_worker().settings, timeout=5)

    found = [topic for title, topic in findings.items() if title.startswith("Redis (locks) at 127.0.0.1:")]
    assert [topic[0].severity for topic in found] == [Severity.OK, Severity.PROBLEM, Severity.OK]
    assert "WORKFLOW_ENGINE_LOCK_URLS" in found[1][0].advice


def test_a_hop_asks_each_lock_server_twice(
    new_engine: Callable[..., Engine],
    workers: Workers,
    broker: Broker,
    servers: list[LockServer],
    settings: Settings,
    execution: str,
) -> None:
    wires = [Wire(server.url, read_redis_commands) for server in servers]
    contexts = Wire(settings.redis_url, read_redis_commands)
    worker = new_engine(
        redis_url=contexts.url, lock_urls=tuple(wire.url for wire in wires), lock_expiry=EXPIRY
    )
    worker.executor.continue_execution(broker.take())
    message = broker.take()

    recordings = [wire.recorded() for wire in (contexts, *wires)]
    traffic = [recording.__enter__() for recording in recordings]
    worker.executor.continue_execution(message)
    for recording in recordings:
        recording.__exit__(None, None, None)
    for wire in (contexts, *wires):
        wire.close()

    assert traffic[0].names == [*["EVALSHA"] * 3, "DEL"], "is it late, enter, leave, is there a waiter"
    for of_lock_server in traffic[1:]:
        assert of_lock_server.names == ["EVAL", "EVAL"], "take, release"
        assert of_lock_server.round_trips == 2
