"""Servers for the tests that need them, and what must hold after each of these tests.

Unit tests start nothing. The other tiers share one embedded Postgres and one embedded Redis, in which every
test has a database of its own. WORKFLOW_ENGINE_TEST_DATABASE_URL and WORKFLOW_ENGINE_TEST_REDIS_URL name real
servers to use instead; of that Redis every numbered database but 0 is flushed. A server that cannot be had
skips a test on your machine and fails it in CI.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import closing
from typing import NoReturn
from urllib.parse import urlsplit

import hypothesis
import psycopg2
import pytest
import redis

from workflow_engine.embedded import EmbeddedPostgres, EmbeddedRedis
from workflow_engine.errors import EmbeddedServerFailed
from workflow_engine.settings import ENVIRONMENT_PREFIX

# Before they are imported, so that their assertions tell as much as those of the test files.
pytest.register_assert_rewrite("contracts", "support")

from support.key_leak_checker import keys_that_never_expire  # noqa: E402

TEST_PREFIX = f"{ENVIRONMENT_PREFIX}TEST_"
TEMPLATE = f"workflow_engine_test_{os.getpid()}"

# A property is tried on few examples with every run, and on many with HYPOTHESIS_PROFILE=thorough.
hypothesis.settings.register_profile("quick", max_examples=30, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# What a developer has set for the engine is not meant for its tests.
for _name in [
    name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and not name.startswith(TEST_PREFIX)
]:
    del os.environ[_name]
# Nor is the width of the terminal, which not every way of running tests has.
os.environ.pop("COLUMNS", None)


def pytest_collection_finish() -> None:
    """Take what has been imported and collected out of the search for garbage, which would go through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _log_level_of_its_own() -> Iterator[None]:
    """Celery sets the level of the root logger; what a later test expects to be logged must not go by it."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of reports: what tests have added to `user_properties` as `measured`."""
    reports = [report for each in terminalreporter.stats.values() for report in each]
    properties = [each for report in reports for each in getattr(report, "user_properties", ())]
    # A report of each phase of a test has its properties.
    if measured := list(dict.fromkeys(text for name, text in properties if name == "measured")):
        terminalreporter.section("measured")
        for text in measured:
            terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Yield the URL of a Postgres in which tests may create databases."""
    url = os.environ.get(f"{TEST_PREFIX}DATABASE_URL")
    server = EmbeddedPostgres()
    try:
        if url is None:
            url = server.start().url
        _execute(url, "SELECT 1")
    except (EmbeddedServerFailed, psycopg2.OperationalError) as error:
        _do_without("Postgres", error)
    yield url
    server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """Yield the URL of a Redis in which tests may flush databases."""
    url = os.environ.get(f"{TEST_PREFIX}REDIS_URL")
    server = EmbeddedRedis()
    try:
        if url is None:
            url = server.start().url
        with redis.Redis.from_url(url) as client:
            client.ping()
    except (EmbeddedServerFailed, redis.RedisError) as error:
        _do_without("Redis", error)
    yield url
    server.stop()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str) -> Iterator[str]:
    """Yield the name of a migrated database; cloning it is faster than migrating again."""
    from workflow_engine.postgres import migrations

    _execute(postgres_server, f"CREATE DATABASE {TEMPLATE}")
    migrations.upgrade(_with_path(postgres_server, TEMPLATE))
    yield TEMPLATE
    _execute(postgres_server, f"DROP DATABASE {TEMPLATE} WITH (FORCE)")


_database_numbers = itertools.count(1)


@pytest.fixture
def database_url(postgres_server: str, migrated_template: str) -> Iterator[str]:
    """Yield the URL of a database of this test alone, with all migrations applied and no rows."""
    name = f"{TEMPLATE}_{next(_database_numbers)}"
    _execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield _with_path(postgres_server, name)
    _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def redis_database_numbers(redis_server: str) -> Iterator[int]:
    with redis.Redis.from_url(redis_server) as client:
        count = int(client.config_get("databases")["databases"])
    return itertools.cycle(range(1, count))


@pytest.fixture
def redis_url(redis_server: str, redis_database_numbers: Iterator[int]) -> Iterator[str]:
    """Yield the URL of an empty Redis database of this test alone; fail it for a key that never expires."""
    url = _with_path(redis_server, str(next(redis_database_numbers)))
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        leaked = keys_that_never_expire(client)
        client.flushdb()
    if leaked:
        pytest.fail(f"these keys would stay in Redis for ever: {', '.join(leaked)}", pytrace=False)


def _execute(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


def _with_path(url: str, path: str) -> str:
    return urlsplit(url)._replace(path=f"/{path}").geturl()


def _do_without(server: str, error: Exception) -> NoReturn:
    if os.environ.get("CI", "") not in ("", "0", "false"):
        pytest.fail(f"{server} must not be missing in CI: {error}", pytrace=False)
    pytest.skip(f"{server} is missing: {error}")
