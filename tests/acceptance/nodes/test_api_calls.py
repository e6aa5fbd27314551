"""On real workers a request survives its process, and ends with its node."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from support.fleet import Fleet
from support.http_server import HttpServer, Received, Reply
from support.polling import poll
from workflow_engine import ExecutionStatus, WorkflowBuilder


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """Start a server that leaves its first request without a response."""
    with HttpServer() as server:

        def answer(received: Received) -> Reply | None:
            if len(server.received) > 1:
                return Reply(200, {"id": "r-1"})
            server.is_over.wait(60)
            return None

        server.answer = answer
        yield server


def deploy(fleet: Fleet, id: str, server: HttpServer, **options: Any) -> None:
    flow = WorkflowBuilder(id)
    ask = flow.api_call("ask", server.url(), method="POST", json={}, allow_private=True, **options)
    flow.trigger("begin") >> ask >> flow.function("last", "{{ ask.body.id | default('no response') }}")
    fleet.client.deploy(flow.build())


def asked(server: HttpServer, times: int = 1) -> list[Received]:
    return poll(lambda: server.received[times - 1 :] and server.received, f"{times} requests arrived")


def process_of(received: Received, server: HttpServer) -> int:
    """Return the id of the process at the other end of a connection.

    A connection to another server that was closed a moment ago may have had the same port. No process has it.
    """
    ends = (received.port, server.port)
    for connection in psutil.net_connections("tcp4"):
        if connection.raddr and (connection.laddr.port, connection.raddr.port) == ends:
            assert connection.pid, f"no process holds the connection from port {received.port}"
            return int(connection.pid)
    raise AssertionError(f"no connection from port {received.port}")


def test_a_request_whose_process_is_killed_is_sent_again_with_the_same_key(
    fleet: Fleet, server: HttpServer
) -> None:
    deploy(fleet, "killed-in-a-call", server)
    execution_id = fleet.start("killed-in-a-call")

    os.kill(process_of(asked(server)[0], server), signal.SIGKILL)

    assert fleet.completed(execution_id).result == "r-1"
    keys = [received.headers["idempotency-key"] for received in server.received]
    assert keys == [f"{execution_id}:ask:1"] * 2
    assert len({received.port for received in server.received}) == 2


def test_a_cancelled_execution_ends_its_request_within_two_seconds(fleet: Fleet, server: HttpServer) -> None:
    deploy(fleet, "cancelled-in-a-call", server)
    execution_id = fleet.start("cancelled-in-a-call")
    process = process_of(asked(server)[0], server)

    cancelled_at = time.monotonic()
    move = fleet.client.control.cancel(execution_id, reason="enough")
    poll(lambda: not _connected(process, server.port), "the connection is closed", timeout=10)

    assert len(move.interrupted) == 1
    assert time.monotonic() - cancelled_at < 2
    assert fleet.client.get(execution_id).status is ExecutionStatus.CANCELLED
    assert psutil.pid_exists(process)
    fleet.completed(fleet.start("cancelled-in-a-call"))


def _connected(process: int, port: int) -> bool:
    connections = psutil.Process(process).net_connections("tcp4")
    return any(connection.raddr and connection.raddr.port == port for connection in connections)


def test_the_timeout_of_a_node_ends_its_request(fleet: Fleet, server: HttpServer) -> None:
    retry = {"waitDuration": 0, "retryOn": ["TIMEOUT"], "maxAttempts": 20}
    deploy(fleet, "timed-out-in-a-call", server, timeout=1, retry=retry)

    execution_id = fleet.start("timed-out-in-a-call")

    assert fleet.completed(execution_id).result == "r-1"
    # On a machine that is busy an attempt may time out before its request arrives.
    *others, last = [row.status.value for row in fleet.journal(execution_id) if row.node_id == "ask"]
    assert set(others) == {"RETRYING"}
    assert last == "COMPLETED"


def test_greenlets_of_one_process_have_many_requests_under_way_and_each_ends(own_fleet: Fleet) -> None:
    """Let no request have its response before ten have arrived; a worker that blocks sends one at a time."""
    together = threading.Event()
    with HttpServer() as server:

        def answer(received: Received) -> Reply:
            if len(server.received) >= 10:
                together.set()
            together.wait(60)
            return Reply(200, {"id": "r-1"})

        server.answer = answer
        deploy(own_fleet, "calls-of-greenlets", server)
        own_fleet.add_worker("greenlets", "-P", "gevent", concurrency=10).ready()
        executions = [own_fleet.start("calls-of-greenlets") for _ in range(20)]

        assert {own_fleet.completed(each, 60).result for each in executions} == {"r-1"}
    assert len(server.received) == 20
    assert not own_fleet.lines("Traceback")
