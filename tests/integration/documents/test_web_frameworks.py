"""The applications of docs/web-frameworks.md, as they stand, keep an order and its execution together."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType
from typing import Any

import flask.testing
import httpx
import pytest
import sqlalchemy
from celery import Celery, Task, current_app
from sqlalchemy import event
from sqlalchemy.orm import Session

from support.broker import Broker, Workers
from support.repository import ROOT
from workflow_engine import Settings, StartRefused, WorkflowClient, durable
from workflow_engine.definition.text import read_definition

PAGE = (ROOT / "docs/web-frameworks.md").read_text()
Sql = Callable[..., list[tuple[Any, ...]]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


FLASK, FASTAPI = blocks("python")


@pytest.fixture(autouse=True)
def _servers(
    monkeypatch: pytest.MonkeyPatch, commands_use_the_servers: None, client: WorkflowClient, broker: Broker
) -> None:
    """Let clients of this process use the servers and the broker of the test, with the page's workflow."""
    monkeypatch.setattr("workflow_engine.engine.assembly.CeleryDispatcher", lambda *_: broker)
    [definition] = blocks("yaml")
    client.deploy(read_definition(definition))


@pytest.fixture
def database(settings: Settings) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(settings.database_url)
    yield engine
    engine.dispose()


Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, database: sqlalchemy.Engine) -> Iterator[Load]:
    """Return a function that makes a module of a page's block, with its tables."""
    loaded = []

    def load(code: str) -> ModuleType:
        module = ModuleType("application")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(code, module.__dict__)
        module.Base.metadata.create_all(database)
        loaded.append(module)
        return module

    yield load
    for module in loaded:
        module.Base.metadata.drop_all(database)


@pytest.fixture
def commits_fail() -> Iterator[None]:
    """Fail every commit of a session right before it is sent."""

    def fail(_: Session) -> None:
        raise ConnectionError("the network is down")

    event.listen(Session, "before_commit", fail)
    yield
    event.remove(Session, "before_commit", fail)


def kept(sql: Sql, table: str) -> tuple[list[Any], list[Any]]:
    """Return the ids of the orders and of the executions that Postgres has kept."""
    orders, executions = (sql(f"SELECT id FROM {each} ORDER BY id") for each in (table, "executions"))
    return [each for (each,) in orders], [str(each) for (each,) in executions]


# -- Flask with Flask-SQLAlchemy --------------------------------------------------------------------------


@pytest.fixture
def flask_module(load: Load) -> ModuleType:
    return load(FLASK)


@pytest.fixture
def flask_client(flask_module: ModuleType) -> Iterator[flask.testing.FlaskClient]:
    app = flask_module.create_app()
    with app.test_client() as client:
        yield client
    with app.app_context():
        flask_module.db.engine.dispose()


def test_an_order_of_flask_and_its_execution_commit_together(
    flask_client: flask.testing.FlaskClient, workers: Workers, sql: Sql
) -> None:
    placed = flask_client.post("/orders", json={"customer": "Ada"})

    assert placed.status_code == 201
    assert kept(sql, "flask_orders") == ([placed.json["order"]], [placed.json["execution"]])
    workers.drain()
    shown = flask_client.get(f"/executions/{placed.json['execution']}").json
    assert shown == {"status": "COMPLETED", "result": {"parcel": f"p-{placed.json['order']}"}}


def test_a_view_of_flask_that_raises_keeps_neither(
    flask_client: flask.testing.FlaskClient, commits_fail: None, broker: Broker, sql: Sql
) -> None:
    assert flask_client.post("/orders", json={"customer": "Ada"}).status_code == 500

    assert kept(sql, "flask_orders") == ([], [])
    assert not broker.queue


def test_a_start_that_is_refused_keeps_no_order_of_flask(
    flask_client: flask.testing.FlaskClient, client: WorkflowClient, sql: Sql
) -> None:
    client.control.workflows.deactivate("dispatch")
    flask_client.application.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(StartRefused):
        flask_client.post("/orders", json={"customer": "Ada"})

    assert kept(sql, "flask_orders") == ([], [])


def test_tables_of_the_engine_behind_another_bind_of_flask_take_the_start_on_its_connection(
    flask_module: ModuleType, settings: Settings, broker: Broker, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flask.Flask, "default_config", {
        **flask.Flask.default_config,
        "SQLALCHEMY_BINDS": {"workflows": settings.database_url},
    })  # fmt: skip
    app, db = flask_module.create_app(), flask_module.db
    with app.app_context():
        connection = db.session.connection(bind_arguments={"bind": db.engines["workflows"]})
        execution = flask_module.client.start("dispatch", {"orderId": 1}, session=connection)
        db.session.commit()
        assert not broker.queue
        execution.publish()
        for engine in db.engines.values():
            engine.dispose()

    assert kept(sql, "flask_orders") == ([], [execution.id])
    assert [message.execution_id for message in broker.messages] == [execution.id]


def test_tasks_of_flask_keep_their_application_context_as_nodes(
    flask_module: ModuleType, flask_client: flask.testing.FlaskClient, workers: Workers, sql: Sql
) -> None:
    """The base class is that of Flask's documentation, with tasks that use the session."""
    app, db, order_class = flask_client.application, flask_module.db, flask_module.Order

    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    before = current_app._get_current_object()
    celery = Celery(app.name, task_cls=FlaskTask, broker="memory://")
    celery.set_default()
    try:

        @celery.task(name="flask.rename")
        def rename(order_id: int) -> str:
            order = db.session.get(order_class, order_id)
            order.customer += " Lovelace"
            db.session.commit()
            return str(order.customer)

        celery.finalize()
        placed = flask_client.post("/orders", json={"customer": "Ada"}).json["order"]
        with app.app_context():
            started = durable(rename.s(placed), client=flask_module.client).start(session=db.session)
            assert started.id not in kept(sql, "flask_orders")[1]
            db.session.commit()
        workers.drain()
    finally:
        before.set_default()

    assert flask_module.client.get(started.id).result == "Ada Lovelace"
    assert sql("SELECT customer FROM flask_orders") == [("Ada Lovelace",)]


# -- FastAPI with asynchronous sessions -------------------------------------------------------------------

Visit = Callable[[httpx.AsyncClient], Awaitable[Any]]
Requests = Callable[[Visit], Any]


@pytest.fixture(params=["asyncpg", "psycopg"])
def requests(request: pytest.FixtureRequest, load: Load) -> Requests:
    """Return a function that visits the application, with each driver for asyncio."""
    assert "postgresql+asyncpg" in FASTAPI
    module = load(FASTAPI.replace("postgresql+asyncpg", f"postgresql+{request.param}"))

    def requests(visit: Visit) -> Any:
        async def main() -> Any:
            transport = httpx.ASGITransport(module.app, raise_app_exceptions=False)
            try:
                async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as http:
                    return await visit(http)
            finally:
                await module.engine.dispose()

        return asyncio.run(main())

    return requests


def test_an_order_of_fastapi_and_its_execution_commit_together(
    requests: Requests, workers: Workers, sql: Sql
) -> None:
    async def visit(http: httpx.AsyncClient) -> tuple[Any, Any]:
        placed = await http.post("/orders", json={"customer": "Ada"})
        assert placed.status_code == 201
        await asyncio.to_thread(workers.drain)
        return placed.json(), (await http.get(f"/executions/{placed.json()['execution']}")).json()

    placed, shown = requests(visit)

    assert kept(sql, "fastapi_orders") == ([placed["order"]], [placed["execution"]])
    assert shown == {"status": "COMPLETED", "result": {"parcel": f"p-{placed['order']}"}}


def test_a_view_of_fastapi_that_raises_keeps_neither(
    requests: Requests, commits_fail: None, broker: Broker, sql: Sql
) -> None:
    assert requests(lambda http: http.post("/orders", json={"customer": "Ada"})).status_code == 500

    assert kept(sql, "fastapi_orders") == ([], [])
    assert not broker.queue


def test_many_requests_of_fastapi_at_once_keep_every_order_with_its_execution(
    requests: Requests, broker: Broker, sql: Sql
) -> None:
    async def visit(http: httpx.AsyncClient) -> list[Any]:
        posts = (http.post("/orders", json={"customer": f"customer {number}"}) for number in range(20))
        return [each.json() for each in await asyncio.gather(*posts)]

    placed = requests(visit)

    orders, executions = kept(sql, "fastapi_orders")
    assert sorted(each["order"] for each in placed) == orders
    assert sorted(each["execution"] for each in placed) == sorted(executions)
    assert sorted(message.execution_id for message in broker.messages) == sorted(executions)
