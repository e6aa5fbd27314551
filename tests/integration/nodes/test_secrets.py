"""A secret that a node reads is stored nowhere, and no data of later nodes is damaged to that end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.workflows import calling, line
from workflow_engine import (
    ExecutionStatus,
    NodeExecutionResult,
    Settings,
    WorkflowBuilder,
    WorkflowClient,
    failure,
    waiting,
)
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.redis.keys import Keys

TOKEN = "s3cr3t-token/älter"
GIVEN = {"token": "{{ _secrets.TOKEN }}"}


@pytest.fixture
def run(
    client: WorkflowClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[..., Any]], Any]:
    """Return a function that runs one node with a secret, and returns its journal row."""
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", TOKEN)

    def run(function: Callable[..., Any]) -> Any:
        client.deploy(line(function, arguments=GIVEN))
        execution = client.start("line").id
        workers.drain()
        return client.journal(execution)[-1]

    return run


@pytest.fixture
def stored(sql: Callable[..., Any]) -> Callable[[], str]:
    """Return everything that Postgres holds of executions, as text."""
    tables = ("executions", "node_executions", "execution_wait_states", "execution_events")
    return lambda: "\n".join(str(sql(f"SELECT t::text FROM {table} t")) for table in tables)


# -- data is not damaged -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "output"),
    [
        ("DB_USER", "shop", {"user": "shop", "url": "https://shop.example.com/orders/7", "shop": 1}),
        ("FLAG", "1", {"flag": "1", "order": "order-2101"}),
    ],
)
@pytest.mark.parametrize("by", ["function", "python"])
def test_what_later_nodes_read_is_as_it_was_written(
    client: WorkflowClient,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    output: dict[str, Any],
    by: str,
) -> None:
    monkeypatch.setenv(f"WORKFLOW_SECRET_{name}", value)
    read = "{{ _secrets.NAME }}".replace("NAME", name)

    def produces(secret: str) -> dict[str, Any]:
        return {key: secret if content == value else content for key, content in output.items()}

    flow = WorkflowBuilder("orders")
    if by == "python":
        first = calling(flow, produces, arguments={"secret": read})
    else:
        first = flow.function(
            "produces", {key: read if text == value else text for key, text in output.items()}
        )
    later = flow.function("later", {key: f"{{{{ produces.{key} }}}}" for key in output})
    flow.trigger("start") >> first >> later
    client.deploy(flow.build())
    execution = client.start("orders").id
    workers.drain()

    assert client.get(execution).result == output


def test_a_secret_that_could_be_anything_is_refused_inside_a_text_before_the_node_runs(
    client: WorkflowClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_PASSWORD", "hunter2")
    ran: list[str] = []

    def connects(url: str) -> None:
        ran.append(url)

    client.deploy(line(connects, arguments={"url": "postgresql://app:{{ _secrets.PASSWORD }}@db/shop"}))
    execution = client.start("line").id
    workers.drain()

    assert ran == []
    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error is not None
    assert "_secrets.PASSWORD: the secret is too short or too plain" in failed.error
    assert "hunter2" not in failed.error


def test_an_empty_secret_is_refused_by_its_name(
    client: WorkflowClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", "")

    def uses(token: str) -> None:
        raise AssertionError

    client.deploy(line(uses, arguments=GIVEN))
    execution = client.start("line").id
    workers.drain()

    assert "_secrets.TOKEN: the secret is empty" in str(client.get(execution).error)


# -- texts about the run -------------------------------------------------------------------------------------


def test_no_part_of_a_failure_shows_a_secret(run: Callable[..., Any], stored: Callable[[], str]) -> None:
    def fails(token: str) -> NodeExecutionResult:
        return failure(f"type {token}", f"message {token!r}", {"headers": {token: [token.encode().hex()]}})

    row = run(fails)

    assert row.error == "message '***'"
    assert row.error_details == {"type": "type ***", "details": {"headers": {"***": ["***"]}}}
    assert "s3cr3t" not in stored()


def test_no_part_of_an_output_a_variable_or_a_failure_of_the_author_shows_a_secret(
    client: WorkflowClient, workers: Workers, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], str]
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", TOKEN)

    def echoes(token: str) -> Any:
        return {"token": token, "rest": 1}

    flow = WorkflowBuilder("careless")
    echo = calling(flow, echoes, arguments=GIVEN, output={"a": "{{ _response.token }}", **GIVEN})
    kept = flow.set("kept", {"b": "{{ _secrets.TOKEN }}"})
    end = flow.fail("end", "A", "for {{ _secrets.TOKEN }}", details={"c": "{{ _secrets.TOKEN }}"})
    flow.trigger("start") >> echo >> kept >> end
    client.deploy(flow.build())
    execution = client.start("careless").id
    workers.drain()

    failed, rows = client.get(execution), client.journal(execution)
    assert (failed.error, (failed.error_details or {})["details"]) == ("for ***", {"c": "***"})
    assert rows[1].output_data == {"a": "***", "token": "***"}
    assert (rows[2].output_data, rows[2].variables) == ({"b": "***"}, {"b": "***"})
    assert "s3cr3t" not in stored()


def test_an_exception_and_its_traceback_show_no_secret(
    run: Callable[..., Any], stored: Callable[[], str]
) -> None:
    def fails(token: str) -> None:
        try:
            raise KeyError(token)
        except KeyError as error:
            error.add_note(f"with {token}")
            raise RuntimeError(f"{token[:12]}… was not accepted") from error

    row = run(fails)

    assert row.error == "***… was not accepted"
    assert "KeyError: '***'\nwith ***" in row.error_details["traceback"]
    assert "s3cr3t" not in stored()


@pytest.mark.parametrize(
    "answer",
    [
        lambda token: NodeExecutionResult("success", output=1, handle=token),
        lambda token: NodeExecutionResult("success", variables={"_" + token: 1}),
        lambda token: {token: float("nan")},
        lambda token: {token: object()},
    ],
)
def test_the_refusal_of_a_result_shows_no_secret(
    run: Callable[..., Any], stored: Callable[[], str], answer: Callable[[str], Any]
) -> None:
    def answers(token: str) -> Any:
        return answer(token)

    row = run(answers)

    assert "***" in row.error
    assert "s3cr3t" not in stored()


@pytest.mark.parametrize(
    ("wait", "path"),
    [
        (lambda token: waiting(events=["paid"], correlation_id=f"order-{token}"), "correlation_id"),
        (lambda token: waiting(events=["paid", token], correlation_id="A"), "events[1]"),
        (lambda token: waiting(events=["a", "b"], required=["a", token], correlation_id="A"), "required[1]"),
    ],
)
def test_a_secret_by_which_events_would_be_found_is_refused_with_its_path(
    run: Callable[..., Any], stored: Callable[[], str], wait: Callable[[str], Any], path: str
) -> None:
    def waits(token: str) -> Any:
        return wait(token)

    row = run(waits)

    assert row.error == (
        f"{path}: the secret TOKEN is in it, and it is stored unmasked; use a value that is not secret"
    )
    assert "s3cr3t" not in stored()


def test_a_secret_in_the_correlation_id_of_a_wait_for_events_is_refused(
    client: WorkflowClient, workers: Workers, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], str]
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", TOKEN)
    flow = WorkflowBuilder("waits")
    wait = flow.wait_events("wait", ["paid"], correlation_id="order-{{ _secrets.TOKEN }}")
    flow.trigger("start") >> wait
    client.deploy(flow.build())
    execution = client.start("waits").id
    workers.drain()

    assert str(client.get(execution).error).startswith("correlation_id: the secret TOKEN is in it")
    assert "s3cr3t" not in stored()


def test_progress_shows_no_secret_and_is_short(
    broker: Broker,
    workers: Workers,
    settings: Settings,
    redis_client: redis.Redis,
    client: WorkflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", TOKEN)
    stored: list[bytes] = []

    def reports(context: ExecutionContext, token: str) -> None:
        context.report_progress(0.5, f"with {token} {'x' * 1_000_000}")
        for engine in workers._engines:
            engine.running_nodes.look()
        stored.extend(redis_client.hmget(Keys.of(settings).context(context.execution_id), "progress"))

    client.deploy(line(reports, arguments=GIVEN))
    client.start("line")
    workers.drain()

    assert b"with *** xxx" in stored[0]
    assert b"s3cr3t" not in stored[0]
    assert len(stored[0]) < 2_000


def test_the_input_that_is_kept_shows_no_secret(run: Callable[..., Any]) -> None:
    def works(token: str) -> None:
        pass

    assert run(works).input_data["arguments"] == {"token": "***"}
