"""The executor's contract with Postgres and Redis where nodes of one execution run at the same time."""

from __future__ import annotations

import dataclasses
import uuid
from types import SimpleNamespace

import orjson
import pytest

from contracts.moves_contract import rerun_of_first
from contracts.stores import Stores
from workflow_engine.execution.messages import QueuedMessage
from workflow_engine.execution.records import CommitResult, NodeCommit
from workflow_engine.execution.states import ExecutionStatus, NodeStatus
from workflow_engine.redis import contexts
from workflow_engine.redis.cached_context import CachedContext
from workflow_engine.redis.calls import Part
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock import Claim
from workflow_engine.redis.results import Abandoned, Full, Held, Late, LeaveResult, Missing


class SharedCommitsContract:
    """In every test the nodes `first`, `second` and `third` were entered on top of the start."""

    @pytest.fixture
    def execution(self, stores: Stores) -> str:
        return stores.start()

    def commit(self, stores: Stores, execution: str, node_id: str, **changes: object) -> NodeCommit:
        return stores.commit(execution, node_id=node_id, shared_since=1, **changes)

    def test_a_row_is_appended_behind_those_of_siblings_and_brings_them(
        self, stores: Stores, execution: str
    ) -> None:
        commits = [
            self.commit(stores, execution, node_id, variables=orjson.dumps({"last": node_id}))
            for node_id in ("first", "second", "third")
        ]

        answers = [stores.state.update_execution(commit) for commit in commits]

        assert [(answer.accepted, answer.seq) for answer in answers] == [(True, 2), (True, 3), (True, 4)]
        assert [_missed(answer) for answer in answers] == [[], ["first"], ["first", "second"]]
        assert answers[2].missed[1].variables == {"last": "second"}
        assert answers[2].fence == stores.snapshot(execution).fence == commits[2].token

    def test_an_appended_row_does_not_end_the_execution_which_is_settled_then(
        self, stores: Stores, execution: str
    ) -> None:
        last = self.commit(stores, execution, "second", execution_status=ExecutionStatus.COMPLETED)
        stores.state.update_execution(self.commit(stores, execution, "first"))

        answer = stores.state.update_execution(last)
        assert (answer.accepted, answer.status) == (True, ExecutionStatus.RUNNING)
        assert stores.state.settle(execution, ExecutionStatus.COMPLETED, str(uuid.uuid4())) is None

        assert stores.state.settle(execution, ExecutionStatus.COMPLETED, answer.fence) is not None
        assert stores.snapshot(execution).status is ExecutionStatus.COMPLETED

    def test_a_paused_execution_takes_appended_rows_and_is_not_settled(
        self, stores: Stores, execution: str
    ) -> None:
        second = self.commit(stores, execution, "second")
        stores.state.update_execution(self.commit(stores, execution, "first"))
        stores.state.update_execution_status(execution, ExecutionStatus.PAUSED)

        answer = stores.state.update_execution(second)

        assert (answer.accepted, answer.status) == (True, ExecutionStatus.PAUSED)
        assert stores.state.settle(execution, ExecutionStatus.WAITING, answer.fence) is None

    def test_a_failure_behind_siblings_ends_the_execution(self, stores: Stores, execution: str) -> None:
        fails = self.commit(
            stores,
            execution,
            "second",
            execution_status=ExecutionStatus.FAILED,
            status=NodeStatus.FAILED,
            handles=(),
            error="boom",
        )
        late = self.commit(stores, execution, "third")
        stores.state.update_execution(self.commit(stores, execution, "first"))

        answer = stores.state.update_execution(fails)

        assert (answer.accepted, answer.status) == (True, ExecutionStatus.FAILED)
        assert not stores.state.update_execution(late).accepted

    def test_a_commit_may_be_repeated_although_siblings_have_followed(
        self, stores: Stores, execution: str
    ) -> None:
        first, second = (self.commit(stores, execution, node_id) for node_id in ("first", "second"))
        third = self.commit(stores, execution, "third")
        for commit in (first, second, third):
            stores.state.update_execution(commit)

        answer = stores.state.update_execution(second)

        assert (answer.accepted, answer.seq, _missed(answer)) == (True, 3, ["first"])
        assert len(stores.snapshot(execution).journal) == 4

    def test_of_two_commits_of_one_node_the_second_is_refused(self, stores: Stores, execution: str) -> None:
        commits = [self.commit(stores, execution, node_id) for node_id in ("second", "first", "first")]

        answers = [stores.state.update_execution(commit) for commit in commits]

        assert [answer.accepted for answer in answers] == [True, True, False]

    def test_a_row_that_depends_on_the_order_is_not_appended_unseen(
        self, stores: Stores, execution: str
    ) -> None:
        unseen = self.commit(stores, execution, "second", ordered=("first",))
        stores.state.update_execution(self.commit(stores, execution, "first"))

        answer = stores.state.update_execution(unseen)
        assert (answer.accepted, answer.is_behind, _missed(answer)) == (False, True, ["first"])

        seen = dataclasses.replace(unseen, fence=answer.fence, shared_since=answer.seq)
        assert stores.state.update_execution(seen).accepted

    def test_after_a_rerun_no_row_follows_the_journal_from_before(
        self, stores: Stores, execution: str
    ) -> None:
        late = self.commit(stores, execution, "second")
        stores.state.update_execution(self.commit(stores, execution, "first"))
        stores.moves.write(execution, rerun_of_first(stores, execution))

        assert not stores.state.update_execution(late).accepted

    def test_after_a_rerun_rows_follow_one_another_again(self, stores: Stores, execution: str) -> None:
        stores.state.update_execution(self.commit(stores, execution, "first"))
        stores.moves.write(execution, rerun_of_first(stores, execution))
        since = stores.snapshot(execution).seq
        commits = [
            stores.commit(execution, node_id=node_id, visit=2, shared_since=since)
            for node_id in ("first", "second")
        ]

        answers = [stores.state.update_execution(commit) for commit in commits]

        assert [(answer.accepted, _missed(answer)) for answer in answers] == [(True, []), (True, ["first"])]


def fence(seq: int) -> bytes:
    return f"00000000-0000-0000-0000-{seq:012}".encode()


WALK = b'{"due":["second","third","fourth"]}'


class PlacesContract:
    """In every test `first` is done, and of `second`, `third` and `fourth` two may run at the same time."""

    @pytest.fixture
    def uncached(self, stores: Stores) -> str:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution))
        return execution

    @pytest.fixture
    def execution(self, stores: Stores, uncached: str) -> str:
        claim = self.claim(stores, uncached, "second")
        assert stores.cache.enter(claim, "second", 2, ()) == Missing()
        assert stores.cache.cache_context(claim, stores.snapshot(uncached), WALK)
        assert stores.locks.release_lock(claim).was_ours
        return uncached

    def claim(self, stores: Stores, execution: str, node_id: str) -> Claim:
        return stores.locks.new_claim(execution, f"task-{node_id}", node_id, places=2)

    def enter(self, stores: Stores, execution: str, node_id: str) -> Claim:
        claim = self.claim(stores, execution, node_id)
        assert isinstance(stores.cache.enter(claim, node_id, 2, ("first",)), CachedContext)
        return claim

    def leave(
        self, stores: Stores, claim: Claim, seq: int, between: dict[int, str] | None = None
    ) -> LeaveResult:
        changed = {
            b"fence": fence(seq),
            b"walk": b'{"due":["fourth"]}',
            b"output:" + claim.place.encode(): str(seq).encode(),
        }
        return stores.cache.add_to_context(claim, 2, seq, changed, ["fourth"], between or {})

    def leave_together(self, stores: Stores, second: Claim, third: Claim) -> LeaveResult:
        """Leave two nodes that were committed at 4 and 5, behind another that has yet to leave."""
        state = {b"fence": fence(5), b"walk": b'{"due":["fourth"]}'}
        parts = [
            Part(second, 4, {b"output:second": b"4"}),
            Part(third, 5, {**state, b"output:third": b"5"}),
        ]
        return stores.cache.add_jointly(parts, 2, ["fourth"], {3: "other"})

    def test_each_node_takes_a_place_of_its_own(self, stores: Stores, execution: str) -> None:
        second, third = (self.enter(stores, execution, node_id) for node_id in ("second", "third"))

        assert stores.locks.is_locked_by_me(second)
        assert stores.locks.is_locked_by_me(third)
        assert {holder.place for holder in stores.locks.holders(execution)} == {"second", "third"}
        another = self.claim(stores, execution, "second")
        assert stores.cache.enter(another, "second", 2, ()) == Held(second.value)

    def test_a_late_message_takes_none(self, stores: Stores, execution: str) -> None:
        assert stores.cache.enter(self.claim(stores, execution, "first"), "first", 1, ()) == Late()
        assert not stores.locks.is_locked(execution)

    def test_a_node_that_finds_all_places_taken_is_told_to_the_next_that_leaves(
        self, stores: Stores, execution: str
    ) -> None:
        second = self.enter(stores, execution, "second")
        self.enter(stores, execution, "third")
        assert stores.cache.enter(self.claim(stores, execution, "fourth"), "fourth", 2, ()) == Full()

        assert list(self.leave(stores, second, 3).turned_away) == ["fourth"]
        self.enter(stores, execution, "fourth")

    def test_siblings_leave_in_any_order(self, stores: Stores, execution: str) -> None:
        second, third = (self.enter(stores, execution, node_id) for node_id in ("second", "third"))

        assert self.leave(stores, third, 4, {3: "second"}).was_updated
        assert self.leave(stores, second, 3).was_updated

        fields = stores.context(execution)
        assert (fields[b"seq"], fields[b"fence"]) == (b"4", fence(4))
        assert (fields[b"output:second"], fields[b"output:third"]) == (b"3", b"4")
        assert (fields[b"gaps"], fields[b"size"]) == (b"{}", str(len(fields)).encode())
        assert not stores.locks.is_locked(execution)

    def test_nodes_that_leave_together_give_back_their_places_and_add_their_outputs(
        self, stores: Stores, execution: str
    ) -> None:
        second, third = (self.enter(stores, execution, node_id) for node_id in ("second", "third"))
        stores.locks.mark_contended(execution, "second")

        left = self.leave_together(stores, second, third)

        assert (left.was_updated, left.was_contended) == (True, True)
        fields = stores.context(execution)
        assert (fields[b"seq"], fields[b"fence"]) == (b"5", fence(5))
        assert (fields[b"output:second"], fields[b"output:third"]) == (b"4", b"5")
        assert (fields[b"gaps"], fields[b"size"]) == (b'{"3":"other"}', str(len(fields)).encode())
        assert not stores.locks.is_locked(execution)
        assert stores.cache.in_hand_since(execution).keys() == {"fourth"}
        assert [stores.cache.abandoned_run(execution, each) for each in ("second", "third")] == [None, None]

    def test_nodes_that_leave_together_after_a_later_commit_fill_the_gaps_that_they_were(
        self, stores: Stores, execution: str
    ) -> None:
        second, third = (self.enter(stores, execution, node_id) for node_id in ("second", "third"))
        later = self.claim(stores, execution, "fourth")
        between = {3: "other", 4: "second", 5: "third"}
        assert self.leave(stores, later, 6, between).was_updated

        assert self.leave_together(stores, second, third).was_updated

        fields = stores.context(execution)
        assert (fields[b"seq"], fields[b"fence"]) == (b"6", fence(6))
        assert (fields[b"output:second"], fields[b"output:third"]) == (b"4", b"5")
        assert (fields[b"gaps"], fields[b"size"]) == (b'{"3":"other"}', str(len(fields)).encode())

    def test_who_needs_a_sibling_that_has_not_left_rebuilds_the_context_and_others_do_not(
        self, stores: Stores, execution: str
    ) -> None:
        self.enter(stores, execution, "second")
        self.leave(stores, self.enter(stores, execution, "third"), 4, {3: "second"})
        fourth = self.claim(stores, execution, "fourth")

        assert stores.cache.enter(fourth, "fourth", 4, ("second",)) == Missing()
        assert stores.locks.release_lock(fourth).was_ours
        assert isinstance(stores.cache.enter(fourth, "fourth", 4, ("third",)), CachedContext)
        assert stores.cache.read_whole(execution) is None

    def test_who_finds_no_context_waits_for_a_sibling_that_rebuilds_it(
        self, stores: Stores, uncached: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        second, third = (self.claim(stores, uncached, node_id) for node_id in ("second", "third"))
        assert stores.cache.enter(second, "second", 2, ()) == Missing()
        snapshot = stores.snapshot(uncached)

        def rebuild(_seconds: float) -> None:
            assert stores.cache.cache_context(second, snapshot, WALK)

        monkeypatch.setattr(contexts, "time", SimpleNamespace(sleep=rebuild))
        assert isinstance(stores.cache.enter(third, "third", 2, ("first",)), CachedContext)

    def test_who_finds_no_context_and_no_sibling_that_rebuilds_it_soon_does_so(
        self, stores: Stores, uncached: str
    ) -> None:
        second, third = (self.claim(stores, uncached, node_id) for node_id in ("second", "third"))
        assert stores.cache.enter(second, "second", 2, ()) == Missing()

        assert stores.cache.enter(third, "third", 2, ("first",)) == Missing()

    def test_a_rebuilt_context_does_not_take_the_place_of_a_newer_one(
        self, stores: Stores, execution: str
    ) -> None:
        older = stores.snapshot(execution)
        second = self.enter(stores, execution, "second")
        self.leave(stores, self.enter(stores, execution, "third"), 3)

        assert stores.cache.cache_context(second, older, WALK, replaces_newer=False)
        assert stores.context(execution)[b"seq"] == b"3"
        assert stores.cache.cache_context(second, older, WALK)
        assert stores.context(execution)[b"seq"] == b"2"

    def test_a_context_that_is_behind_what_was_entered_is_deleted_on_leaving(
        self, stores: Stores, execution: str
    ) -> None:
        second = self.enter(stores, execution, "second")
        stores.redis.hset(Keys.of(stores.settings).context(execution), "seq", 1)

        assert not self.leave(stores, second, 3).was_updated
        assert stores.context(execution) == {}

    def test_the_mark_of_a_dead_process_is_returned_to_the_next_that_enters_its_node_and_no_other(
        self, stores: Stores, execution: str
    ) -> None:
        dead = self.enter(stores, execution, "second")
        stores.redis.delete(Keys.of(stores.settings).lock(execution, "second"))

        third = stores.cache.enter(self.claim(stores, execution, "third"), "third", 2, ())
        again = stores.cache.enter(self.claim(stores, execution, "second"), "second", 2, ())

        assert isinstance(third, CachedContext)
        assert third.abandoned is None
        assert isinstance(again, CachedContext)
        assert again.abandoned == Abandoned(dead.value, 2)

    def test_a_node_in_hand_that_nobody_has_entered_for_long_is_overdue_once(
        self, stores: Stores, execution: str
    ) -> None:
        second, third = (self.enter(stores, execution, node_id) for node_id in ("second", "third"))
        assert list(self.leave(stores, second, 3).overdue) == []
        stores.redis.zadd(Keys.of(stores.settings).in_hand(execution), {"fourth": -1e6})

        assert list(self.leave(stores, third, 4).overdue) == ["fourth"]

    def test_leaving_sends_its_messages_and_may_be_repeated(self, stores: Stores, execution: str) -> None:
        second = self.enter(stores, execution, "second")
        message = QueuedMessage("queue", b"message")

        for _ in range(2):
            left = stores.cache.add_to_context(second, 2, 3, {b"fence": "3"}, [], {}, [message, message])

            assert (left.was_updated, left.has_sent) == (True, True)
        assert stores.context(execution)[b"seq"] == b"3"


def _missed(answer: CommitResult) -> list[str]:
    return [row.entry.node_id for row in answer.missed]
