"""The executor's contract with Redis: the real server keeps it, and so does the one in memory.

The scripts are the same in both; only the commands below them could differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from contracts.stores import Stores
from workflow_engine.redis.cached_context import CachedContext, content_fields, progress_fields
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock import Claim, Unlocked
from workflow_engine.redis.results import Abandoned, Held, Late, Missing

WALK = b'{"due":["second"]}'
NEXT = {
    **progress_fields("fence-3", b'{"due":["third"]}', "second"),
    **content_fields(3, "second", b"2", b'{"currency":"CHF"}'),
}

SPOILED: dict[str, Callable[[Any, str], Any]] = {
    "gone": lambda client, key: client.delete(key),
    "older": lambda client, key: client.hset(key, "seq", 1),
    "newer": lambda client, key: client.hset(key, "seq", 7),
    "partial": lambda client, key: client.hdel(key, "output:first"),
    "without seq": lambda client, key: client.hdel(key, "seq"),
    "without size": lambda client, key: client.hdel(key, "size"),
}


UNLOCKING: dict[str, Callable[[Stores, Claim], Any]] = {
    "leave": lambda stores, claim: stores.cache.update_context(claim, 2, 3, NEXT),
    "finish": lambda stores, claim: stores.cache.finish(claim, "COMPLETED"),
    "discard": lambda stores, claim: stores.cache.discard(claim),
    "release": lambda stores, claim: stores.locks.release_lock(claim),
    "release of a dead process": lambda stores, claim: stores.locks.release_abandoned(claim),
}
OLD_OR_PARTIAL = {how: spoil for how, spoil in SPOILED.items() if how != "newer"}


class RedisContract:
    """Contexts and locks. In every test the node `first` is done, and `second` is due."""

    @pytest.fixture
    def execution(self, stores: Stores) -> str:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution))
        return execution

    @pytest.fixture
    def claim(self, stores: Stores, execution: str) -> Claim:
        """Return the claim of a worker that arrives when the context is cached and the lock is free."""
        first = stores.locks.new_claim(execution)
        assert stores.cache.enter(first, "second", 2, ()) == Missing()
        assert stores.cache.cache_context(first, stores.snapshot(execution), WALK)
        assert stores.locks.release_lock(first).was_ours
        return stores.locks.new_claim(execution, "task-1")

    def test_entering_takes_the_lock_and_reads_what_is_needed(
        self, stores: Stores, execution: str, claim: Claim
    ) -> None:
        for _ in range(2):
            entered = stores.cache.enter(claim, "second", 2, ("start", "first", "second"))

            assert isinstance(entered, CachedContext)
            assert (entered.seq, entered.walk, entered.abandoned) == (2, WALK, None)
            assert entered.fence == stores.snapshot(execution).fence
            assert entered.outputs == {"start": {"orderId": 42}, "first": {"a": 1}}
            assert entered.absent == {"second"}
            assert orjson.loads(entered.variables) == {"currency": "EUR"}
            assert entered.identity["priority"] == 4
        assert stores.locks.is_locked_by_me(claim)
        assert stores.context(execution)[b"mark"] == claim.value

    def test_a_worker_that_enters_late_or_meets_the_lock_changes_nothing(
        self, stores: Stores, execution: str, claim: Claim
    ) -> None:
        before = stores.context(execution)
        assert stores.cache.enter(claim, "first", 1, ()) == Late()
        assert (stores.context(execution), stores.locks.is_locked(execution)) == (before, False)
        assert isinstance(stores.cache.enter(claim, "second", 1, ()), CachedContext), "due is never late"

        before = stores.context(execution)
        other = stores.locks.new_claim(execution)
        assert stores.cache.enter(other, "second", 2, ()) == Held(claim.value)
        assert (stores.context(execution), stores.locks.is_locked_by_me(claim)) == (before, True)

    @pytest.mark.parametrize("spoil", OLD_OR_PARTIAL.values(), ids=OLD_OR_PARTIAL)
    def test_a_context_that_is_old_or_not_whole_is_missing(
        self, stores: Stores, execution: str, claim: Claim, spoil: Callable[[Any, str], Any]
    ) -> None:
        spoil(stores.redis, Keys.of(stores.settings).context(execution))

        assert stores.cache.enter(claim, "second", 2, ()) == Missing()
        assert stores.locks.is_locked_by_me(claim)

    def test_a_mark_that_was_left_behind_is_returned_to_the_next_worker(
        self, stores: Stores, execution: str, claim: Claim
    ) -> None:
        stores.cache.enter(claim, "second", 2, ())
        stores.redis.delete(Keys.of(stores.settings).lock(execution))
        assert stores.cache.abandoned_run(execution) == Abandoned(claim.value, 2)

        entered = stores.cache.enter(stores.locks.new_claim(execution), "second", 2, ())

        assert isinstance(entered, CachedContext)
        assert entered.abandoned == Abandoned(claim.value, 2)

    def test_caching_needs_the_lock(self, stores: Stores, execution: str, claim: Claim) -> None:
        before = stores.context(execution)

        assert not stores.cache.cache_context(claim, stores.snapshot(execution), b"{}")
        assert stores.context(execution) == before

    def test_leaving_brings_the_context_up_to_the_journal_and_unlocks(
        self, stores: Stores, execution: str, claim: Claim
    ) -> None:
        stores.cache.enter(claim, "second", 2, ())

        for _ in range(2):
            left = stores.cache.update_context(claim, 2, 3, NEXT)
            assert (left.was_updated, left.was_contended) == (True, False)
        fields = stores.context(execution)
        assert (fields[b"seq"], fields[b"fence"], fields[b"output:second"]) == (b"3", b"fence-3", b"2")
        assert fields[b"size"] == str(len(fields)).encode()
        assert b"mark" not in fields
        assert not stores.locks.is_locked(execution)

    @pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
    def test_leaving_never_patches_or_creates_what_is_not_as_it_was_entered(
        self, stores: Stores, execution: str, claim: Claim, spoil: Callable[[Any, str], Any]
    ) -> None:
        stores.cache.enter(claim, "second", 2, ())
        spoil(stores.redis, Keys.of(stores.settings).context(execution))

        assert not stores.cache.update_context(claim, 2, 3, NEXT).was_updated
        assert stores.context(execution) == {}
        assert not stores.locks.is_locked(execution)

    def test_leaving_and_finishing_keep_the_lock_of_another(
        self, stores: Stores, execution: str, claim: Claim
    ) -> None:
        stores.cache.enter(claim, "second", 2, ())
        stores.redis.delete(Keys.of(stores.settings).lock(execution))
        theirs = stores.other_locks.acquire_lock(execution)
        assert theirs is not None

        stores.cache.update_context(claim, 2, 3, NEXT)
        stores.cache.finish(claim, "COMPLETED")
        assert not stores.cache.discard(claim).was_ours

        assert stores.other_locks.is_locked_by_me(theirs)
        stores.other_locks.release_lock(theirs)

    def test_discarding_and_finishing_clear_everything(
        self, stores: Stores, execution: str, claim: Claim
    ) -> None:
        stores.cache.enter(claim, "second", 2, ())
        assert [stores.cache.discard(claim).was_ours for _ in range(2)] == [True, False]
        assert (stores.context(execution), stores.locks.is_locked(execution)) == ({}, False)

        stores.cache.enter(claim, "second", 2, ())
        stores.locks.mark_contended(execution)
        assert stores.cache.finish(claim, "COMPLETED") == Unlocked(was_ours=True, was_contended=True)
        assert not stores.locks.clear_contended(execution)
        assert not stores.locks.is_locked(execution)

    @pytest.mark.parametrize("unlock", UNLOCKING.values(), ids=UNLOCKING)
    def test_every_call_that_unlocks_reports_a_waiter_once(
        self, stores: Stores, execution: str, claim: Claim, unlock: Callable[[Stores, Claim], Any]
    ) -> None:
        stores.cache.enter(claim, "second", 2, ())
        assert stores.other_locks.acquire_or_mark_contended(execution) is None

        assert [unlock(stores, claim).was_contended for _ in range(2)] == [True, False]

    def test_a_waiter_that_gets_the_lock_after_all_is_not_waited_for(
        self, stores: Stores, execution: str, claim: Claim
    ) -> None:
        stores.cache.enter(claim, "second", 2, ())
        stores.locks.mark_contended(execution)
        stores.redis.delete(Keys.of(stores.settings).lock(execution))

        theirs = stores.other_locks.acquire_or_mark_contended(execution)

        assert theirs is not None
        assert not stores.other_locks.release_lock(theirs).was_contended

    def test_a_late_message_that_met_the_lock_gets_other_waiters_reported(
        self, stores: Stores, execution: str, claim: Claim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stores.cache.enter(claim, "second", 2, ())
        mark_contended = stores.locks.mark_contended

        def mark_too_late(execution_id: str, place: str) -> None:
            stores.cache.update_context(claim, 2, 3, NEXT)
            mark_contended(execution_id, place)

        monkeypatch.setattr(stores.locks, "mark_contended", mark_too_late)

        late = stores.locks.new_claim(execution)
        assert stores.cache.enter(late, "second", 2, ()) == Late(was_contended=True)
        assert not stores.locks.clear_contended(execution)

    def test_further_outputs_are_those_of_the_context_that_was_entered(
        self, stores: Stores, execution: str, claim: Claim
    ) -> None:
        entered = stores.cache.enter(claim, "second", 2, ("second",))
        assert isinstance(entered, CachedContext)
        key = Keys.of(stores.settings).context(execution)
        assert stores.cache.output_loader(entered)("start") == {"orderId": 42}
        stores.redis.hset(key, "output:first", b"9")
        assert stores.cache.output_loader(entered)("first") == 9

        stores.redis.hset(key, "seq", 7)
        load = stores.cache.output_loader(replace(entered, encoded={}))  # as if none had been read

        assert load("first") == {"a": 1}, "from Postgres"
        for nobody in ("second", "third"):
            with pytest.raises(KeyError):
                load(nobody)

    def test_a_lock_is_held_by_one_at_a_time(self, stores: Stores, execution: str) -> None:
        mine = stores.locks.acquire_lock(execution)
        assert mine is not None
        assert stores.other_locks.acquire_lock(execution) is None
        assert stores.other_locks.value_of(execution) == mine.value

        assert stores.locks.release_lock(mine).was_ours
        assert not stores.locks.release_lock(mine).was_ours
        theirs = stores.other_locks.acquire_lock(execution)
        assert theirs is not None
        assert not stores.locks.release_lock(mine).was_ours, "a claim never releases the lock of another"
        assert stores.other_locks.release_lock(theirs).was_ours

    def test_a_renewal_takes_back_a_lock_without_a_holder(self, stores: Stores, execution: str) -> None:
        key = Keys.of(stores.settings).lock(execution)
        mine = stores.locks.acquire_lock(execution)
        assert mine is not None
        stores.redis.delete(key)
        stores.locks.renew()
        assert stores.locks.is_locked_by_me(mine)

        stores.redis.delete(key)
        theirs = stores.other_locks.acquire_lock(execution)
        assert theirs is not None
        stores.locks.renew()
        assert stores.other_locks.is_locked_by_me(theirs)
        assert stores.other_locks.release_lock(theirs).was_ours
        stores.locks.renew()
        assert not stores.locks.is_locked(execution), "what was lost once is not taken again"

    def test_releasing_the_lock_of_a_dead_process_removes_its_mark(
        self, stores: Stores, execution: str, claim: Claim
    ) -> None:
        stores.cache.enter(claim, "second", 2, ())

        assert stores.other_locks.release_abandoned(claim).was_ours

        assert b"mark" not in stores.context(execution)
        assert not stores.locks.is_locked(execution)
