"""Redlock: the lock outlives the loss of a minority of its servers, and without a majority it is refused.

Refused is not held: whoever cannot reach a majority gives its message back, and nothing is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
import redis
from lock_server import EXPIRY, LockServer, does, until, urls_of

from workflow_engine import Settings
from workflow_engine.errors import CacheUnavailable
from workflow_engine.lock import Claim, DistributedLockService
from workflow_engine.lock_servers import Quorum

EXECUTION = "01890000-0000-7000-8000-000000000001"
KEY = f"lock:execution:{EXECUTION}"
PATIENCE = EXPIRY / 50
"""Seconds that a lock server is waited for, with that expiry."""


@pytest.fixture
def new_locks(
    redis_url: str, servers: list[LockServer], connect_locks: Callable[[Settings], DistributedLockService]
) -> Callable[[], DistributedLockService]:
    """Makes services that stand for processes."""
    settings = Settings(redis_url=redis_url, lock_urls=urls_of(servers), lock_expiry=EXPIRY)
    return lambda: connect_locks(settings)


@pytest.fixture
def locks(new_locks: Callable[[], DistributedLockService]) -> DistributedLockService:
    return new_locks()


@pytest.fixture
def others(new_locks: Callable[[], DistributedLockService]) -> DistributedLockService:
    """The locks of another process."""
    return new_locks()


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

    assert locks.release_lock(claim)
    assert values_on(servers) == [None] * 3
    assert not locks.release_lock(claim), "and not twice"
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
    assert locks.release_lock(before)

    after = acquired(others)
    assert locks.acquire_lock(EXECUTION) is None
    assert others.release_lock(after)
    assert values_on(servers[count // 2 :]) == [None] * (count // 2 + 1)


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

    for operation in (locks.acquire_lock, locks.is_locked, locks.held_by):
        with pytest.raises(CacheUnavailable, match=f"{count // 2} of {count} lock servers answer") as refusal:
            operation(EXECUTION)
    port = lost[0].url.rpartition(":")[2].partition("/")[0]
    assert f"127.0.0.1:{port}: ConnectionError" in str(refusal.value), "the operator is told which"
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


def test_who_holds_the_lock_cannot_be_told_if_it_depends_on_a_server_that_is_away(
    locks: DistributedLockService, servers: list[LockServer]
) -> None:
    servers[0].client.set(KEY, b"perhaps the holder", px=5000)
    assert locks.value_of(EXECUTION) is None, "one of three is no holder"
    servers[2].kill()

    with pytest.raises(CacheUnavailable, match="depends on lock servers that do not answer"):
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


def test_a_lock_is_kept_while_a_minority_says_that_it_is_somebody_elses(
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


def test_a_lock_whose_majority_was_restarted_empty_is_left_to_who_takes_it_then(
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
    until(lambda: does(locks.renew) and locks.is_locked_by_me(claim))

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
        assert locks.release_lock(claim)
    others.release_lock(third)


# Servers that keep silent


def test_all_servers_are_asked_before_one_is_waited_for(
    redis_url: str, servers: list[LockServer], connect_locks: Callable[[Settings], DistributedLockService]
) -> None:
    patient = Settings(redis_url=redis_url, lock_urls=urls_of(servers), lock_expiry=100)
    locks = connect_locks(patient)
    locks.release_lock(acquired(locks))
    servers[0].freeze()

    acquiring = threading.Thread(target=locks.acquire_lock, args=(EXECUTION,))
    acquiring.start()
    until(lambda: None not in values_on(servers[1:]))
    assert acquiring.is_alive()

    servers[0].thaw()
    acquiring.join()
    assert None not in values_on(servers), "and it has taken the lock too"


def test_a_server_that_keeps_silent_is_waited_for_shortly_and_then_left_alone(
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

    assert PATIENCE <= first < 4 * PATIENCE
    assert second < PATIENCE


def test_a_majority_that_keeps_silent_is_refused_in_bounded_time(
    locks: DistributedLockService, servers: list[LockServer]
) -> None:
    for server in servers[:2]:
        server.freeze()

    started = time.monotonic()
    with pytest.raises(CacheUnavailable, match="1 of 3 lock servers answer"):
        locks.acquire_lock(EXECUTION)

    assert time.monotonic() - started < 8 * PATIENCE


def test_an_answer_that_comes_too_late_is_not_taken_for_that_to_the_next_question(
    locks: DistributedLockService, servers: list[LockServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow_engine.lock_servers.REST", 0)
    locks.release_lock(acquired(locks))
    servers[0].freeze()
    claim = acquired(locks)
    thawing = threading.Timer(PATIENCE / 2, servers[0].thaw)
    thawing.start()

    assert locks.is_locked_by_me(claim)

    thawing.join()
    servers[2].kill()
    assert locks.release_lock(claim), "server 0 says so, whose answer is needed now"


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
    monkeypatch.setattr("workflow_engine.lock_servers.time.monotonic", lambda: clock[0])

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
