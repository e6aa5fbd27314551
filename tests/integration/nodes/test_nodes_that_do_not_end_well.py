"""Anything that a node raises, except an order to its worker, is its failure, within its attempts."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.workflows import calling, line
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.errors import DatabaseUnavailable
from workflow_engine.runner.interruption import NodeInterrupted

ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_yet() -> None:
    ran.clear()


class Abort(BaseException):
    """A library's own way to abort everything."""


class Evil(dict[str, Any]):
    def items(self) -> Any:
        raise Abort("the answer does not let itself be read")


async def _cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def _fails_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_lets_out_abort())


async def _lets_out_abort() -> None:
    raise Abort("in a task group")


def raises(error: BaseException) -> Callable[[], Any]:
    def work() -> None:
        raise error

    return work


def aborts_while_ending() -> None:
    try:
        raise ValueError("first")
    finally:
        raise Abort("second")


ENDINGS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "cancels itself": (lambda: asyncio.run(_cancels_itself()), "CancelledError", "CancelledError"),
    "lets out a GeneratorExit": (raises(GeneratorExit()), "GeneratorExit", "GeneratorExit"),
    "lets out a library's own": (raises(Abort("enough")), "Abort", "enough"),
    "lets it out of a task group": (
        lambda: asyncio.run(_fails_in_a_group()),
        "BaseExceptionGroup",
        "unhandled errors in a TaskGroup (1 sub-exception)",
    ),
    "leaves the process": (raises(SystemExit("bye")), "SystemExit", "bye"),
    "leaves the process like a signal handler": (raises(SystemExit(-256)), "SystemExit", "-256"),
    "lets one out in its clean-up": (aborts_while_ending, "Abort", "second"),
    "answers what cannot be read": (lambda: Evil(a=1), "Abort", "the answer does not let itself be read"),
    "speaks to a database of its own that is away": (
        raises(DatabaseUnavailable("theirs is away")),
        "DatabaseUnavailable",
        "theirs is away",
    ),
}


@pytest.fixture(params=ENDINGS.values(), ids=ENDINGS)
def ending(request: pytest.FixtureRequest) -> tuple[Callable[[], Any], str, str]:
    return request.param  # type: ignore[no-any-return]


def badly(how: Callable[[], Any]) -> Callable[[], Any]:
    """Return a node that records that it runs, and ends in this way."""

    def ends_badly() -> Any:
        ran.append("badly")
        return how()

    return ends_badly


def test_it_is_one_failure_in_the_journal_and_the_node_does_not_run_again(
    client: WorkflowClient, workers: Workers, ending: tuple[Callable[[], Any], str, str]
) -> None:
    how, error_type, message = ending
    client.deploy(line(badly(how)))
    execution = client.start("line").id

    workers.drain()

    [_, row] = client.journal(execution)
    assert (row.status, row.error) == (NodeStatus.FAILED, message)
    assert row.error_details is not None
    assert row.error_details["type"] == error_type
    assert client.get(execution).status is ExecutionStatus.FAILED
    assert ran == ["badly"]


def test_its_attempts_apply(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(line(badly(raises(Abort("enough"))), retry={"maxAttempts": 3, "waitDuration": 0}))
    execution = client.start("line").id

    workers.drain()

    statuses = [row.status for row in client.journal(execution)[1:]]
    assert statuses == [NodeStatus.RETRYING, NodeStatus.RETRYING, NodeStatus.FAILED]


@pytest.mark.parametrize("way", ["error edge", "onError"])
def test_its_error_is_handled_like_any_other(client: WorkflowClient, workers: Workers, way: str) -> None:
    def after(error: Any) -> Any:
        return error["error"]["type"]

    flow = WorkflowBuilder("handled")
    options = {"on_error": "continue"} if way == "onError" else {}
    wrong = calling(flow, badly(raises(Abort("enough"))), **options)
    then = calling(flow, after, arguments={"error": "{{ ends_badly }}"})
    flow.trigger("start") >> wrong
    (wrong if way == "onError" else wrong["error"]) >> then
    client.deploy(flow.build())

    execution = client.start("handled").id
    workers.drain()

    assert client.journal(execution)[-1].output_data == "Abort"


@pytest.fixture
def python_s_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def in_clean_up(order: BaseException) -> Callable[[], Any]:
    def work() -> None:
        try:
            raise order
        finally:
            raise ValueError("the clean-up fails as well")

    return work


@pytest.mark.usefixtures("python_s_handler")
@pytest.mark.parametrize("wrapped", [raises, in_clean_up], ids=["plain", "behind an error"])
@pytest.mark.parametrize("order", [SystemExit(-256 + signal.SIGTERM), KeyboardInterrupt()], ids=repr)
def test_an_order_to_the_worker_is_no_failure_of_the_node(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    order: BaseException,
    wrapped: Callable[[BaseException], Callable[[], Any]],
) -> None:
    client.deploy(line(badly(wrapped(order))))
    execution = client.start("line").id

    with pytest.raises(type(order)):
        workers.hop()

    assert [row.node_id for row in client.journal(execution)] == ["start"]


def test_an_interruption_behind_an_error_is_still_an_interruption(
    client: WorkflowClient, workers: Workers
) -> None:
    def stubborn() -> None:
        ran.append("stubborn")
        if len(ran) == 1:
            in_clean_up(NodeInterrupted())()

    client.deploy(line(stubborn))
    execution = client.start("line").id

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert len(client.journal(execution)) == 2


@pytest.mark.parametrize("handler", [signal.SIG_IGN, print], ids=["ignored", "handled by the worker"])
def test_where_ctrl_c_is_not_python_s_a_keyboard_interrupt_is_the_node_s_own(
    client: WorkflowClient, workers: Workers, handler: Any
) -> None:
    client.deploy(line(badly(raises(KeyboardInterrupt()))))
    execution = client.start("line").id
    before = signal.signal(signal.SIGINT, handler)
    try:
        workers.drain()
    finally:
        signal.signal(signal.SIGINT, before)

    assert client.get(execution).error == "KeyboardInterrupt"
