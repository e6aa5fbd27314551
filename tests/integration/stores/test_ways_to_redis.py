"""Contexts, messages and probes take the same way to a Redis, by any form of its URL."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import redis

from support.relays import SocketRelay
from workflow_engine import Settings
from workflow_engine.broker.dispatcher import CeleryDispatcher, producer_app
from workflow_engine.broker.inspection import ask_workers, connect_to_broker
from workflow_engine.embedded import EmbeddedRedis
from workflow_engine.errors import BrokerUnavailable
from workflow_engine.execution.messages import Dispatch, HopMessage
from workflow_engine.health.doctor import Severity, examine
from workflow_engine.health.readiness import ask_servers
from workflow_engine.redis.client import connect_redis

DISPATCH = Dispatch(HopMessage(str(uuid4()), "order", 1, "ship", 2), "workflow", 3)
QUEUE = "workflow\x06\x163"
"""kombu's name of the queue of priority 3."""

LoginPlace = tuple[str, str, str, int]


@pytest.fixture
def place(redis_url: str) -> LoginPlace:
    """Return password, host, port and number of the test's database."""
    parts = urlsplit(redis_url)
    return parts.password or "", parts.hostname or "", str(parts.port), int(parts.path.strip("/"))


@pytest.fixture
def socket_path(redis_url: str, tmp_path: Path) -> Iterator[Path]:
    with SocketRelay(redis_url, tmp_path / "redis.sock"):
        yield tmp_path / "redis.sock"


@pytest.fixture(
    params=[
        "unix://:{password}@{socket}?db={number}",
        "unix://{socket}?db={number}&password={password}",
        "redis+socket://:{password}@{socket}?virtual_host={number}",
        "redis://:{password}@{host}:{port}?db={number}",
        "redis://{host}:{port}/{number}?password={password}&username=default",
        "redis://:{password}@{host}:{port}/{number}?socket_timeout=9&socket_connect_timeout=3"
        "&socket_keepalive=yes&health_check_interval=20&client_name=shop",
    ]
)
def settings(request: pytest.FixtureRequest, place: LoginPlace, socket_path: Path) -> Settings:
    password, host, port, number = place
    url = request.param.format(password=password, host=host, port=port, number=number, socket=socket_path)
    return Settings(redis_url=url)


def test_contexts_and_messages_come_into_the_database_that_the_url_names(
    settings: Settings, redis_client: redis.Redis
) -> None:
    with connect_redis(settings) as contexts:
        contexts.set("context", "here", ex=60)
    dispatcher = CeleryDispatcher(producer_app(settings), settings.redis_url)

    dispatcher.publish([DISPATCH, DISPATCH])

    assert redis_client.get("context") == b"here"
    assert redis_client.llen(QUEUE) == 2
    message = dispatcher.queued(DISPATCH)
    assert message is not None, "the script that leaves a node can send it"
    assert message.key == QUEUE
    redis_client.delete(QUEUE)


def test_every_probe_reaches_it(settings: Settings) -> None:
    connect_to_broker(settings, 5)
    assert ask_workers(settings, 0.1) == []
    assert dict(ask_servers(settings, 5))[f"Redis at {settings.redis_address.place}"] == "writable"
    (found,) = (group for topic, group in examine(settings).items() if topic.startswith("Redis"))
    assert Severity.PROBLEM not in [finding.severity for finding in found]


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[EmbeddedRedis, str]]:
    """Start a Redis, and a sentinel that calls it `main`. Return both, the sentinel by its place."""
    with EmbeddedRedis() as server, socket.create_server(("127.0.0.1", 0)) as reserved:
        parts, port = urlsplit(server.url), reserved.getsockname()[1]
        reserved.close()
        (tmp_path / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
            f"sentinel monitor main 127.0.0.1 {parts.port} 1\nsentinel auth-pass main {parts.password}\n"
        )
        command = [server._program("redis-server"), str(tmp_path / "sentinel.conf"), "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield server, f":{parts.password}@127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def test_sentinels_lead_to_the_primary_of_the_name_in_the_url(sentinel: tuple[EmbeddedRedis, str]) -> None:
    server, place = sentinel
    settings = Settings(redis_url=server.url, broker_url=f"sentinel://{place}/3?master_name=main")
    deadline = time.monotonic() + 30
    while True:
        try:
            connect_to_broker(settings, 2)
            break
        except BrokerUnavailable:  # it has only begun to look for its primary
            assert time.monotonic() < deadline
            time.sleep(0.05)
    dispatcher = CeleryDispatcher(producer_app(settings), settings.redis_url)

    dispatcher.publish([DISPATCH])

    assert dispatcher.queued(DISPATCH) is None, "which Redis that is may change at any moment"
    with redis.Redis.from_url(f"{server.url.rpartition('/')[0]}/3") as primary:
        assert primary.llen(QUEUE) == 1
