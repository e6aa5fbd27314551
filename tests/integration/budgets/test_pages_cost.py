"""A page that is open costs one small statement at each look, and none of its statements reads too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.broker import Workers
from support.flower_site import Site, flower_site
from support.polling import poll
from support.statements import Sent, recorded_statements
from support.workflows import line
from workflow_engine import WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.lookups.statistics import Statistics
from workflow_engine.postgres.lookups.steps import LARGEST_VALUE, ExecutionSteps


def done() -> int:
    return 1


def much() -> str:
    return "x" * (LARGEST_VALUE * 8)


@pytest.fixture
def site(engine: Engine) -> Iterator[Site]:
    with flower_site(engine) as running:
        yield running


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """Return a list to which every statement is added from now on."""
    return recorded_statements(monkeypatch)


@pytest.mark.parametrize(
    "path", ["/executions", "/executions?workflow=line&status=FAILED", "/executions/{id}"]
)
def test_a_look_that_finds_nothing_new_is_one_statement(
    client: WorkflowClient, workers: Workers, site: Site, statements: list[Sent], path: str
) -> None:
    client.deploy(line(done))
    started = client.start("line").id
    workers.drain()
    path = path.format(id=started)
    tag = site.get(path).headers["Etag"]
    statements.clear()

    assert site.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert len(statements) == 1


def test_browsers_that_ask_for_the_same_statistics_at_once_cost_one_statement_for_the_figures(
    client: WorkflowClient, workers: Workers, site: Site, statements: list[Sent]
) -> None:
    client.deploy(line(done))
    client.start("line")
    workers.drain()

    def figures(path: str) -> int:
        statements.clear()
        assert "done" in site.get(path).text
        return sum("percentile_cont" in each.statement for each in statements)

    assert figures("/statistics") == 1
    assert figures("/statistics") == 0
    assert figures("/statistics?period=7d") == 1
    poll(lambda: figures("/statistics") == 1, "the figures are too old to be shown again")


def test_values_too_large_for_a_page_are_not_read(
    client: WorkflowClient, workers: Workers, engine: Engine, site: Site
) -> None:
    client.deploy(line(much))
    started = client.start("line").id
    workers.drain()
    journal = client.journal(started)

    values = ExecutionSteps(engine.database).values(started, journal[-1].seq)

    assert values is not None
    assert values.output.value is None
    assert values.output.is_left_out
    assert len(site.get(f"/executions/{started}?node=much").content) < 3 * LARGEST_VALUE
    row = site.get(f"/executions/{started}/journal/{journal[-1].seq}").json()
    assert row["output"] == much()


def test_statistics_read_the_journal_of_their_time_by_its_primary_key(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    sql: Callable[..., Any],
    statements: list[Sent],
) -> None:
    client.deploy(line(done))
    original = client.start("line").id
    workers.drain()
    sql(
        """
        WITH copies AS (SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid AS id
            FROM generate_series(1, 3000) AS n),
        copied AS (INSERT INTO executions SELECT copy.* FROM executions e, copies,
            LATERAL jsonb_populate_record(e, jsonb_build_object('id', copies.id)) copy WHERE e.id = %s)
        INSERT INTO node_executions SELECT copy.* FROM node_executions n, copies,
            LATERAL jsonb_populate_record(n, jsonb_build_object('execution_id', copies.id)) copy
        WHERE n.execution_id = %s
        """,
        original,
        original,
    )
    sql("ANALYZE")
    statements.clear()
    Statistics(engine.database).nodes(datetime.now(UTC) - timedelta(days=1))

    (plan,) = [each.plan(engine) for each in statements]
    assert "node_executions_pkey" in plan
    assert "Seq Scan on node_executions" not in plan
