"""Everything that a node does wrong ends as that node's failure, in words its author can act on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.redis_keys import keys_in
from support.workflows import calling, line
from workflow_engine import (
    ExecutionStatus,
    NodeExecutionResult,
    NodeStatus,
    WorkflowBuilder,
    WorkflowClient,
    failure,
    success,
    waiting,
)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def recurse() -> Any:
    return recurse()


class Opaque:
    pass


def raises(error: BaseException) -> Callable[[], Any]:
    def work() -> Any:
        raise error

    return work


def returns(answer: Any) -> Callable[[], Any]:
    def work() -> Any:
        return answer

    return work


def waits(**arguments: Any) -> Callable[[], Any]:
    def work() -> Any:
        return waiting(**arguments)

    return work


LOOP: dict[str, Any] = {}
LOOP["self"] = LOOP

BAD_NODES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "raises": (raises(ValueError("no such order")), "ValueError", "no such order"),
    "raises without words": (raises(ValueError()), "ValueError", "ValueError"),
    "raises what cannot be printed": (
        raises(Unprintable()),
        "Unprintable",
        "<unprintable: __str__ raised>",
    ),
    "raises what Postgres cannot hold": (raises(ValueError("a\x00b\ud800")), "ValueError", "a\\0b\\ud800"),
    "leaves the process": (raises(SystemExit(3)), "SystemExit", "3"),
    "runs out of stack": (recurse, "RecursionError", "maximum recursion depth exceeded"),
    "says that it failed": (
        returns(failure("OUT_OF_STOCK", "none left", {"sku": "a-1"})),
        "OUT_OF_STOCK",
        "none left",
    ),
    "says so badly": (returns(failure(7, None, {})), "7", "None"),  # type: ignore[arg-type]
    "says so in what Postgres cannot hold": (
        returns(failure("A\x00\ud800", "b\x00")),
        "A\\0\\ud800",
        "b\\0",
    ),
    "gives details that are no object": (
        returns(failure("A", "b", "details")),  # type: ignore[arg-type]
        "INVALID_RESULT",
        "the details of a failure must be an object, not str",
    ),
    "gives a status that is none": (
        returns(failure("A", "b", status=7)),
        "INVALID_RESULT",
        "the status of a failure must be an HTTP status from 100 to 599, not 7",
    ),
    "asks for a wait without an end": (
        returns(failure("A", "b", retry_after=float("inf"))),
        "INVALID_RESULT",
        "retry_after must be a number of seconds from 0 on, not inf",
    ),
    "gives details that are not JSON": (
        returns(failure("A", "b", {"order": Opaque()})),
        "InvalidValue",
        "error details.order: ",
    ),
    "fails without an error": (
        returns(NodeExecutionResult("failure")),
        "INVALID_RESULT",
        "a failure needs an error; return failure(type, message)",
    ),
    "answers what is not JSON": (returns({"order": Opaque()}), "InvalidValue", "output.order: "),
    "answers NaN": (returns([1.0, float("nan")]), "InvalidValue", "output[1]: "),
    "answers an infinite number": (returns({"a": float("inf")}), "InvalidValue", "output.a: "),
    "answers U+0000": (returns({"a": "x\x00"}), "InvalidValue", "output.a: "),
    "answers a key that is no string": (returns({1: "x"}), "InvalidValue", "output"),
    "answers an integer beyond 64 bits": (returns(2**64), "InvalidValue", "output: "),
    "answers a value that contains itself": (returns(LOOP), "InvalidValue", "the value contains itself"),
    "answers too much": (
        returns("x" * 2_000_000),
        "InvalidValue",
        "output: ",
    ),
    "waits for nothing": (
        waits(),
        "ValueError",
        "wait for one of these: until a time, for some seconds, for events, or for children",
    ),
    "waits for a time without a zone": (
        waits(until=datetime(2026, 1, 1)),
        "ValueError",
        "until must be a datetime with its zone, not datetime.datetime(2026, 1, 1",
    ),
    "waits for what is no number": (
        waits(seconds="5"),
        "ValueError",
        "seconds must be a number of seconds, not '5'",
    ),
    "waits for ever and a day": (
        waits(seconds=float("inf")),
        "ValueError",
        "seconds must be a number of seconds, not inf",
    ),
    "waits longer than Postgres can count": (
        waits(seconds=1e300),
        "ValueError",
        "seconds: 1e+300 s are more than a hundred years",
    ),
    "waits for events that nobody can send": (
        waits(events=["paid"]),
        "ValueError",
        "events are found by a correlation_id; give one",
    ),
    "waits for letters": (
        waits(events="paid", correlation_id="c-1"),
        "ValueError",
        "events are a list of names; write ['paid']",
    ),
    "waits for what Postgres cannot hold": (
        waits(events=["paid"], correlation_id="c\x00"),
        "ValueError",
        "names of events and correlation ids are text, not 'c\\x00'",
    ),
    "leaves by an unknown handle": (
        returns(success(1, handle="nowhere")),
        "INVALID_RESULT",
        "the node left by 'nowhere'; its ways out are ''",
    ),
    "sets variables that are no object": (
        returns(success(1, variables=["a"])),  # type: ignore[arg-type]
        "INVALID_RESULT",
        "variables must be an object of names and values, not list",
    ),
    "sets a variable that is not JSON": (
        returns(success(1, variables={"a": Opaque()})),
        "InvalidValue",
        "variables.a: ",
    ),
    "sets a variable with the name of a node": (
        returns(success(1, variables={"start": 1})),
        "InvalidValue",
        "variables.start: a variable may not start with _ nor have the name of a node; rename it",
    ),
    "sets a variable of the engine": (
        returns(success(1, variables={"_trigger": 1})),
        "InvalidValue",
        "variables._trigger: a variable may not start with _ nor have the name of a node; rename it",
    ),
    "sets too large a variable": (
        returns(success(1, variables={"a": "x" * 2_000_000})),
        "InvalidValue",
        "variables: ",
    ),
}


@pytest.mark.parametrize(("work", "error_type", "message"), BAD_NODES.values(), ids=BAD_NODES.keys())
def test_an_execution_fails_when_its_node(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    redis_client: redis.Redis,
    work: Callable[[], Any],
    error_type: str,
    message: str,
) -> None:
    client.deploy(line(work, never))
    execution = client.start("line").id

    assert workers.drain() == 1

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error is not None
    assert message in failed.error
    assert failed.error_details is not None
    assert (failed.error_details["type"], failed.error_details["nodeId"]) == (error_type, work.__name__)
    row = client.journal(execution)[-1]
    assert (row.node_id, row.status, row.handles) == (work.__name__, NodeStatus.FAILED, ())
    assert (row.error, row.output_data) == (failed.error, None)
    assert keys_in(redis_client) == []


def never() -> None:
    raise AssertionError("a node behind a failure was run")


def test_a_function_that_is_called_wrongly_fails_with_its_signature(
    client: WorkflowClient, workers: Workers
) -> None:
    def charge(order_id: int, currency: str) -> None:
        pass

    flow = WorkflowBuilder("charging")
    flow.trigger("start") >> calling(flow, charge, arguments="{{ _trigger }}")
    client.deploy(flow.build())
    execution = client.start("charging", {"orderId": 1}).id
    workers.drain()

    error = client.get(execution).error
    assert error is not None
    assert "charge(order_id: 'int', currency: 'str')" in error
    assert "orderId" in error or "order_id" in error


def test_an_expression_that_finds_nothing_fails_its_node_with_the_path(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("missing")
    flow.trigger("start") >> flow.function("total", "{{ start.order.total * 2 }}")
    client.deploy(flow.build())
    execution = client.start("missing", {"order": {}}).id
    workers.drain()

    failed = client.get(execution)
    assert failed.error_details is not None
    assert failed.error_details["type"] == "ExpressionError"
    assert failed.error is not None
    assert "start.order.total" in failed.error


def test_the_traceback_of_an_exception_is_kept_for_its_author(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(line(raises(KeyError("sku"))))
    execution = client.start("line").id
    workers.drain()

    details = client.journal(execution)[-1].error_details
    assert details is not None
    header, place, code, *rest = details["traceback"].splitlines()
    assert header == "Traceback (most recent call last):"
    assert place.endswith(", in work"), "the frames with which the engine called it are left out"
    assert code.strip() == "raise error"
    assert rest[-1] == "KeyError: 'sku'"


def test_texts_about_a_failure_are_cut_in_the_middle_and_say_so(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(line(raises(ValueError("begins " + "ä" * 4_000_000 + " ends"))))
    execution = client.start("line").id
    workers.drain()

    failed = client.journal(execution)[-1]
    assert failed.error is not None
    assert failed.error_details is not None
    for text in (failed.error, failed.error_details["traceback"]):
        assert len(text.encode()) <= 16 * 1024
        assert "bytes omitted" in text
    assert failed.error.startswith("begins ä")
    assert failed.error.endswith("ä ends")
    assert "raise error" in failed.error_details["traceback"]


# -- what comes after a failure ------------------------------------------------------------------------


def fails() -> None:
    raise ValueError("declined")


def test_a_failure_takes_the_error_edge_and_passes_on_what_happened(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("routed")
    risky = calling(flow, fails)
    handled = flow.function("handled", "{{ fails.error }}")
    flow.trigger("start") >> risky >> flow.function("charged", 1)
    risky.on_error >> handled
    client.deploy(flow.build())
    execution = client.start("routed").id
    workers.drain()

    finished = client.get(execution)
    assert finished.status is ExecutionStatus.COMPLETED
    assert finished.result == {
        "handled": {"type": "ValueError", "message": "declined", "attempt": 1, "details": {}}
    }
    rows = {row.node_id: row for row in client.journal(execution)}
    assert rows.keys() == {"start", "fails", "handled"}
    assert (rows["fails"].status, rows["fails"].handles) == (NodeStatus.FAILED, ("error",))


@pytest.mark.parametrize("way", ["error", "continue"])
def test_conditions_look_at_all_parts_of_a_failure(
    client: WorkflowClient, workers: Workers, sql: Callable[..., Any], way: str
) -> None:
    def refused() -> Any:
        return failure("DECLINED", "no funds", {"bank": {"code": 51}}, status=402)

    flow = WorkflowBuilder("told-apart")
    risky = calling(flow, refused, **({"on_error": "continue"} if way == "continue" else {}))
    asked = flow.condition(
        "asked",
        expression="{{ refused.error.status == 402 and refused.error.details.bank.code == 51 "
        "and refused.error.type == 'DECLINED' and refused.error.attempt == 1 }}",
    )
    flow.trigger("start") >> risky
    (risky if way == "continue" else risky.on_error) >> asked
    asked["true"] >> flow.function("known", "{{ refused.error }}")
    asked["false"] >> flow.function("unknown", 0)
    client.deploy(flow.build())
    execution = client.start("told-apart").id
    workers.drain()

    told = {"type": "DECLINED", "message": "no funds", "attempt": 1, "status": 402}
    result = client.get(execution).result
    assert isinstance(result, dict)
    assert result["known"] == {**told, "details": {"bank": {"code": 51}}}
    assert "unknown" not in result
    assert sql("SELECT error_details FROM node_executions WHERE node_id = 'refused'") == [
        ({"type": "DECLINED", "status": 402, "details": {"bank": {"code": 51}}},)
    ]


def test_a_node_may_go_on_after_its_failure(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("tolerant")
    handled = flow.function("handled", "{{ fails.error.message }}")
    flow.trigger("start") >> calling(flow, fails, on_error="continue") >> handled
    client.deploy(flow.build())
    execution = client.start("tolerant").id
    workers.drain()

    finished = client.get(execution)
    assert (finished.status, finished.result) == (ExecutionStatus.COMPLETED, "declined")
    assert client.journal(execution)[1].status is NodeStatus.FAILED
    assert finished.nodes_executed == 2


def test_a_failure_that_nothing_handles_ends_the_execution_and_cancels_what_is_due(
    client: WorkflowClient, broker: Broker, workers: Workers
) -> None:
    flow = WorkflowBuilder("branches")
    flow.trigger("start") >> [calling(flow, fails), calling(flow, never)]
    client.deploy(flow.build())
    execution = client.start("branches").id
    workers.drain()

    failed = client.get(execution)
    assert (failed.status, failed.error) == (ExecutionStatus.FAILED, "declined")
    assert [row.node_id for row in client.journal(execution)] == ["start", "fails"]
    assert failed.result is None
    assert broker.messages == []


# -- secrets -------------------------------------------------------------------------------------------


def test_only_the_node_sees_a_secret(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sql: Callable[..., Any],
) -> None:
    secret = "s3cr3t/älter"
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", secret)
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    kept: list[bytes] = []

    def uses(token: str) -> NodeExecutionResult:
        seen.append(token)
        return success({"echo": f"Bearer {token}", token: 1}, variables={"header": token})

    def leaks(token: str) -> None:
        kept.extend(redis_client.dump(key) for key in redis_client.scan_iter())
        raise ValueError(f"401 for {token}")

    flow = WorkflowBuilder("secrets")
    token = {"token": "{{ _secrets.TOKEN }}"}
    last = calling(flow, leaks, arguments=token)
    flow.trigger("start") >> calling(flow, uses, arguments=token) >> last
    client.deploy(flow.build())
    execution = client.start("secrets").id
    workers.drain()

    assert seen == [secret]
    uses_row, leaks_row = client.journal(execution)[1:]
    assert uses_row.output_data == {"echo": "Bearer ***", "***": 1}
    assert uses_row.variables == {"header": "***"}
    assert uses_row.input_data["arguments"] == leaks_row.input_data["arguments"] == {"token": "***"}
    assert client.get(execution).error == "401 for ***"
    stored = str(sql("SELECT e::text, n::text FROM executions e, node_executions n"))
    assert kept
    for place in (stored, caplog.text, *(copy.decode("utf-8", "replace") for copy in kept)):
        assert "s3cr3t" not in place


# -- size ----------------------------------------------------------------------------------------------


def says(message: str, **details: Any) -> Callable[[], Any]:
    def work() -> Any:
        return failure("HUGE", message, details)

    return work


HUGE = "x" * 8_000_000


@pytest.mark.parametrize(
    "work",
    [raises(ValueError(HUGE)), says(HUGE, body=HUGE), raises(type("E" * 9_000_000, (Exception,), {})())],
)
@pytest.mark.parametrize(
    "options", [{"on_error": "continue"}, {"retry": {"maxAttempts": 2, "waitDuration": 0}}]
)
def test_of_a_huge_failure_only_a_part_is_kept_and_passed_on(
    client: WorkflowClient,
    workers: Workers,
    sql: Callable[..., Any],
    work: Callable[[], Any],
    options: dict[str, Any],
) -> None:
    client.deploy(line(work, after, **options))
    execution = client.start("line").id
    workers.drain()

    failed = client.journal(execution)[1]
    assert len(str(failed.error)) <= 16 * 1024
    assert "bytes omitted" in str(failed.error) or str(failed.error).startswith("E")
    assert max(size for (size,) in sql("SELECT length(n::text) FROM node_executions n")) < 70_000
    assert max(size for (size,) in sql("SELECT length(e::text) FROM executions e")) < 70_000


def after() -> None:
    pass


def test_a_path_to_a_refused_value_is_cut_like_every_other_message(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(line(returns({"k" * 1_000_000: float("nan")})))
    execution = client.start("line").id
    workers.drain()

    error = str(client.get(execution).error)
    assert "bytes omitted" in error
    assert error.endswith("nan is not JSON; use null, or leave the key out")
