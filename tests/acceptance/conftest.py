"""Workers for the tests: a pair that all share, and fleets of their own for tests that do harm.

pytest-celery's fixtures that would start containers are overridden by process-backed ones of the same
names, so the plugin never looks for Docker; what it asks of a container is in `fleet`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
from faults.servers import Servers
from fleet import Fleet, embedded_broker, poll
from key_leak_checker import keys_that_never_expire
from pytest_celery import CeleryBrokerCluster, CeleryWorkerCluster

from workflow_engine import Settings
from workflow_engine.errors import EmbeddedServerFailed

SHARED = f"workflow_engine_shared_fleet_{os.getpid()}"

MEASURED = "measured"
"""The property of a test's report that tells what it has measured; it reaches whoever prints the summary."""


@pytest.fixture(scope="module")
def servers_to_break() -> Iterator[Servers]:
    """Servers of the fault suite's own, whatever others tests use."""
    try:
        with Servers() as servers:
            yield servers
    except EmbeddedServerFailed as error:
        if os.environ.get("CI", "") not in ("", "0", "false"):
            raise
        pytest.skip(f"servers to break are missing: {error}")


@pytest.fixture(scope="session")
def shared_database_url(postgres_server: str, migrated_template: str) -> Iterator[str]:
    _execute(postgres_server, f"CREATE DATABASE {SHARED} TEMPLATE {migrated_template}")
    yield urlsplit(postgres_server)._replace(path=f"/{SHARED}").geturl()
    _execute(postgres_server, f"DROP DATABASE {SHARED} WITH (FORCE)")


@pytest.fixture(scope="session")
def shared_fleet(
    shared_database_url: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    # Behind a prefix of its own, because tests of other tiers flush every database but this one.
    settings = _settings(shared_database_url, redis_server, key_prefix=f"{SHARED}:")
    fleet = Fleet(settings, tmp_path_factory.mktemp("fleet"))
    fleet.add_workers("one", "two")
    yield fleet
    fleet.end()
    fleet.wipe_redis()


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Iterator[Fleet]:
    """Two workers of two processes each, for tests that leave them as they found them.

    What such a test starts, it has to end: a key of the engine that it leaves in Redis fails it.
    """
    before = shared_fleet.engine_keys()
    yield shared_fleet
    assert not shared_fleet.keys().intersection(keys_that_never_expire(shared_fleet.redis))
    poll(lambda: shared_fleet.engine_keys() <= before, 10, "Redis holds no key of an ended execution")


@pytest.fixture
def own_fleet(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """A database and a Redis of the test's own, to which it adds the workers it wants."""
    fleet = Fleet(_settings(database_url, redis_url), tmp_path)
    yield fleet
    fleet.kill()


@pytest.fixture
def empty_database_url(postgres_server: str, database_url: str) -> Iterator[str]:
    """The URL of a database without tables."""
    name = f"{urlsplit(database_url).path[1:]}_empty"
    _execute(postgres_server, f"CREATE DATABASE {name}")
    yield urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
    _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def celery_broker_cluster() -> Iterator[CeleryBrokerCluster]:
    """A Redis of the test's own, to be killed and restarted."""
    broker = embedded_broker()
    yield CeleryBrokerCluster(broker)
    broker.teardown()


@pytest.fixture
def celery_backend_cluster() -> None:
    """The engine has no use for a result backend."""


@pytest.fixture
def celery_fleet(
    celery_broker_cluster: CeleryBrokerCluster, database_url: str, tmp_path: Path
) -> Iterator[Fleet]:
    """What the workers of `celery_worker_cluster` belong to."""
    url = celery_broker_cluster[0].config()["url"]
    fleet = Fleet(_settings(database_url, url), tmp_path)
    yield fleet
    fleet.kill()


@pytest.fixture
def celery_worker_cluster(celery_fleet: Fleet) -> CeleryWorkerCluster:
    """Two workers of the test's own, to be killed and restarted."""
    celery_fleet.add_workers("one", "two")
    return CeleryWorkerCluster(*celery_fleet.workers)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Any:
    """Reports a measured figure at the end of the run: `figure("200 nodes", milliseconds, 200)`."""

    def report(what: str, milliseconds: int, nodes: int) -> None:
        seconds, speed = milliseconds / 1000, nodes * 1000 / milliseconds
        request.node.user_properties.append((MEASURED, f"{what}: {seconds:.2f} s, {speed:.0f} nodes/s"))

    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for each in terminalreporter.stats.values() for report in each]
    properties = [each for report in reports for each in getattr(report, "user_properties", ())]
    # A report of each phase of a test has its properties.
    if measured := list(dict.fromkeys(text for name, text in properties if name == MEASURED)):
        terminalreporter.section("measured")
        for text in measured:
            terminalreporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show what the workers wrote while a test failed."""
    report: pytest.TestReport = yield
    fleets = {id(arg): arg for arg in getattr(item, "funcargs", {}).values() if isinstance(arg, Fleet)}
    if report.failed:
        for worker in itertools.chain.from_iterable(fleet.workers for fleet in fleets.values()):
            report.sections.append((f"log of worker {worker.name()}", worker.logs()[-8000:]))
    return report


def _settings(database_url: str, redis_url: str, **others: Any) -> Settings:
    # Locks expire soon, because some tests wait for just that.
    return Settings(
        database_url=database_url, redis_url=redis_url, lock_expiry=2, imports=("nodes",), **others
    )


def _execute(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
