"""Several lock servers, up and empty for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from key_leak_checker import keys_that_never_expire
from lock_server import LockServer


@pytest.fixture(scope="module")
def five_servers() -> Iterator[list[LockServer]]:
    servers = [LockServer() for _ in range(5)]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def all_servers(five_servers: list[LockServer]) -> Iterator[list[LockServer]]:
    """Five servers that are up and empty; fails a test that leaves a key there for ever."""
    for server in five_servers:
        server.recover()
    yield five_servers
    leaked: list[str] = []
    for server in five_servers:
        if not server.is_down:
            server.thaw()
            leaked += keys_that_never_expire(server.client)
    assert leaked == []


@pytest.fixture
def servers(all_servers: list[LockServer]) -> list[LockServer]:
    return all_servers[:3]
