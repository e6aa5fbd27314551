"""Workers for the tests: a pair that all share, and fleets of their own for tests that do harm.

pytest-celery's fixtures that would start containers are overridden by process-backed ones of the same
names, so the plugin never looks for Docker; `support.worker_processes` has the methods that it expects of a
container.
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
from pytest_celery import CeleryBrokerCluster, CeleryWorkerCluster

from faults.servers import Servers
from support.fleet import Fleet
from support.key_leak_checker import keys_that_never_expire
from support.polling import poll
from support.worker_processes import embedded_broker
from workflow_engine import Settings
from workflow_engine.errors import EmbeddedServerFailed

SHARED = f"workflow_engine_shared_fleet_{os.getpid()}"


@pytest.fixture(scope="module")
def servers_to_break() -> Iterator[Servers]:
    """Start servers for the fault suite alone."""
    try:
        with Servers.started() as servers:
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
    """Share two workers of two processes each among tests that leave them as they found them.

    Such a test has to end what it starts: a key of the engine that it leaves in Redis fails it.
    """
    before = shared_fleet.engine_keys()
    yield shared_fleet
    assert not shared_fleet.keys().intersection(keys_that_never_expire(shared_fleet.redis))
    poll(lambda: shared_fleet.engine_keys() <= before, "Redis holds no key of an ended execution")


@pytest.fixture
def celery_internals() -> bool | None:
    """Return the setting of this name for a test's own fleet; tests marked with `BOTH_WAYS` override it."""
    return None


@pytest.fixture
def own_fleet(
    database_url: str, redis_url: str, tmp_path: Path, celery_internals: bool | None
) -> Iterator[Fleet]:
    """Start a database and a Redis for one test, which adds its own workers."""
    fleet = Fleet(_settings(database_url, redis_url, celery_internals=celery_internals), tmp_path)
    yield fleet
    fleet.kill()


@pytest.fixture
def empty_database_url(postgres_server: str, database_url: str) -> Iterator[str]:
    """Return the URL of a database without tables."""
    name = f"{urlsplit(database_url).path[1:]}_empty"
    _execute(postgres_server, f"CREATE DATABASE {name}")
    yield urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
    _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def celery_broker_cluster() -> Iterator[CeleryBrokerCluster]:
    """Start a Redis that the test may kill and restart."""
    broker = embedded_broker()
    yield CeleryBrokerCluster(broker)
    broker.teardown()


@pytest.fixture
def celery_backend_cluster() -> None:
    """Return no result backend: the engine does not use one."""


@pytest.fixture
def celery_fleet(
    celery_broker_cluster: CeleryBrokerCluster,
    database_url: str,
    tmp_path: Path,
    celery_internals: bool | None,
) -> Iterator[Fleet]:
    """Return the fleet of the workers in `celery_worker_cluster`."""
    url = celery_broker_cluster[0].config()["url"]
    fleet = Fleet(_settings(database_url, url, celery_internals=celery_internals), tmp_path)
    yield fleet
    fleet.kill()


@pytest.fixture
def celery_worker_cluster(celery_fleet: Fleet) -> CeleryWorkerCluster:
    """Start two workers that the test may kill and restart."""
    celery_fleet.add_workers("one", "two")
    return CeleryWorkerCluster(*celery_fleet.workers)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Any:
    """Report a measured figure at the end of the run: `figure("200 nodes", milliseconds, 200)`."""

    def report(what: str, milliseconds: int, nodes: int) -> None:
        seconds, speed = milliseconds / 1000, nodes * 1000 / milliseconds
        request.node.user_properties.append(("measured", f"{what}: {seconds:.2f} s, {speed:.0f} nodes/s"))

    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the workers' log lines of a failed test."""
    report: pytest.TestReport = yield
    fleets = {id(arg): arg for arg in getattr(item, "funcargs", {}).values() if isinstance(arg, Fleet)}
    if report.failed:
        for worker in itertools.chain.from_iterable(fleet.workers for fleet in fleets.values()):
            report.sections.append((f"log of worker {worker.name()}", worker.logs()[-8000:]))
    return report


def _settings(database_url: str, redis_url: str, **others: Any) -> Settings:
    given = {name: value for name, value in others.items() if value is not None}
    # Locks expire soon, because some tests wait for that.
    imports = ("support.nodes.recorded",)
    return Settings(database_url=database_url, redis_url=redis_url, lock_expiry=2, imports=imports, **given)


def _execute(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
