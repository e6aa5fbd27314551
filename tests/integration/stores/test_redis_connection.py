"""Each thread keeps a connection to Redis, and no reply reaches the wrong command."""

from __future__ import annotations

import gc
import itertools
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.sentinel import Sentinel

from support.broker import Broker
from support.polling import poll
from support.redis_sentinel import Replicated
from workflow_engine import Settings
from workflow_engine.embedded import EmbeddedRedis
from workflow_engine.engine.assembly import Engine
from workflow_engine.redis.client import Client, connect_redis

EXECUTION = "01890000-0000-7000-8000-000000000001"
PASSWORD = secrets.token_hex(16)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect_redis(Settings(redis_url=redis_url)) as client:
        yield client


def identity(client: redis.Redis) -> int:
    """Return Redis' id of the connection that this thread's commands take."""
    return int(client.client_id())


def test_all_commands_of_a_thread_take_one_connection_and_other_threads_have_theirs(
    client: redis.Redis,
) -> None:
    others: list[int] = []
    thread = threading.Thread(target=lambda: others.extend([identity(client), identity(client)]))
    thread.start()
    thread.join()

    assert identity(client) == identity(client)
    assert others[0] == others[1] != identity(client)


def test_a_forked_process_has_a_connection_of_its_own(client: redis.Redis) -> None:
    parents = identity(client)
    read, write = os.pipe()

    if (child := os.fork()) == 0:
        try:
            os.write(write, str(identity(client)).encode())
        finally:
            os._exit(0)

    os.waitpid(child, 0)
    assert int(os.read(read, 100)) != parents
    assert identity(client) == parents


def test_an_unread_reply_is_not_taken_for_that_to_the_next_command(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object, **__: object) -> None:
        raise Interrupted

    client.set("waits", "for nobody", ex=60)
    with monkeypatch.context() as while_it_waits:
        while_it_waits.setattr(client, "parse_response", interrupt)
        with pytest.raises(Interrupted):
            client.get("waits")

    assert client.get("absent") is None


def test_a_refused_command_costs_no_connection(client: redis.Redis) -> None:
    before = identity(client)

    client.set("text", "a", ex=60)
    with pytest.raises(redis.ResponseError):
        client.incr("text")

    assert identity(client) == before


def test_a_command_after_a_restart_of_redis_connects_anew() -> None:
    with EmbeddedRedis() as server, connect_redis(Settings(redis_url=server.url)) as client:
        client.set("kept", "yes")
        server.restart()

        assert client.ping()


@pytest.fixture
def behind_sentinels(monkeypatch: pytest.MonkeyPatch) -> Callable[..., redis.Redis]:
    """Return a function that connects to a server that sentinels name, the last of these for good."""

    def connect(*servers: Replicated) -> redis.Redis:
        named = itertools.chain(servers, itertools.repeat(servers[-1]))
        monkeypatch.setattr(Sentinel, "discover_master", lambda *_: ("127.0.0.1", next(named).port))
        return connect_redis(Settings(redis_url=f"sentinel://:{PASSWORD}@127.0.0.1:1/0?master_name=main"))

    return connect


def test_no_connection_leads_elsewhere_than_to_the_primary_that_sentinels_name(
    behind_sentinels: Callable[..., redis.Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to the port that Redis has by default, where one of another team may listen."""
    ports: set[object] = set()
    resolve = socket.getaddrinfo

    def noted(host: Any, port: Any, *others: Any, **options: Any) -> Any:
        ports.add(port)
        return resolve(host, port, *others, **options)

    with Replicated(PASSWORD) as primary, behind_sentinels(primary) as client:
        monkeypatch.setattr(socket, "getaddrinfo", noted)
        client.set("one", "1")
        primary.restart()
        client.set("two", "2")

        assert ports == {primary.port}


def test_after_a_lost_reply_sentinels_are_asked_again(
    behind_sentinels: Callable[..., redis.Redis],
) -> None:
    with (
        Replicated(PASSWORD) as former,
        Replicated(PASSWORD) as primary,
        behind_sentinels(former, primary) as client,
    ):
        assert isinstance(client, Client)
        before = client.info("server")["tcp_port"]
        client.send_ahead([("BLPOP", "nothing", "0")])
        former.restart()  # at the same port

        assert (before, client.info("server")["tcp_port"]) == (former.port, primary.port)


def test_a_script_that_meets_a_replica_is_called_again_at_the_primary(
    behind_sentinels: Callable[..., redis.Redis],
) -> None:
    """Just after a failover a sentinel may still name the former primary."""
    with (
        Replicated(PASSWORD) as primary,
        Replicated(PASSWORD, primary) as replica,
        behind_sentinels(replica, primary) as client,
    ):
        write = client.register_script("return redis.call('SET', KEYS[1], ARGV[1])")

        write(["written"], ["yes"])

        assert client.get("written") == b"yes"


def test_a_dropped_engine_takes_its_threads_and_its_connections_along(
    settings: Settings, redis_client: redis.Redis
) -> None:
    def connections() -> set[str]:
        return {each["id"] for each in redis_client.client_list()}

    def use_an_engine() -> set[str]:
        before = connections()
        engine = Engine.assemble(settings, dispatcher=Broker())
        claim = engine.locks.acquire_lock(EXECUTION)
        assert claim is not None
        with engine.running_nodes.running(claim):
            made = connections() - before
        engine.locks.release_lock(claim)
        engine.database.dispose()
        return made

    made = use_an_engine()
    gc.collect()

    assert made
    poll(lambda: not made & connections(), "its connections are closed")
