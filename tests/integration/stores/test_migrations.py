"""The migrations make the same tables in any schema, however often, and by any user."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from support.broker import Broker, Workers
from workflow_engine import ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine as WorkflowEngine
from workflow_engine.errors import DatabaseOutdated
from workflow_engine.postgres import functions, migrations
from workflow_engine.postgres.tables import tables

SCHEMA = "engine"


pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Engine]:
    engine = create_engine(empty_database_url)
    yield engine
    engine.dispose()


@pytest.fixture(params=["public", SCHEMA])
def schema(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_models_and_migrations_agree(empty_database_url: str, database: Engine, schema: str) -> None:
    migrations.upgrade(empty_database_url, schema)
    metadata = tables("as_modelled")
    with database.begin() as connection:
        connection.execute(text("CREATE SCHEMA as_modelled"))
        metadata.create_all(connection)

        assert catalogue(connection, schema) == catalogue(connection, "as_modelled")


CATALOGUE = """
SELECT 'column', c.table_name || '.' || c.column_name, c.udt_name || ' ' || c.is_nullable || ' '
    || coalesce(c.column_default, '')
FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
WHERE c.table_schema = :schema AND t.table_type = 'BASE TABLE'
UNION SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = CAST(:schema AS regnamespace)
UNION SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = :schema
UNION SELECT 'storage', relname, array_to_string(reloptions, ' ') FROM pg_class
WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind = 'r'
"""


def catalogue(connection: Connection, schema: str) -> set[tuple[str, ...]]:
    """Return the catalogue of the tables: more than Alembic compares, such as the conditions of indexes."""
    rows = connection.execute(text(CATALOGUE), {"schema": schema})
    found = {tuple(str(each).replace(f"{schema}.", "") for each in row) for row in rows}
    assert len(found) > 100
    return {row for row in found if migrations.VERSION_TABLE not in str(row)}


FUNCTIONS = """
SELECT proname FROM pg_proc WHERE pronamespace = CAST(:schema AS regnamespace)
"""


def test_each_function_is_a_file_named_with_its_version(
    empty_database_url: str, database: Engine, schema: str
) -> None:
    migrations.upgrade(empty_database_url, schema)
    with database.connect() as connection:
        installed = set(connection.scalars(text(FUNCTIONS), {"schema": schema}))

    files = {path.stem: path.read_text() for path in Path(functions.__path__[0]).rglob("*.sql")}
    assert installed == files.keys()
    assert [name for name in files if not re.search(r"_v[1-9]\d*$", name)] == []
    assert [name for name, content in files.items() if f"CREATE FUNCTION {{s}}.{name}(" not in content] == []


def test_upgrading_twice_changes_nothing(empty_database_url: str, database: Engine, schema: str) -> None:
    assert migrations.current_revision(empty_database_url, schema) is None

    migrations.upgrade(empty_database_url, schema)
    names = inspect(database).get_table_names(schema)
    migrations.upgrade(empty_database_url, schema)

    assert migrations.current_revision(empty_database_url, schema) == migrations.newest_revision()
    assert inspect(database).get_table_names(schema) == names
    assert set(names) == {
        "workflow_engine_version",
        "workflows",
        "workflow_versions",
        "triggers",
        "workflow_events",
        "idempotency_keys",
        "executions",
        "node_executions",
        "node_parts",
        "queue_deadlines",
        "execution_wait_states",
        "execution_events",
        "limit_slots",
        "limit_overrides",
        "limit_windows",
    }


UPGRADE = "import sys; from workflow_engine.postgres import migrations; migrations.upgrade(*sys.argv[1:])"


def test_upgrades_at_once_wait_for_each_other(empty_database_url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", UPGRADE, empty_database_url, SCHEMA], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    threads = [
        threading.Thread(target=migrations.upgrade, args=(empty_database_url, SCHEMA)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [process.communicate(timeout=30)[1].decode() for process in processes]

    assert [process.returncode for process in processes] == [0, 0], said
    assert migrations.current_revision(empty_database_url, SCHEMA) == migrations.newest_revision()


def test_teams_in_schemas_of_their_own_share_a_database(
    empty_database_url: str, redis_url: str, database: Engine, broker: Broker
) -> None:
    for schema in (SCHEMA, "other_team"):
        migrations.upgrade(empty_database_url, schema)
    settings = Settings(database_url=empty_database_url, redis_url=redis_url, database_schema=SCHEMA)
    engine = WorkflowEngine.assemble(settings, dispatcher=broker)
    client = WorkflowClient(engine=engine)
    flow = WorkflowBuilder("orders")
    flow.trigger("start") >> flow.function("end", "{{ start.orderId }}")
    client.deploy(flow.build())

    execution = client.start("orders", {"orderId": 42}, idempotency_key="order-42").id
    again = client.start("orders", {"orderId": 42}, idempotency_key="order-42")
    Workers(broker, engine).drain()

    finished = client.get(execution)
    assert (finished.status, finished.result, again.id) == (ExecutionStatus.COMPLETED, 42, execution)
    with database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM other_team.executions")).scalar() == 0
        assert connection.execute(text(f"SELECT count(*) FROM {SCHEMA}.execution_contexts")).scalar() == 1
        assert inspect(connection).get_table_names("public") == []
    engine.database.dispose()


def test_a_database_without_the_tables_is_reported_with_what_to_do(
    empty_database_url: str, redis_url: str
) -> None:
    engine = WorkflowEngine.assemble(Settings(database_url=empty_database_url, redis_url=redis_url))

    with pytest.raises(DatabaseOutdated, match="run `workflow-engine db upgrade`"):
        WorkflowClient(engine=engine).count()
    engine.database.dispose()
