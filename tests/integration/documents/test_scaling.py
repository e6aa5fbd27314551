"""What docs/scaling.md advises works: its SQL runs, and the engine goes on with tables divided by time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from support.broker import Broker, Workers
from support.repository import ROOT
from support.workflows import line
from workflow_engine import ExecutionStatus, Settings, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.executions import lists
from workflow_engine.postgres.executions.stalled import Front

DOCUMENT = ROOT / "docs" / "scaling.md"
SQL = re.compile(r"^( *)```sql\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
FIRST_ID = re.compile(r"SELECT first_id\('(.*?)'\)")

Run = Callable[[str], list[tuple[Any, ...]]]


def pauses(context: Any) -> Any:
    return waiting(seconds=3600) if context.wake is None else None


def asks(context: Any) -> Any:
    return waiting(events=["paid"], correlation_id="order-7") if context.wake is None else None


def first() -> int:
    return 1


def second() -> int:
    return 2


def blocks() -> list[str]:
    """Return the SQL of the document, in its order."""
    return [text for _, text in SQL.findall(DOCUMENT.read_text())]


def first_id(at: datetime) -> str:
    digits = f"{int(at.timestamp() * 1000):012x}" + "0" * 20
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class DividingAdvice:
    """The document's chapter about dividing the tables, with the beginning of next month set to soon."""

    def __init__(self) -> None:
        self.boundary = datetime.now(UTC) + timedelta(seconds=3)
        self.later = self.boundary + timedelta(days=30)
        chapter = next(n for n, text in enumerate(blocks()) if "first_id" in text)
        self.prepare, self.divide, self.ask, self.drop = map(self._dated, blocks()[chapter:])

    def _dated(self, text: str) -> str:
        text = text.replace(first_id(datetime(2026, 12, 1, tzinfo=UTC)), first_id(self.boundary))
        text = text.replace("2027-01-01", self.later.isoformat())
        return text.replace("2026-12-01", self.boundary.isoformat())

    def wait_for_the_boundary(self) -> None:
        time.sleep(max(0.0, (self.boundary - datetime.now(UTC)).total_seconds()) + 0.01)


@pytest.fixture
def run(database_url: str) -> Iterator[Run]:
    """Return a function that runs SQL in a database of this test's own, as psql would."""
    with closing(psycopg2.connect(database_url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()

        def execute(statements: str) -> list[tuple[Any, ...]]:
            cursor.execute(statements)
            return cursor.fetchall() if cursor.description else []

        yield execute


@pytest.fixture
def own_engine(database_url: str, redis_url: str, broker: Broker) -> Iterator[Engine]:
    engine = Engine.assemble(Settings(database_url=database_url, redis_url=redis_url), dispatcher=broker)
    yield engine
    engine.database.dispose()


def test_every_sql_of_the_document_runs(run: Run) -> None:
    advice = DividingAdvice()
    before = [text for text in blocks() if "first_id" not in text]
    assert len(before) >= 5

    for text in [*before, advice.prepare, advice.divide, advice.ask, advice.drop]:
        run(text)


def test_the_first_id_that_the_document_names_is_that_of_its_month() -> None:
    (at,) = set(FIRST_ID.findall(DOCUMENT.read_text()))

    assert first_id(datetime.fromisoformat(at).replace(tzinfo=UTC)) in DOCUMENT.read_text()


def test_executions_go_on_while_their_tables_are_divided_and_months_are_dropped(
    run: Run, own_engine: Engine, broker: Broker
) -> None:
    advice = DividingAdvice()
    client, workers = WorkflowClient(engine=own_engine), Workers(broker, own_engine)
    for workflow, steps in {"line": (first, second), "timed": (pauses,), "asked": (asks, first)}.items():
        client.deploy(line(*steps, id=workflow))
    asked, timed = client.start("asked").id, client.start("timed").id
    workers.drain()
    halfway = client.start("line", idempotency_key="order-7").id
    workers.hop()

    run(advice.prepare)
    run(advice.divide)

    workers.drain()
    client.send_event("order-7", "paid", {"amount": 42})
    workers.drain()
    assert {client.get(id).status for id in (halfway, asked)} == {ExecutionStatus.COMPLETED}
    assert [row[1] for row in run(advice.ask)] == [1], "the one that waits for its time"
    assert run("SELECT context->>'executionId' FROM execution_contexts ORDER BY execution_id") == [
        (asked,),
        (timed,),
        (halfway,),
    ]
    run("UPDATE execution_wait_states SET resume_at = now() WHERE wait_type = 'DELAY'")
    own_engine.publisher.wake(own_engine.waits.claim_due())
    workers.drain()
    assert run(advice.ask) == []

    advice.wait_for_the_boundary()
    new = client.start("line", idempotency_key="order-8").id
    workers.hop()
    run(advice.drop)
    workers.drain()

    assert run("SELECT id::text FROM executions_2026_12") == [(new,)]
    assert run("SELECT count(*) FROM node_executions_2026_12") == [(3,)]
    assert [execution.id for execution in client.list()] == [new]
    assert client.get(new).status is ExecutionStatus.COMPLETED
    assert client.start("line", idempotency_key="order-7").id > new, "its key went with it"
    assert client.start("line", idempotency_key="order-8").id == new


def test_hops_and_timekeepers_read_no_other_part_of_divided_tables_than_they_need(
    run: Run, own_engine: Engine, broker: Broker
) -> None:
    advice = DividingAdvice()
    client, workers = WorkflowClient(engine=own_engine), Workers(broker, own_engine)
    client.deploy(line(first, second, id="line"))
    run(advice.prepare)
    run(advice.divide)
    advice.wait_for_the_boundary()
    client.start("line")
    workers.hop()
    read = (
        "SELECT relname, seq_scan + coalesce(idx_scan, 0) + n_tup_ins FROM pg_stat_user_tables "
        "WHERE relname ~ 'executions'"
    )

    def scans() -> dict[str, int]:
        own_engine.database.rows("SELECT pg_stat_force_next_flush()")  # on the connection that hops use
        return dict(own_engine.database.rows(read))  # type: ignore[arg-type]

    before = scans()
    workers.hop()
    after = scans()

    assert {name for name in after if after[name] > before[name]} == {
        "executions_2026_12",
        "node_executions_2026_12",
    }
    assert own_engine.due_times.next().soonest > 0
    assert list(own_engine.stalled.pages(30, 10, lambda queue, priority: Front(None))) == [()]


@pytest.mark.parametrize("sampled", [8_192, 1_000_000], ids="a sample of {} bytes".format)
def test_lists_find_what_is_in_every_part_of_divided_tables(
    run: Run, own_engine: Engine, monkeypatch: pytest.MonkeyPatch, sampled: int
) -> None:
    for name, value in {"FIRST": 5, "FIRST_OF_CHOSEN": 5, "SAMPLED": sampled, "MANY": 20}.items():
        monkeypatch.setattr(lists, name, value)
    advice = DividingAdvice()
    client = WorkflowClient(engine=own_engine)
    client.deploy(line(first, id="line"))
    started: dict[str, set[str]] = {}

    def start(number: int) -> None:
        for n in range(number):
            tags = {"each", *(["third"] if n % 3 == 0 else []), *(["seventh"] if n % 7 == 0 else [])}
            started[client.start("line", tags=sorted(tags)).id] = tags

    start(60)
    run(advice.prepare)
    run(advice.divide)
    advice.wait_for_the_boundary()
    start(30)

    for tags in ({"each"}, {"third"}, {"seventh"}, {"third", "seventh"}, {"none"}):
        expected = [id for id in sorted(started, reverse=True) if tags <= started[id]]
        for narrower in ({}, {"workflow_id": "line"}, {"children": True}, {"statuses": ["PENDING"]}):
            found = client.list(tags=sorted(tags), limit=80, **narrower)
            assert [each.id for each in found] == expected[:80], (tags, narrower)


def test_what_people_ask_runs_where_nothing_can_be_written(
    own_engine: Engine, database_url: str, redis_url: str, broker: Broker
) -> None:
    client, workers = WorkflowClient(engine=own_engine), Workers(broker, own_engine)
    client.deploy(line(first, second, id="line"))
    execution = client.start("line").id
    workers.drain()
    read_only = f"{database_url}?options=-c%20default_transaction_read_only%3Don"
    replica = Engine.assemble(Settings(database_url=read_only, redis_url=redis_url), dispatcher=broker)
    reading = WorkflowClient(engine=replica)

    assert reading.get(execution).status is ExecutionStatus.COMPLETED
    assert [found.id for found in reading.list("line")] == [execution]
    assert reading.count() == {ExecutionStatus.COMPLETED: 1}
    assert len(reading.journal(execution)) == len(reading.history(execution)) == 3
    assert reading.context(execution).execution_id == execution
    with pytest.raises(Exception, match="read-only"):
        reading.start("line")
    replica.database.dispose()
