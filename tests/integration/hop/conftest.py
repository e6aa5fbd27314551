"""An execution of three nodes that count their calls, and processes that serve messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from support.nodes.line_of_three import calls, start_three_nodes
from support.pool_process import PoolProcess
from support.refusals import refused_rows
from workflow_engine import Settings, WorkflowClient


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    calls.clear()


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """Return the id of an execution of three nodes, just started."""
    return start_three_nodes(client)


@pytest.fixture
def queues(
    request: pytest.FixtureRequest,
    settings: Settings,
    redis_server: str,
    redis_database_numbers: Iterator[int],
) -> Iterator[str]:
    """Yield the URL of the Redis that has the messages: that of the contexts, or with "elsewhere" another."""
    if getattr(request, "param", "") != "elsewhere":
        yield settings.redis_url
        return
    url = urlsplit(redis_server)._replace(path=f"/{next(redis_database_numbers)}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def process(settings: Settings, queues: str) -> Iterator[PoolProcess]:
    process = PoolProcess(settings, queues)
    yield process
    process.close()


@pytest.fixture
def other(settings: Settings, queues: str) -> Iterator[PoolProcess]:
    """Yield a process of another worker."""
    process = PoolProcess(settings, queues)
    yield process
    process.close()


@pytest.fixture
def refuses_bad_outputs(sql: Callable[..., Any]) -> Iterator[None]:
    """Make Postgres refuse the output "bad"."""
    with refused_rows(sql, """NEW.output_data = '"bad"'"""):
        yield
