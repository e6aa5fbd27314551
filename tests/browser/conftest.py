"""A shop on a real fleet, the pages of a real Flower, and a real browser that looks at them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from support.bad_day import have_a_bad_day
from support.chromium import Browser, chromium
from support.fleet import Fleet
from support.polling import poll
from support.worker_processes import WorkerProcess
from workflow_engine import Settings, WorkflowClient

NAME, PASSWORD = "ann", "secret"
VISIT = re.compile(r"Visit me at (http://[\d.:]+)")
DATABASE = "workflow_engine_test_pages"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(900))  # every page twice, on a busy machine


@dataclass
class Shop:
    """The fleet, what it has done, and the addresses of two Flowers."""

    fleet: Fleet
    address: str = ""
    """Of a Flower with a sign-on."""
    open_address: str = ""
    """Of a Flower without one."""
    executions: dict[str, str] = field(default_factory=dict)
    """Ids by what they are an example of."""

    @property
    def client(self) -> WorkflowClient:
        return self.fleet.client

    def signed_on(self, path: str) -> str:
        """Return an address with which the browser signs on."""
        parts = urlsplit(self.address)
        return f"{parts.scheme}://{NAME}:{PASSWORD}@{parts.netloc}{path}"


@pytest.fixture(scope="session")
def shop(
    postgres_server: str, migrated_template: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    server = postgres_server.replace("+psycopg2", "")
    _execute(server, f"CREATE DATABASE {DATABASE} TEMPLATE {migrated_template}")
    url = urlsplit(postgres_server)._replace(path=f"/{DATABASE}").geturl()
    settings = Settings(
        database_url=url, redis_url=redis_server, key_prefix="pages:", imports=("support.nodes.shop",)
    )
    fleet = Fleet(settings, tmp_path_factory.mktemp("shop"))
    fleet.add_workers("packing")
    flowers = [
        fleet.program("flower", *ui(f"--basic-auth={NAME}:{PASSWORD}")),
        fleet.program("open-flower", *ui()),
    ]
    made = Shop(fleet)
    made.executions = have_a_bad_day(fleet.client)
    made.address, made.open_address = map(_address, flowers)
    yield made
    for flower in flowers:
        flower.kill("SIGKILL")
    fleet.kill()
    fleet.engine.database.dispose()
    _execute(server, f"DROP DATABASE {DATABASE} WITH (FORCE)")


def ui(*options: str) -> tuple[str, ...]:
    """Return the command that starts the pages on a free port."""
    program = str(Path(sys.executable).with_name("workflow-engine"))
    return (program, "ui", "--port=0", *options)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def _address(flower: WorkerProcess) -> str:
    poll(lambda: flower.status != "running" or VISIT.search(flower.logs()), "Flower has started", timeout=60)
    found = VISIT.search(flower.logs())
    assert found, flower.logs()
    return found[1]


def _execute(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()
