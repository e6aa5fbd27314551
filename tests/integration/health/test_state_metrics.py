"""The state of an installation is read from its servers, with bounded statements, and without workers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.broker import Broker, Workers
from support.command_line import run
from support.polling import poll
from support.workflows import line
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.executions import figures

Sql = Callable[..., list[tuple[Any, ...]]]


def pauses(context: Any) -> Any:
    return waiting(seconds=60) if context.wake is None else None


def done() -> int:
    return 1


def values(exposition: bytes | str) -> dict[tuple[str, ...], float]:
    """Return the value of each sample by its name and the values of its labels."""
    text = exposition if isinstance(exposition, str) else exposition.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def published_engine(settings: Settings) -> Iterator[Engine]:
    """Return an engine whose messages are in a real queue."""
    engine = Engine.assemble(settings)
    yield engine
    engine.database.dispose()


def test_executions_waits_and_schedules_are_read_from_postgres(
    client: WorkflowClient, engine: Engine, workers: Workers, sql: Sql, time_passes: Callable[[float], None]
) -> None:
    client.deploy(line(pauses, id="pausing"))
    client.deploy(line(done))
    flow = WorkflowBuilder("nightly")
    flow.trigger("at", sub_type="scheduler", config={"cron": "0 3 * * *"}) >> flow.function("one", "{{ 1 }}")
    client.deploy(flow.build())
    for _ in range(2):
        client.start("pausing")
    workers.drain()
    client.control.pause(client.start("line").id)
    client.start("line", queue="slow")

    before = values(WorkflowClient(engine=engine).state_metrics.exposition())
    time_passes(160)
    sql("UPDATE triggers SET next_due = now() - interval '50 seconds' WHERE next_due IS NOT NULL")
    sql("UPDATE executions SET updated_at = now() - interval '30 seconds' WHERE queue = 'slow'")
    after = values(WorkflowClient(engine=engine).state_metrics.exposition())

    assert {status: after["workflow_engine_executions", status] for status in ("PENDING", "RUNNING")} == {
        "PENDING": 1,
        "RUNNING": 0,
    }
    assert after["workflow_engine_executions", "WAITING"] == 2
    assert after["workflow_engine_executions", "PAUSED"] == 1
    assert (before["workflow_engine_waits_due",], before["workflow_engine_waits_lag_seconds",]) == (0, 0)
    assert after["workflow_engine_waits_due",] == 2
    assert 99 < after["workflow_engine_waits_lag_seconds",] < 130
    assert before["workflow_engine_schedules_due",] == 0
    assert after["workflow_engine_schedules_due",] == 1
    assert 49 < after["workflow_engine_schedules_lag_seconds",] < 80
    assert after["workflow_engine_executions_active", "slow"] == 1
    assert 29 < after["workflow_engine_oldest_unserved_seconds", "slow"] < 60
    assert after["workflow_engine_up", "postgres"] == 1


def test_lines_for_limits_and_the_reasons_why_executions_stand_are_counted(
    client: WorkflowClient, engine: Engine, broker: Broker, sql: Sql
) -> None:
    flow = WorkflowBuilder("limited", limits=[{"key": "bank", "concurrency": 1}])
    flow.trigger("begin") >> flow.function("one", "{{ 1 }}")
    client.deploy(flow.build())
    for _ in range(4):
        client.start("limited")
    sql("UPDATE limit_slots SET arrived_at = now() - interval '2 hours' WHERE is_in_line")

    read = values(WorkflowClient(engine=engine).state_metrics.exposition())

    assert read["workflow_engine_limited",] == 3
    assert 7190 < read["workflow_engine_limited_oldest_seconds",] < 7300
    assert read["workflow_engine_executions_explained", "LIMITED"] == 3
    assert (
        sum(value for name, value in read.items() if name[0] == "workflow_engine_executions_explained") == 4
    )


def test_the_length_and_the_age_of_a_queue_are_read_from_the_broker(published_engine: Engine) -> None:
    client = WorkflowClient(engine=published_engine)
    client.deploy(line(done))
    for _ in range(3):
        client.start("line", queue="served-by-none")
    client.start("line", queue="served-by-none", priority=0)

    read = values(WorkflowClient(engine=published_engine).state_metrics.exposition())

    assert read["workflow_engine_queue_messages", "served-by-none"] == 4
    assert read["workflow_engine_queue_messages", published_engine.settings.queue] == 0
    assert 0 <= read["workflow_engine_queue_oldest_seconds", "served-by-none"] < 30
    assert read["workflow_engine_up", "broker"] == 1


def test_counting_ends_at_a_bound(
    client: WorkflowClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MOST", 2)
    client.deploy(line(done))
    for _ in range(5):
        client.start("line")

    read = values(WorkflowClient(engine=engine).state_metrics.exposition())

    assert read["workflow_engine_executions", "PENDING"] == 2
    assert read["workflow_engine_executions_active", engine.settings.queue] == 2


STATEMENTS = (figures.STATUSES, figures.WAITS, figures.SCHEDULES, figures.LIMITED, figures.QUEUES)


def test_every_statement_reads_an_index_and_no_table(engine: Engine, sql: Sql) -> None:
    for table in ("executions", "execution_wait_states", "triggers", "limit_slots"):
        sql(f"REINDEX TABLE {table}")  # other tests leave indexes of many pages with little in them
        sql(f"VACUUM (ANALYZE) {table}")
    given: dict[str, Any] = {"most": 10, "statuses": ["WAITING"], "node_priority": 3, "format": 1}
    plans = []
    with engine.database.transaction() as transaction:
        transaction.rows("SET LOCAL enable_seqscan = off")
        transaction.rows("SET LOCAL enable_bitmapscan = off")
        transaction.rows("SET LOCAL enable_sort = off")
        for statement in STATEMENTS:
            plans.append("\n".join(row[0] for row in transaction.rows(f"EXPLAIN {statement}", **given)))

    for plan, index in zip(
        plans,
        (
            "executions_by_status",
            "execution_wait_states_due",
            "triggers_due",
            "limit_slots_line",
            "executions_active",
        ),
        strict=True,
    ):
        assert f"using {index}" in plan
        assert "Seq Scan" not in plan


def test_a_server_that_is_away_is_named_and_the_others_are_read(
    client: WorkflowClient, new_engine: Callable[..., Engine], settings: Settings
) -> None:
    client.deploy(line(done))
    client.start("line")
    without_broker = new_engine(broker_url="redis://127.0.0.1:1/0", redis_timeout=0.2)
    away = settings.database_url.rpartition("@")[0] + "@127.0.0.1:1/nowhere"
    without_postgres = new_engine(database_url=away, database_timeout=1)

    of_postgres = values(WorkflowClient(engine=without_broker).state_metrics.exposition())
    of_broker = values(WorkflowClient(engine=without_postgres).state_metrics.exposition())

    assert of_postgres["workflow_engine_executions", "PENDING"] == 1
    assert (of_postgres["workflow_engine_up", "postgres"], of_postgres["workflow_engine_up", "broker"]) == (
        1,
        0,
    )
    assert (of_broker["workflow_engine_up", "postgres"], of_broker["workflow_engine_up", "broker"]) == (0, 1)


@contextmanager
def serving(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([Path(sys.executable).with_name("workflow-engine"), *command])
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_the_command_prints_them_or_serves_them(
    commands_use_the_servers: None, client: WorkflowClient, broker: Broker, settings: Settings
) -> None:
    client.deploy(line(done))
    client.start("line")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]

    printed = run("metrics")
    in_json = run("metrics", "--json")

    assert values(printed.stdout)["workflow_engine_executions", "PENDING"] == 1
    assert values(json.loads(in_json.stdout)["exposition"])["workflow_engine_executions", "PENDING"] == 1
    with serving("metrics", "--serve", str(port)):

        def scraped() -> str | None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
                    return str(response.read().decode())
            except OSError:
                return None

        assert values(poll(scraped, "metrics are served"))["workflow_engine_executions", "PENDING"] == 1
