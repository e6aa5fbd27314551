"""Postgres and Redis fail in every way they can: workers stay, say so once, lose nothing and go on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import Settings, WorkflowBuilder
from workflow_engine.embedded import EmbeddedServers
from workflow_engine.embedded.servers import EmbeddedServer
from workflow_engine.postgres import migrations

OUTAGE = 4.0
AVAILABLE_AGAIN = "is available again after"


@pytest.fixture(scope="module")
def servers() -> Iterator[EmbeddedServers]:
    """Start servers that a test may harm; the same test restores them."""
    with EmbeddedServers() as both:
        migrations.upgrade(both.database_url)
        yield both


@pytest.fixture(scope="module")
def fleet(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Start one worker of one process, which has to survive all of these tests."""
    settings = Settings(
        database_url=servers.database_url,
        database_timeout=2,
        database_deadline=1.5,
        redis_url=servers.redis_url,
        redis_timeout=1,
        lock_expiry=3,
        imports=("support.nodes.recorded",),
    )
    fleet = Fleet(settings, tmp_path_factory.mktemp("failing"))
    fleet.add_worker("one", concurrency=1).ready()
    yield fleet
    fleet.kill()


@pytest.fixture
def said(fleet: Fleet) -> Iterator[Callable[..., list[str]]]:
    """Return the worker's log lines since the test began that contain all of the parts."""
    (worker,) = fleet.workers
    began = len(worker.logs())

    def lines(*parts: str) -> list[str]:
        return [line for line in worker.logs()[began:].splitlines() if all(part in line for part in parts)]

    yield lines
    assert worker.container.status == "running"
    assert lines("Traceback") == []


def frozen(server: EmbeddedServer) -> Callable[[], None]:
    """Freeze all processes of a server. Return a function that thaws them."""
    first = psutil.Process(server.pid)
    processes = [first, *first.children()]
    for process in processes:
        process.suspend()
    return lambda: [process.resume() for process in processes] and None


def test_a_postgres_that_freezes_costs_no_result_and_is_told_once(
    fleet: Fleet, servers: EmbeddedServers, said: Callable[..., list[str]]
) -> None:
    execution_id = start_two_gated_nodes(fleet)
    fleet.begun(execution_id, "first")

    thaw = frozen(servers.postgres)
    fleet.open_gate(execution_id, "first")
    time.sleep(OUTAGE)
    thaw()
    fleet.open_gate(execution_id, "second")

    assert fleet.completed(execution_id).result == 42
    assert len(fleet.runs(execution_id, "first")) == 1
    for process in ("ForkPoolWorker-1", "MainProcess"):
        poll(lambda of=process: said(of, "Postgres", AVAILABLE_AGAIN), "the end of it is logged")
        assert len(said(process, "Postgres", "no response within 1.5 s")) == 1
        assert len(said(process, "Postgres", AVAILABLE_AGAIN)) == 1


def test_a_postgres_that_is_killed_is_waited_for_with_the_result_in_hand(
    fleet: Fleet, servers: EmbeddedServers, said: Callable[..., list[str]]
) -> None:
    execution_id = start_two_gated_nodes(fleet)
    fleet.begun(execution_id, "first")

    servers.postgres.kill()
    fleet.open_gate(execution_id, "first")
    time.sleep(OUTAGE / 2)
    servers.postgres.restart()
    fleet.engine.database.dispose()
    fleet.open_gate(execution_id, "second")

    assert fleet.completed(execution_id).result == 42
    assert len(fleet.runs(execution_id, "first")) == 1
    assert len(said("ForkPoolWorker-1", "Postgres", "waiting to commit node first")) == 1


@pytest.mark.parametrize("ailment", ["full", "read-only", "frozen"])
def test_a_redis_that_ails_is_waited_for(
    ailment: str, fleet: Fleet, servers: EmbeddedServers, said: Callable[..., list[str]]
) -> None:
    execution_id = start_two_gated_nodes(fleet)
    fleet.begun(execution_id, "first")

    heal = harm(fleet, servers, ailment)
    fleet.open_gate(execution_id, "first")
    time.sleep(OUTAGE)
    heal()
    fleet.open_gate(execution_id, "second")

    assert fleet.completed(execution_id, timeout=30).result == 42
    assert [row.node_id for row in fleet.journal(execution_id)] == ["begin", "first", "second"]
    outages = ("Redis is unavailable", "the broker accepts no messages")
    told = [said("ForkPoolWorker-1", outage, "waiting to") for outage in outages]
    assert sorted(map(len, told)) in ([0, 1], [1, 1])
    assert len(said("Connection to broker lost")) <= 4


def test_supervisors_learn_who_is_alive_and_what_is_ready(fleet: Fleet, servers: EmbeddedServers) -> None:
    poll(lambda: health(fleet, "--live")[0] == 0, "the worker has a heartbeat")
    status, told = health(fleet)
    assert (status, told.count("ok  ")) == (0, 3)

    thaw = frozen(servers.postgres)
    assert health(fleet, "--live")[0] == 0
    status, told = health(fleet, "--ready", "--timeout", "1")
    thaw()
    assert status == 1
    assert "NO  Postgres" in told
    assert "ok  Redis" in told

    heal = harm(fleet, servers, "full")
    status, told = health(fleet, "--ready")
    heal()
    assert status == 1
    assert "OOM" in told or "OutOfMemory" in told

    (worker,) = fleet.workers
    worker.kill()
    worker.container.wait(5)
    assert health(fleet, "--live")[0] == 1
    assert health(fleet, "--ready")[0] == 0


def start_two_gated_nodes(fleet: Fleet) -> str:
    flow = WorkflowBuilder("two-gated-nodes")
    first = flow.python("first", "test.gated", arguments={"value": "{{ begin.order }}"})
    flow.trigger("begin") >> first >> flow.python("second", "test.gated", arguments={"value": "{{ first }}"})
    fleet.client.deploy(flow.build())
    return fleet.start("two-gated-nodes", {"order": 42})


def harm(fleet: Fleet, servers: EmbeddedServers, ailment: str) -> Callable[[], object]:
    """Put Redis into a failing state. Return a function that restores it."""
    redis = fleet.redis
    if ailment == "frozen":
        return frozen(servers.redis)
    if ailment == "full":
        redis.config_set("maxmemory", 1)
        return lambda: redis.config_set("maxmemory", 0)
    redis.replicaof("127.0.0.1", 1)  # as after a failover, with a primary that hangs
    return lambda: redis.replicaof("NO", "ONE")


def health(fleet: Fleet, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-c", "from workflow_engine.cli import main; main()", "health", *options]
    environment = fleet._environment()
    probe = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=15, check=False)
    return probe.returncode, probe.stdout + probe.stderr
