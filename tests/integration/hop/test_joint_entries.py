"""Siblings whose messages come at the same moment to one process are entered together, each as if alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.polling import poll
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient, node
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import CacheUnavailable
from workflow_engine.execution.messages import HopMessage
from workflow_engine.redis.cached_context import CachedContext
from workflow_engine.redis.calls import Entry
from workflow_engine.redis.results import Full, Late, Missing

BRANCHES = 6
PLACES = 4

ran: list[str] = []


@node("test.begins_beside_others")
def branch(name: str) -> str:
    ran.append(name)
    return name


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    """Return a worker of several threads."""
    return new_engine(database_pool_size=PLACES)


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    ran.clear()
    flow = WorkflowBuilder("fan", settings={"concurrency": PLACES})
    start, merge = flow.trigger("start"), flow.merge("joined")
    for number in range(BRANCHES):
        name = f"b{number}"
        start >> flow.python(name, "test.begins_beside_others", arguments={"name": name}) >> merge
    client.deploy(flow.build())
    return client.start("fan").id


BeginTogether = Callable[[], list[HopMessage]]


@pytest.fixture
def begin_together(
    engine: Engine, broker: Broker, execution: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BeginTogether]:
    """Return a function that serves a message for each place, and returns those that are requeued.

    The others come while the first is being entered.
    """
    enter, waiting = engine.cache.enter, engine.executor.admission.waiting
    entered: list[Entry] = []

    def enter_once_all_wait(*entry: Any) -> Any:
        entered.append(Entry(*entry))
        if len(entered) == 1:
            poll(lambda: waiting(execution) == PLACES - 1, "the others wait for it")
        return enter(*entry)

    monkeypatch.setattr(engine.cache, "enter", enter_once_all_wait)
    with ThreadPoolExecutor(PLACES) as threads:

        def run() -> list[HopMessage]:
            messages = [broker.take() for _ in range(PLACES)]
            served = [threads.submit(engine.executor.continue_execution, each) for each in messages]
            errors = [each.exception(60) for each in served]
            return [each for each, error in zip(messages, errors, strict=True) if error is not None]

        yield run


@pytest.fixture
def calls(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list to which each call that enters several nodes adds their ids."""
    made: list[list[str]] = []
    enter = engine.cache.enter_jointly

    def recorded(entries: Sequence[Entry]) -> Any:
        made.append(sorted(entry.node_id for entry in entries))
        return enter(entries)

    monkeypatch.setattr(engine.cache, "enter_jointly", recorded)
    return made


def assert_all_ran_once(client: WorkflowClient, execution: str) -> None:
    found = client.get(execution)
    assert found.status is ExecutionStatus.COMPLETED
    assert found.result == {name: name for name in sorted(ran)}
    assert sorted(ran) == [f"b{number}" for number in range(BRANCHES)]


def test_one_call_enters_those_that_come_while_the_first_is_entered(
    client: WorkflowClient,
    execution: str,
    begin_together: BeginTogether,
    calls: list[list[str]],
    workers: Workers,
) -> None:
    begin_together()

    assert [len(each) for each in calls] == [PLACES - 1]
    workers.drain()
    assert_all_ran_once(client, execution)


def test_they_wait_while_the_first_reads_a_missing_context_from_postgres(
    client: WorkflowClient,
    execution: str,
    engine: Engine,
    begin_together: BeginTogether,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load, read = engine.state.load_snapshot, []

    def recorded(execution_id: str, *given: Any, **named: Any) -> Any:
        read.append(execution_id)
        return load(execution_id, *given, **named)

    monkeypatch.setattr(engine.state, "load_snapshot", recorded)
    begin_together()

    assert read == [execution]
    workers.drain()
    assert_all_ran_once(client, execution)


@pytest.mark.parametrize("is_carried_out", [True, False])
def test_after_an_error_on_entering_them_together_each_is_entered_by_itself(
    client: WorkflowClient,
    execution: str,
    engine: Engine,
    begin_together: BeginTogether,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    is_carried_out: bool,
) -> None:
    enter = engine.cache.enter_jointly

    def failing(entries: Sequence[Entry]) -> Any:
        if is_carried_out:
            enter(entries)
        raise CacheUnavailable("the reply is lost")

    monkeypatch.setattr(engine.cache, "enter_jointly", failing)
    (requeued,) = begin_together()

    assert not engine.locks.is_locked(execution)
    engine.executor.continue_execution(requeued)
    workers.drain()
    assert_all_ran_once(client, execution)


def entries(engine: Engine, execution: str, *node_ids: str, seq: int = 1) -> list[Entry]:
    return [
        Entry(engine.locks.new_claim(execution, "", node_id, PLACES), node_id, seq, ("start", node_id))
        for node_id in node_ids
    ]


def test_each_gets_its_place_or_the_reason_why_it_has_none(
    client: WorkflowClient, execution: str, engine: Engine, broker: Broker
) -> None:
    first = broker.take()
    engine.executor.continue_execution(first)
    rival, *others = entries(engine, execution, "b1", "b1", first.node_id, "b2", "b3", "b4", "b5")
    engine.cache.enter(*rival)

    held, late, *entered, full = engine.cache.enter_jointly(others)

    assert (held, late, full) == (None, Late(), Full())
    assert all(isinstance(each, CachedContext) for each in entered)
    assert [each.outputs for each in entered if isinstance(each, CachedContext)] == [{"start": {}}] * 3
    assert [engine.locks.is_locked_by_me(each.claim) for each in (rival, *others)] == [
        True, False, False, True, True, True, False,
    ]  # fmt: skip
    assert engine.cache.take_turned_away(execution) == ["b5"]


def test_a_repeated_call_finds_their_places_to_be_theirs(execution: str, engine: Engine) -> None:
    both = entries(engine, execution, "b0", "b1")

    for _ in range(2):
        assert engine.cache.enter_jointly(both) == [Missing(), Missing()]

    assert [engine.locks.is_locked_by_me(each.claim) for each in both] == [True, True]
