"""The engine leaves nothing in Redis without an expiry, after the end, or outside its prefix."""

from __future__ import annotations

from collections.abc import Callable

import redis

from support.broker import Broker, Workers
from support.redis_keys import keys_in
from support.workflows import line
from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.engine.assembly import Engine


def rests() -> None:
    pass


def fails() -> None:
    raise RuntimeError("boom")


def test_every_key_has_an_expiry_at_every_moment(
    client: WorkflowClient, broker: Broker, workers: Workers, redis_client: redis.Redis
) -> None:
    expiries: dict[bytes, int] = {}

    def looks() -> None:
        expiries.update({key: redis_client.pttl(key) for key in keys_in(redis_client)})

    client.deploy(line(looks, rests))
    execution = client.start("line").id
    while broker.queue:
        workers.hop()
        looks()

    lock, context = f"lock:execution:{execution}", f"execution:context:{execution}"
    assert expiries.keys() == {lock.encode(), context.encode()}
    assert 0 < expiries[lock.encode()] <= 30_000
    assert 30_000 < expiries[context.encode()] <= 86_400_000


def test_the_expiry_of_a_context_is_renewed_as_the_execution_moves(
    client: WorkflowClient, workers: Workers, redis_client: redis.Redis
) -> None:
    client.deploy(line(rests, looks_away, fails))
    execution = client.start("line").id
    key = f"execution:context:{execution}"
    workers.hop()
    redis_client.pexpire(key, 5_000)

    workers.hop()

    assert redis_client.pttl(key) > 80_000_000


def looks_away() -> None:
    pass


def test_a_finished_execution_leaves_nothing_in_redis_however_it_ended(
    client: WorkflowClient, workers: Workers, redis_client: redis.Redis
) -> None:
    client.deploy(line(rests, id="good"))
    client.deploy(line(rests, fails, id="bad"))
    good, bad = client.start("good").id, client.start("bad").id

    workers.drain()

    assert client.get(good).status is ExecutionStatus.COMPLETED
    assert client.get(bad).status is ExecutionStatus.FAILED
    assert keys_in(redis_client) == []


def test_all_keys_of_a_team_stand_behind_its_prefix(
    new_engine: Callable[..., Engine], broker: Broker, redis_client: redis.Redis
) -> None:
    team = new_engine(key_prefix="team-a:")
    client, workers = WorkflowClient(engine=team), Workers(broker, team)
    seen: set[bytes] = set()

    def looks() -> None:
        seen.update(keys_in(redis_client))

    client.deploy(line(looks, rests))
    execution = client.start("line").id
    workers.hop()
    looks()
    workers.drain()

    assert seen == {
        f"team-a:lock:execution:{execution}".encode(),
        f"team-a:execution:context:{execution}".encode(),
    }
    assert client.get(execution).status is ExecutionStatus.COMPLETED
