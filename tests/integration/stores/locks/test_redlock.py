"""The lock outlives the loss of a minority of its servers, and without a majority it is refused.

A lock that is refused is not held: a worker that reaches no majority requeues its message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
import redis

from support.locks import EXECUTION, EXPIRY, KEY, LockServer, does, urls_of
from support.polling import poll
from workflow_engine import Settings
from workflow_engine.errors import CacheUnavailable
from workflow_engine.redis.lock import Claim, DistributedLockService
from workflow_engine.redis.redlock import Quorum

SERVER_TIMEOUT = EXPIRY / 50
"""Seconds to wait for a lock server, with that expiry."""


@pytest.fixture
def settings(redis_url: str, servers: list[LockServer]) -> Settings:
    return Settings(redis_url=redis_url, lock_urls=urls_of(servers), lock_expiry=EXPIRY)


def acquired(locks: DistributedLockService) -> Claim:
    claim = locks.acquire_lock(EXECUTION)
    assert claim is not None
    return claim


def values_on(servers: Sequence[LockServer]) -> list[bytes | None]:
    return [server.client.get(KEY) for server in servers]  # type: ignore[misc]


def test_a_lock_is_held_on_all_servers_by_one_at_a_time_and_released_on_all(
    locks: DistributedLockService, others: DistributedLockService, servers: list[LockServer]
) -> None:
    claim = acquired(locks)

    assert values_on(servers) == [claim.value] * 3
    assert all(0 < int(server.client.pttl(KEY)) <= EXPIRY * 1000 for server in servers)  # type: ignore[arg-type]
    assert others.acquire_lock(EXECUTION) is None
    assert others.value_of(EXECUTION) == claim.value
    assert locks.is_locked_by_me(claim)

    assert locks.release_lock(claim).was_ours
    assert values_on(servers) == [None] * 3
    assert not locks.release_lock(claim).was_ours, "and not twice"
    assert not others.is_locked(EXECUTION)


def test_the_lock_is_not_in_the_redis_of_the_contexts(locks: DistributedLockService, redis_url: str) -> None:
    claim = acquired(locks)

    with redis.Redis.from_url(redis_url) as contexts:
        assert list(contexts.scan_iter()) == []
    locks.release_lock(claim)


def test_of_many_that_compete_one_at_a_time_gets_the_lock(
    new_locks: Callable[[], DistributedLockService],
) -> None:
    inside, most, turns = [], [0], []

    def take_a_turn() -> None:
        locks = new_locks()
        for _ in range(200):
            with suppress(CacheUnavailable):  # the votes were split
                if (claim := locks.acquire_lock(EXECUTION)) is not None:
                    inside.append(1)
                    most[0] = max(most[0], len(inside))
                    time.sleep(0.002)
                    inside.pop()
                    turns.append(1)
                    locks.release_lock(claim)
                    return
            time.sleep(0.01)

    competitors = [threading.Thread(target=take_a_turn) for _ in range(6)]
    for thread in competitors:
        thread.start()
    for thread in competitors:
        thread.join()

    assert most == [1]
    assert len(turns) == 6, "and each its turn"


@pytest.mark.parametrize("count", [3, 5])
def test_a_minority_that_is_lost_changes_nothing(
    all_servers: list[LockServer],
    redis_url: str,
    count: int,
    connect_locks: Callable[[Settings], DistributedLockService],
) -> None:
    servers = all_servers[:count]
    settings = Settings(redis_url=redis_url, lock_urls=urls_of(servers), lock_expiry=EXPIRY)
    locks, others = connect_locks(settings), connect_locks(settings)
    before = acquired(locks)
    for server in servers[: count // 2]:
        server.kill()

    assert locks.is_locked_by_me(before)
    assert others.acquire_lock(EXECUTION) is None
    locks.renew()
    assert locks.release_lock(before).was_ours

    after = acquired(others)
    assert locks.acquire_lock(EXECUTION) is None
    assert others.release_lock(after).was_ours
    assert values_on(servers[count // 2 :]) == [None] * (count // 2 + 1)


def test_how_long_a_lock_still_holds_is_known_while_a_minority_is_away(
    servers: list[LockServer], redis_url: str, connect_locks: Callable[[Settings], DistributedLockService]
) -> None:
    locks = connect_locks(Settings(redis_url=redis_url, lock_urls=urls_of(servers), lock_expiry=EXPIRY))
    claim = acquired(locks)
    servers[0].kill()

    (hold,) = locks.holds_of([EXECUTION])[EXECUTION]

    assert hold.holder.token == claim.token
    assert 0 < hold.seconds_left <= EXPIRY


@pytest.mark.parametrize("count", [3, 5])
def test_without_a_majority_the_lock_is_refused_and_not_called_held(
    all_servers: list[LockServer],
    redis_url: str,
    count: int,
    connect_locks: Callable[[Settings], DistributedLockService],
) -> None:
    servers = all_servers[:count]
    locks = connect_locks(Settings(redis_url=redis_url, lock_urls=urls_of(servers), lock_expiry=EXPIRY))
    lost, left = servers[: count // 2 + 1], servers[count // 2 + 1 :]
    for server in lost:
        server.kill()

    for operation in (locks.acquire_lock, locks.is_locked, locks.holders):
        with pytest.raises(
            CacheUnavailable, match=f"{count // 2} of {count} lock servers respond"
        ) as refusal:
            operation(EXECUTION)
    port = lost[0].url.rpartition(":")[2].partition("/")[0]
    assert f"127.0.0.1:{port}: ConnectionError" in str(refusal.value), "it names the server"
    assert "redis://" not in str(refusal.value), "without its password"
    assert values_on(left) == [None] * len(left), "what was taken is given back"


def test_a_claim_that_did_not_get_a_majority_is_taken_back_everywhere(
    locks: DistributedLockService, servers: list[LockServer]
) -> None:
    for server, stranger in zip(servers, (b"one", b"another"), strict=False):
        server.client.set(KEY, stranger, px=5000)

    with pytest.raises(CacheUnavailable, match="no claim to the lock got a majority"):
        locks.acquire_lock(EXECUTION)

    assert values_on(servers) == [b"one", b"another", None]


def test_the_holder_is_unknown_if_it_depends_on_a_server_that_is_away(
    locks: DistributedLockService, servers: list[LockServer]
) -> None:
    servers[0].client.set(KEY, b"perhaps the holder", px=5000)
    assert locks.value_of(EXECUTION) is None, "one of three is no holder"
    servers[2].kill()

    with pytest.raises(CacheUnavailable, match="depends on lock servers that do not respond"):
        locks.is_locked(EXECUTION)


# Renewal


def test_a_lock_is_renewed_on_all_servers_for_as_long_as_it_is_held(
    redis_url: str, servers: list[LockServer], connect_locks: Callable[[Settings], DistributedLockService]
) -> None:
    short = Settings(redis_url=redis_url, lock_urls=urls_of(servers), lock_expiry=0.9)
    locks = connect_locks(short)
    claim = acquired(locks)
    time.sleep(2 * short.lock_expiry)

    assert values_on(servers) == [claim.value] * 3
    locks.release_lock(claim)


def test_a_server_that_came_back_empty_is_given_the_lock_again_when_it_is_renewed(
    locks: DistributedLockService, others: DistributedLockService, servers: list[LockServer]
) -> None:
    claim = acquired(locks)
    for server in servers:
        server.kill()
        server.restart_empty()
        locks.renew()
        assert server.client.get(KEY) == claim.value
        assert others.acquire_lock(EXECUTION) is None

    locks.release_lock(claim)


def test_a_lock_is_kept_while_a_minority_names_another_holder(
    locks: DistributedLockService, servers: list[LockServer]
) -> None:
    claim = acquired(locks)
    servers[0].client.set(KEY, b"a stranger", px=5000)

    locks.renew()

    assert locks.is_locked_by_me(claim)
    servers[0].client.delete(KEY)
    locks.renew()
    assert values_on(servers) == [claim.value] * 3, "it is still renewed"
    locks.release_lock(claim)


def test_a_lock_whose_majority_was_restarted_empty_is_left_to_its_next_holder(
    locks: DistributedLockService, others: DistributedLockService, servers: list[LockServer]
) -> None:
    mine = acquired(locks)
    for server in servers[:2]:
        server.kill()
        server.restart_empty()
    theirs = acquired(others)

    locks.renew()
    assert servers[2].client.get(KEY) is None, "what is left of it is out of the new holder's way"
    others.renew()

    assert values_on(servers) == [theirs.value] * 3
    assert not locks.is_locked_by_me(mine)
    others.release_lock(theirs)
    locks.renew()
    assert values_on(servers) == [None] * 3, "a lock that was lost once is not taken again behind them"


def test_locks_that_could_not_be_renewed_are_renewed_once_a_majority_is_back(
    locks: DistributedLockService, servers: list[LockServer]
) -> None:
    claim = acquired(locks)
    for server in servers[:2]:
        server.kill()
    with pytest.raises(CacheUnavailable):
        locks.renew()

    for server in servers[:2]:
        server.restart_empty()
    poll(lambda: does(locks.renew) and locks.is_locked_by_me(claim), "a majority renews it again")

    assert values_on(servers) == [claim.value] * 3
    locks.release_lock(claim)


def test_a_server_that_is_full_counts_as_one_that_is_away(
    locks: DistributedLockService, others: DistributedLockService, servers: list[LockServer]
) -> None:
    claims = [locks.acquire_lock(name) for name in ("one", "another")]
    servers[0].client.config_set("maxmemory", 1)

    locks.renew()
    for claim in claims:
        assert claim is not None
        assert locks.is_locked_by_me(claim)
    third = acquired(others)
    assert values_on(servers) == [None, third.value, third.value]
    for claim in claims:
        assert claim is not None
        assert locks.release_lock(claim).was_ours
    others.release_lock(third)


# Servers that do not respond


def test_all_servers_are_asked_before_one_is_waited_for(
    redis_url: str, servers: list[LockServer], connect_locks: Callable[[Settings], DistributedLockService]
) -> None:
    patient = Settings(redis_url=redis_url, lock_urls=urls_of(servers), lock_expiry=100)
    locks = connect_locks(patient)
    locks.release_lock(acquired(locks))
    servers[0].freeze()

    acquiring = threading.Thread(target=locks.acquire_lock, args=(EXECUTION,))
    acquiring.start()
    poll(lambda: None not in values_on(servers[1:]), "both others have voted")
    assert acquiring.is_alive()

    servers[0].thaw()
    acquiring.join()
    assert None not in values_on(servers), "and it has taken the lock too"


def test_a_server_that_does_not_respond_is_waited_for_shortly_and_then_left_alone(
    locks: DistributedLockService, servers: list[LockServer]
) -> None:
    locks.release_lock(acquired(locks))
    servers[1].freeze()

    started = time.monotonic()
    claim = acquired(locks)
    first = time.monotonic() - started
    locks.release_lock(claim)
    started = time.monotonic()
    locks.release_lock(acquired(locks))
    second = time.monotonic() - started

    assert SERVER_TIMEOUT <= first < 4 * SERVER_TIMEOUT
    assert second < SERVER_TIMEOUT


def test_a_majority_that_does_not_respond_is_refused_in_bounded_time(
    locks: DistributedLockService, servers: list[LockServer]
) -> None:
    for server in servers[:2]:
        server.freeze()

    started = time.monotonic()
    with pytest.raises(CacheUnavailable, match="1 of 3 lock servers respond"):
        locks.acquire_lock(EXECUTION)

    assert time.monotonic() - started < 8 * SERVER_TIMEOUT


def test_a_reply_that_comes_too_late_is_not_taken_for_that_to_the_next_command(
    locks: DistributedLockService, servers: list[LockServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow_engine.redis.redlock.REST", 0)
    locks.release_lock(acquired(locks))
    servers[0].freeze()
    claim = acquired(locks)
    thawing = threading.Timer(SERVER_TIMEOUT / 2, servers[0].thaw)
    thawing.start()

    assert locks.is_locked_by_me(claim)

    thawing.join()
    servers[2].kill()
    assert locks.release_lock(claim).was_ours, "server 0 says so, whose answer is needed now"


def test_a_lock_that_took_too_long_to_take_does_not_count(
    locks: DistributedLockService, servers: list[LockServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Quorum._ask

    def ask_slowly(quorum: Quorum, *commands: tuple[str | bytes | int, ...]) -> list[list[object]]:
        answers = ask(quorum, *commands)
        clock[0] += EXPIRY
        return answers

    clock = [time.monotonic()]
    monkeypatch.setattr(Quorum, "_ask", ask_slowly)
    monkeypatch.setattr("workflow_engine.redis.redlock.time.monotonic", lambda: clock[0])

    with pytest.raises(CacheUnavailable):
        locks.acquire_lock(EXECUTION)

    assert values_on(servers) == [None] * 3


def test_a_lock_is_released_even_if_the_redis_of_the_contexts_is_away(
    servers: list[LockServer],
    all_servers: list[LockServer],
    connect_locks: Callable[[Settings], DistributedLockService],
) -> None:
    contexts = all_servers[3]
    locks = connect_locks(Settings(redis_url=contexts.url, lock_urls=urls_of(servers), redis_timeout=0.2))
    claim = acquired(locks)
    contexts.kill()

    with pytest.raises(CacheUnavailable):
        locks.release_lock(claim)

    assert values_on(servers) == [None] * 3
