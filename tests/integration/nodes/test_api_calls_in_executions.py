"""In an execution, a request is tried again by status and `Retry-After`, with one key, and hides secrets."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.http_server import HttpServer, Received, Reply
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.steps import attempts

Sql = Callable[..., list[tuple[Any, ...]]]
SECRET = "s3cr3t-token/älter"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", SECRET)
    with HttpServer() as server:
        yield server


def deploy(client: WorkflowClient, url: str, retry: dict[str, Any] | None = None, **config: Any) -> None:
    flow = WorkflowBuilder("calling")
    options: Any = {"retry": retry} if retry else {}
    ask = flow.node("ask", "action/api-call", {"url": url, "allowPrivate": True, **config}, **options)
    flow.trigger("start") >> ask
    client.deploy(flow.build())


def test_a_retry_waits_as_long_as_the_server_asks(
    client: WorkflowClient, workers: Workers, server: HttpServer, sql: Sql
) -> None:
    server.answer = lambda received: Reply(429, headers={"Retry-After": "90"})
    deploy(client, server.url(), {"waitDuration": 1000, "retryOn": [429, "5xx"]}, method="POST", json={})
    client.start("calling")
    workers.drain()

    [(seconds,)] = sql("SELECT extract(epoch FROM resume_at - created_at)::float FROM execution_wait_states")
    assert 89 < seconds < 95


def test_each_attempt_sends_the_same_key(
    client: WorkflowClient, workers: Workers, server: HttpServer
) -> None:
    statuses = [503, 503, 200]
    server.answer = lambda received: Reply(statuses.pop(0))
    deploy(client, server.url(), {"waitDuration": 0, "retryOn": ["5xx"]}, method="POST", json={})
    execution = client.start("calling").id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    keys = [received.headers["idempotency-key"] for received in server.received]
    assert keys == [f"{execution}:ask:1"] * 3


def test_a_status_that_retries_do_not_name_fails_the_execution(
    client: WorkflowClient, workers: Workers, server: HttpServer
) -> None:
    server.answer = lambda received: Reply(422, {"problem": "no such size"})
    deploy(client, server.url("/orders"), {"retryOn": [429, "5xx", "TIMEOUT"]})
    execution = client.start("calling").id
    workers.drain()

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error == f"GET {server.url('/orders')} returned 422"
    row = client.journal(execution)[-1]
    assert (row.status, row.error_details["type"], row.error_details["status"]) == (
        NodeStatus.FAILED,
        "HTTP_STATUS",
        422,
    )
    assert row.error_details["details"]["body"] == {"problem": "no such size"}
    assert len(server.received) == 1


@pytest.mark.parametrize(
    "reply",
    [
        lambda received: Reply(200, {"echo": received.headers["authorization"], "path": received.path}),
        lambda received: Reply(500, f"denied: {received.headers['authorization']} {received.path}".encode()),
        lambda received: Reply(302, headers={"Location": f"http://10.0.0.1{received.path}"}),
        lambda received: received.write(b"no HTTP " + received.headers["authorization"].encode()),
    ],
    ids=["success", "failure", "redirect", "no response"],
)
def test_a_secret_in_a_request_is_neither_stored_nor_logged(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    server: HttpServer,
    caplog: pytest.LogCaptureFixture,
    sql: Sql,
    reply: Callable[[Received], Reply | None],
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answer = reply
    deploy(
        client,
        server.url("/{{ _secrets.TOKEN }}?key={{ _secrets.TOKEN }}"),
        auth={"basic": {"username": "shop", "password": "{{ _secrets.TOKEN }}"}},
        headers={"X-Key": "{{ _secrets.TOKEN | base64 }}"},
        query={"token": "{{ _secrets.TOKEN }}"},
        method="POST",
        json={"token": "{{ _secrets.TOKEN }}"},
    )
    client.start("calling")
    workers.drain()

    assert len(server.received) == 1
    stored = str(sql("SELECT e::text, n::text FROM executions e, node_executions n"))
    for place in (stored, caplog.text):
        assert "s3cr3t" not in place
        assert "czNjcjN0" not in place  # in Base64
    assert "***" in stored


def test_a_worker_without_the_client_leaves_the_node_to_others_and_names_the_extra(
    client: WorkflowClient,
    workers: Workers,
    server: HttpServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deploy(client, server.url())
    execution = client.start("calling").id
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "httpx2", None)
        attempts._log_missing_code.cache_clear()
        workers.drain()

    row = client.journal(execution)[-1]
    assert (row.node_id, row.status) == ("ask", NodeStatus.WAITING)
    assert "To have it here, run `pip install 'celery-workflow-engine[http]'`." in caplog.text
    assert server.received == []


def test_an_output_of_the_authors_own_keeps_a_part_of_the_response(
    client: WorkflowClient, workers: Workers, server: HttpServer
) -> None:
    server.answer = lambda received: Reply(200, {"id": 7, "more": "x" * 100})
    flow = WorkflowBuilder("calling")
    flow.trigger("start") >> flow.api_call(
        "ask", server.url(), allow_private=True, output={"id": "{{ _response.body.id }}"}
    )
    client.deploy(flow.build())
    execution = client.start("calling").id
    workers.drain()

    assert client.get(execution).result == {"id": 7}
