"""A schema may have any name; a database that cannot hold every text is refused before anything is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest
from click.testing import Result
from sqlalchemy import create_engine, inspect

from support.broker import Broker, Workers
from support.redis_keys import let_redis_remember
from support.rescues import rescue
from workflow_engine import ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import MigrationRefused
from workflow_engine.health.doctor.postgres import ask_postgres, judge_postgres
from workflow_engine.health.readiness import ask_servers
from workflow_engine.postgres import migrations

SMILE = "😀 Ünïcödé"


@pytest.fixture
def server(postgres_server: str) -> Iterator[psycopg2.extensions.cursor]:
    with closing(psycopg2.connect(postgres_server.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def lifecycle(settings: Settings, broker: Broker) -> None:
    """Run an execution with waits, an operator's moves and a purge: most statements of the engine."""
    engine = Engine.assemble(settings, dispatcher=broker)
    client, workers = WorkflowClient(engine=engine), Workers(broker, engine)
    flow = WorkflowBuilder("orders", settings={"timeout": 3600})
    hear = flow.wait_events("hear", ["paid"], correlation_id="order-7")
    flow.trigger("placed") >> hear >> flow.function("end", "{{ [placed.text, hear.paid] }}")
    client.deploy(flow.build())
    started = client.start("orders", {"text": SMILE}, idempotency_key=SMILE)
    workers.drain()
    client.control.pause(started.id, reason=SMILE)
    client.control.resume(started.id)
    client.send_event("order-7", "paid", SMILE)
    engine.waits.claim_due()
    engine.timeouts.end()
    engine.triggers.claim_due()
    let_redis_remember(settings)
    rescue(engine)
    workers.drain()

    finished = client.get(started.id)
    assert (finished.status, finished.result) == (ExecutionStatus.COMPLETED, [SMILE, SMILE])
    assert client.start("orders", {"text": SMILE}, idempotency_key=SMILE).id == started.id
    assert [each.id for each in client.list("orders")] == [started.id]
    assert client.history(started.id)
    assert client.purge(-60).executions == 1
    engine.locks.stop_all_renewing()
    engine.database.dispose()


@pytest.mark.parametrize("schema", ["user", "order", "table", "select", "_1"])
def test_a_schema_may_be_called_as_a_word_of_sql(
    empty_database_url: str, redis_url: str, broker: Broker, schema: str
) -> None:
    settings = Settings(database_url=empty_database_url, redis_url=redis_url, database_schema=schema)
    migrations.upgrade(settings.database_url, schema)

    lifecycle(settings, broker)

    assert ask_postgres(settings).code_in_use is not None
    answers = [answer for server, answer in ask_servers(settings, 5) if server.startswith("Postgres")]
    assert answers == [f"writable, tables at {migrations.newest_revision()}"]
    engine = create_engine(empty_database_url)
    assert inspect(engine).get_table_names("public") == []
    engine.dispose()


@pytest.mark.parametrize("schema", ["pg_engine", "information_schema"])
def test_a_schema_of_postgres_itself_is_refused(schema: str) -> None:
    with pytest.raises(ValueError, match="Postgres reserves schemas of this name"):
        Settings(database_schema=schema)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_a_database_that_cannot_hold_every_text_is_refused_with_what_to_do(
    postgres_server: str,
    server: psycopg2.extensions.cursor,
    run_on: Callable[..., Result],
    encoding: str,
) -> None:
    name = f"workflow_engine_test_{encoding.lower()}"
    server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        url = postgres_server.rpartition("/")[0] + f"/{name}"
        with pytest.raises(MigrationRefused, match=f"encoding {encoding}.*ENCODING 'UTF8'"):
            migrations.upgrade(url)
        result = run_on(url, "db", "upgrade")
        facts = ask_postgres(Settings(database_url=url))
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")

    assert result.exit_code != 0
    assert "ENCODING 'UTF8'" in result.output.replace("\n", " ")
    (finding,) = [each for each in judge_postgres(facts) if each.question == "Can it store every text?"]
    assert encoding in finding.answer
    assert "ENCODING 'UTF8'" in str(finding.advice)


@pytest.mark.parametrize("by", ["environment", "role", "url"])
def test_what_encoding_clients_use_otherwise_makes_no_difference(
    empty_database_url: str,
    redis_url: str,
    broker: Broker,
    server: psycopg2.extensions.cursor,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    url = empty_database_url
    if by == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    elif by == "role":
        server.execute("ALTER ROLE CURRENT_USER SET client_encoding = 'LATIN1'")
    else:
        url += "?client_encoding=latin1"
    try:
        migrations.upgrade(url)
        lifecycle(Settings(database_url=url, redis_url=redis_url), broker)
    finally:
        server.execute("ALTER ROLE CURRENT_USER RESET client_encoding")
