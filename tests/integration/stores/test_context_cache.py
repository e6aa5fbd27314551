"""Every script may be run again after its reply was lost, and none makes a context out of nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
import redis

from support.broker import Broker, Workers
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.context_cache import ExecutionContextCache
from workflow_engine.errors import ExecutionNotFound
from workflow_engine.redis.cached_context import CachedContext, content_fields, progress_fields
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock import Claim
from workflow_engine.redis.results import Held, Late, Missing


@pytest.fixture
def execution(client: WorkflowClient, workers: Workers) -> str:
    """Return the id of an execution that has run `first`, with `second` due and its context cached."""
    flow = WorkflowBuilder("orders", variables={"currency": "EUR"})
    flow.trigger("start") >> flow.function("first", {"a": 1}) >> flow.function("second", 2)
    client.deploy(flow.build())
    execution = client.start("orders", {"orderId": 42}).id
    workers.hop()
    return execution


@pytest.fixture
def cache(engine: Engine) -> ExecutionContextCache:
    return engine.cache


@pytest.fixture
def claim(engine: Engine, execution: str) -> Claim:
    return engine.locks.new_claim(execution)


@pytest.fixture
def contents(redis_client: redis.Redis, settings: Settings, execution: str) -> Callable[[], Any]:
    """Return everything that Redis holds of the execution."""
    return lambda: (
        redis_client.get(Keys.of(settings).lock(execution)),
        redis_client.hgetall(Keys.of(settings).context(execution)),
    )


def as_json(value: bytes) -> Any:
    """Return the value of a field; Postgres writes JSON with blanks, and ids and fences are not JSON."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


SECOND_STEP = {
    **progress_fields("fence-3", b'{"due":["third"]}', "second"),
    **content_fields(3, "second", b"2", b'{"currency":"CHF"}'),
}


def test_entering_returns_what_the_node_needs_and_leaves_a_mark(
    cache: ExecutionContextCache, claim: Claim, contents: Callable[[], Any]
) -> None:
    entered = cache.enter(claim, "second", 2, ("start", "first", "second"))

    assert isinstance(entered, CachedContext)
    assert (entered.seq, entered.walk, entered.variables) == (2, b'{"due":["second"]}', b'{"currency":"EUR"}')
    assert entered.outputs == {"start": {"orderId": 42}, "first": {"a": 1}}
    assert entered.absent == {"second"}
    assert entered.abandoned is None
    lock, fields = contents()
    assert lock == fields[b"mark"] == claim.value


def test_entering_may_be_repeated(
    cache: ExecutionContextCache, claim: Claim, contents: Callable[[], Any]
) -> None:
    once = cache.enter(claim, "second", 2, ("first",))
    after = contents()

    assert cache.enter(claim, "second", 2, ("first",)) == once
    assert contents() == after


def test_any_number_of_outputs_may_be_asked_for(cache: ExecutionContextCache, claim: Claim) -> None:
    names = tuple(f"nobody{number}" for number in range(2500))

    entered = cache.enter(claim, "second", 2, (*names, "first"))

    assert isinstance(entered, CachedContext)
    assert (entered.outputs, len(entered.absent)) == ({"first": {"a": 1}}, 2500)


def test_entering_what_another_claim_holds_changes_nothing(
    cache: ExecutionContextCache, engine: Engine, claim: Claim, contents: Callable[[], Any], execution: str
) -> None:
    cache.enter(claim, "second", 2, ())
    before = contents()

    refused = cache.enter(engine.locks.new_claim(execution), "second", 2, ())

    assert refused == Held(claim.value)
    assert contents() == before


def test_entering_too_late_changes_nothing(
    cache: ExecutionContextCache, claim: Claim, contents: Callable[[], Any]
) -> None:
    before = contents()

    assert cache.enter(claim, "first", 1, ()) == Late()
    assert contents() == before


def test_a_message_that_is_older_than_the_context_still_enters_a_node_that_is_due(
    cache: ExecutionContextCache, claim: Claim
) -> None:
    assert isinstance(cache.enter(claim, "second", 1, ()), CachedContext)


def test_a_context_older_than_the_message_counts_as_missing(
    cache: ExecutionContextCache, claim: Claim, contents: Callable[[], Any]
) -> None:
    assert cache.enter(claim, "second", 3, ()) == Missing()
    assert cache.enter(claim, "second", 3, ()) == Missing()
    assert contents()[0] == claim.value


def test_caching_writes_the_context_whole_and_only_under_the_lock(
    cache: ExecutionContextCache, engine: Engine, claim: Claim, contents: Callable[[], Any], execution: str
) -> None:
    before = contents()[1]
    snapshot = engine.state.load_snapshot(execution)
    assert snapshot is not None
    assert not cache.cache_context(claim, snapshot, before[b"walk"])

    cache.remove_from_cache(execution)
    cache.enter(claim, "second", 2, ())
    for _ in range(2):
        assert cache.cache_context(claim, snapshot, before[b"walk"])
        fields = contents()[1]
        assert fields.pop(b"mark") == claim.value
        assert fields.keys() == before.keys()
        assert {name: as_json(value) for name, value in fields.items()} == {
            name: as_json(value) for name, value in before.items()
        }


def test_leaving_brings_the_context_up_to_the_journal_and_may_be_repeated(
    cache: ExecutionContextCache, claim: Claim, contents: Callable[[], Any]
) -> None:
    cache.enter(claim, "second", 2, ())
    before = contents()[1]

    for _ in range(2):
        assert cache.update_context(claim, 2, 3, SECOND_STEP).was_updated
        lock, fields = contents()
        assert lock is None
        assert b"mark" not in fields
        changed = {name: value for name, value in fields.items() if before.get(name) != value}
        assert changed == {
            b"seq": b"3",
            b"fence": b"fence-3",
            b"current": b"second",
            b"walk": b'{"due":["third"]}',
            b"variables": b'{"currency":"CHF"}',
            b"output:second": b"2",
            b"path:3": b"second",
            b"size": str(len(fields)).encode(),
        }


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client, key: client.delete(key),
        lambda client, key: client.hset(key, "seq", 1),
        lambda client, key: client.hset(key, "seq", 7),
        lambda client, key: client.hdel(key, "output:first"),
        lambda client, key: client.hdel(key, "seq"),
    ],
    ids=["gone", "older", "newer", "partial", "without seq"],
)
def test_leaving_never_patches_or_creates_what_is_not_as_it_was_entered(
    cache: ExecutionContextCache,
    claim: Claim,
    contents: Callable[[], Any],
    redis_client: redis.Redis,
    settings: Settings,
    execution: str,
    spoil: Callable[[redis.Redis, str], Any],
) -> None:
    cache.enter(claim, "second", 2, ())
    spoil(redis_client, Keys.of(settings).context(execution))

    for _ in range(2):
        assert not cache.update_context(claim, 2, 3, SECOND_STEP).was_updated
        assert contents() == (None, {})


def test_leaving_without_the_lock_keeps_the_lock_of_its_new_holder(
    cache: ExecutionContextCache,
    engine: Engine,
    claim: Claim,
    contents: Callable[[], Any],
    redis_client: redis.Redis,
    settings: Settings,
    execution: str,
) -> None:
    cache.enter(claim, "second", 2, ())
    redis_client.delete(Keys.of(settings).lock(execution))
    theirs = engine.locks.new_claim(execution)
    cache.enter(theirs, "second", 2, ())

    cache.update_context(claim, 2, 3, SECOND_STEP)

    assert contents()[0] == theirs.value


def test_finishing_and_discarding_clear_everything_and_may_be_repeated(
    cache: ExecutionContextCache, claim: Claim, contents: Callable[[], Any]
) -> None:
    cache.enter(claim, "second", 2, ())
    assert cache.discard(claim).was_ours
    assert not cache.discard(claim).was_ours
    assert contents() == (None, {})

    cache.enter(claim, "second", 2, ())
    for _ in range(2):
        cache.finish(claim, "COMPLETED")
        assert contents() == (None, {})


def test_reading_the_context_changes_nothing(
    cache: ExecutionContextCache, claim: Claim, contents: Callable[[], Any], execution: str
) -> None:
    entered = cache.enter(claim, "second", 2, ())
    assert isinstance(entered, CachedContext)
    before = contents()

    load = cache.output_loader(entered)
    for _ in range(2):
        assert load("first") == {"a": 1}
        with pytest.raises(KeyError):
            load("second")
        assert cache.load_context(execution).node_outputs["first"] == {"a": 1}
    assert contents() == before


def test_the_context_of_an_execution_that_does_not_exist_is_refused(cache: ExecutionContextCache) -> None:
    with pytest.raises(ExecutionNotFound):
        cache.load_context("01890000-0000-7000-8000-000000000001")


def test_a_context_can_be_loaded_while_redis_is_away(
    client: WorkflowClient, new_engine: Callable[..., Engine], broker: Broker, execution: str
) -> None:
    cut_off = new_engine(redis_url="redis://127.0.0.1:1/0")

    assert cut_off.cache.load_context(execution) == client.context(execution)
