"""Lock services, which stand for processes, and several lock servers, up and empty for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.key_leak_checker import keys_that_never_expire
from support.locks import LockServer
from workflow_engine import Settings
from workflow_engine.redis.client import connect_redis
from workflow_engine.redis.lock import DistributedLockService
from workflow_engine.redis.lock_servers import connect_lock_servers


@pytest.fixture(scope="module")
def five_servers() -> Iterator[list[LockServer]]:
    servers = [LockServer() for _ in range(5)]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def all_servers(five_servers: list[LockServer]) -> Iterator[list[LockServer]]:
    """Return five servers that are up and empty; fail a test that leaves a key without expiry there."""
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


@pytest.fixture
def connect_locks() -> Iterator[Callable[[Settings], DistributedLockService]]:
    """Return a factory of lock services, which stand for processes and renew their locks until the end."""
    services: list[DistributedLockService] = []

    def connect(settings: Settings) -> DistributedLockService:
        client = connect_redis(settings)
        services.append(DistributedLockService(client, connect_lock_servers(client, settings), settings))
        return services[-1]

    yield connect
    for service in services:
        service.stop_all_renewing()


@pytest.fixture
def new_locks(
    settings: Settings, connect_locks: Callable[[Settings], DistributedLockService]
) -> Callable[[], DistributedLockService]:
    return lambda: connect_locks(settings)


@pytest.fixture
def locks(new_locks: Callable[[], DistributedLockService]) -> DistributedLockService:
    return new_locks()


@pytest.fixture
def others(new_locks: Callable[[], DistributedLockService]) -> DistributedLockService:
    """Return the locks of another process."""
    return new_locks()
