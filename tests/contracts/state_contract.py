"""The executor's contract with Postgres: the real services keep it, and so do those in memory."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import datetime

import orjson
import pytest

from contracts.stores import Stores
from workflow_engine.errors import ExecutionNotFound, IllegalMove
from workflow_engine.execution.records import BegunRun, Crashes, NewWait, NodeCommit
from workflow_engine.execution.states import LEGAL_MOVES, ExecutionStatus, NodeStatus, WaitStatus, WaitType

NOBODY = "01890000-0000-7000-8000-00000000dead"


class StateContract:
    """Executions and their journal."""

    def test_a_start_writes_the_row_of_its_trigger(self, stores: Stores) -> None:
        snapshot = stores.snapshot(stores.start())

        assert (snapshot.status, snapshot.seq) == (ExecutionStatus.PENDING, 1)
        assert (snapshot.queue, snapshot.priority) == ("orders", 4)
        assert (snapshot.workflow_id, snapshot.version) == ("contract", 1)
        assert (snapshot.trigger_id, snapshot.trigger_node_id) == (stores.trigger_id, "start")
        assert (snapshot.crashes, snapshot.visits, snapshot.format) == ({}, {}, 1)
        assert snapshot.metadata.keys() == {"from", "startedAt"}
        (row,) = snapshot.journal
        entry = row.entry
        assert (entry.seq, entry.node_id, entry.visit, entry.attempt) == (1, "start", 1, 1)
        assert (entry.status, entry.handles, entry.waits) == (NodeStatus.COMPLETED, ("",), False)
        assert (orjson.loads(row.output or b""), row.variables) == ({"orderId": 42}, {"currency": "EUR"})

    def test_a_commit_appends_a_row_and_takes_the_fence(self, stores: Stores) -> None:
        execution = stores.start()
        commit = stores.commit(execution, variables=b'{"paid":true}', handles=("true",), attempt=2)

        answer = stores.state.update_execution(commit)

        assert (answer.accepted, answer.seq, answer.fence) == (True, 2, commit.token)
        assert (answer.status, answer.wake_requested) == (ExecutionStatus.RUNNING, False)
        snapshot = stores.snapshot(execution)
        assert (snapshot.fence, snapshot.seq, snapshot.status) == (commit.token, 2, ExecutionStatus.RUNNING)
        row = snapshot.journal[1]
        assert (row.entry.seq, row.entry.node_id, row.entry.attempt) == (2, "first", 2)
        assert (row.entry.handles, row.variables) == (("true",), {"paid": True})
        assert orjson.loads(row.output or b"") == {"a": 1}

    def test_a_commit_keeps_its_handles_as_they_are(self, stores: Stores) -> None:
        execution = stores.start()
        handles = ("", "a,b", 'say "hi"', "back\\slash", "{braces}", "NULL", " é\n")

        stores.state.update_execution(stores.commit(execution, handles=handles))

        assert stores.snapshot(execution).journal[1].entry.handles == handles

    def test_a_commit_with_an_old_fence_is_refused_and_changes_nothing(self, stores: Stores) -> None:
        execution = stores.start()
        late = stores.commit(execution, output=b"2")
        winner = stores.commit(execution)
        stores.state.update_execution(winner)
        before = dataclasses.replace(stores.snapshot(execution), read_at=datetime.max)

        answer = stores.state.update_execution(late)

        assert (answer.accepted, answer.seq, answer.fence) == (False, 2, winner.token)
        assert dataclasses.replace(stores.snapshot(execution), read_at=datetime.max) == before

    @pytest.mark.parametrize(
        "status", [ExecutionStatus.RUNNING, ExecutionStatus.COMPLETED, ExecutionStatus.FAILED]
    )
    def test_a_commit_may_be_repeated(self, stores: Stores, status: ExecutionStatus) -> None:
        execution = stores.start()
        is_failed = status is ExecutionStatus.FAILED
        commit = stores.commit(
            execution,
            execution_status=status,
            status=NodeStatus.FAILED if is_failed else NodeStatus.COMPLETED,
            error="boom" if is_failed else None,
        )

        answers = [stores.state.update_execution(commit) for _ in range(3)]

        assert [(each.accepted, each.seq, each.status) for each in answers] == [(True, 2, status)] * 3
        assert len(stores.snapshot(execution).journal) == 2

    def test_a_finished_execution_takes_no_further_commit(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution, execution_status=ExecutionStatus.COMPLETED))

        answer = stores.state.update_execution(stores.commit(execution, node_id="second"))

        assert (answer.accepted, answer.seq, answer.status) == (False, 2, ExecutionStatus.COMPLETED)

    def test_a_paused_execution_keeps_its_pause_unless_it_ends(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution_status(execution, ExecutionStatus.PAUSED)

        paused = stores.state.update_execution(stores.commit(execution))
        ended = stores.state.update_execution(
            stores.commit(execution, node_id="second", execution_status=ExecutionStatus.COMPLETED)
        )

        assert (paused.accepted, paused.status) == (True, ExecutionStatus.PAUSED)
        assert (ended.accepted, ended.status) == (True, ExecutionStatus.COMPLETED)

    def test_a_retry_says_whether_it_waits(self, stores: Stores) -> None:
        execution = stores.start()
        for wait_ms in (0, 200):
            stores.state.update_execution(
                stores.commit(
                    execution,
                    status=NodeStatus.RETRYING,
                    handles=(),
                    output=None,
                    error="boom",
                    retry_details={"nextAttempt": 2, "waitMs": wait_ms},
                )
            )

        rows = stores.snapshot(execution).journal[1:]
        assert [(row.entry.status, row.entry.waits) for row in rows] == [
            (NodeStatus.RETRYING, False),
            (NodeStatus.RETRYING, True),
        ]

    def test_a_retry_names_the_rule_that_allows_it(self, stores: Stores) -> None:
        execution = stores.start()
        for retry_details in ({"nextAttempt": 2, "waitMs": 5, "rule": 3}, {"nextAttempt": 3, "waitMs": 0}):
            stores.state.update_execution(
                stores.commit(
                    execution,
                    status=NodeStatus.RETRYING,
                    handles=(),
                    output=None,
                    error="boom",
                    retry_details=retry_details,
                )
            )

        assert [row.entry.rule for row in stores.snapshot(execution).journal] == [None, 3, None]

    def test_the_output_of_a_node_is_that_of_its_final_row(self, stores: Stores) -> None:
        execution = stores.start()
        assert stores.state.load_output(execution, "first") is None

        stores.state.update_execution(stores.commit(execution))

        assert orjson.loads(stores.state.load_output(execution, "first") or b"") == {"a": 1}
        assert orjson.loads(stores.state.load_output(execution, "start") or b"") == {"orderId": 42}
        assert stores.state.load_output(NOBODY, "first") is None

    @pytest.mark.parametrize("wanted", ExecutionStatus)
    def test_moves_outside_of_a_hop_are_legal_ones_and_an_end_takes_the_fence(
        self, stores: Stores, wanted: ExecutionStatus
    ) -> None:
        execution = stores.start()
        fence = stores.snapshot(execution).fence

        if wanted in LEGAL_MOVES[ExecutionStatus.PENDING]:
            stores.state.update_execution_status(execution, wanted)
            assert stores.state.status_of(execution) is wanted
            assert (stores.snapshot(execution).fence != fence) == wanted.is_finished
        else:
            with pytest.raises(IllegalMove):
                stores.state.update_execution_status(execution, wanted)

    def test_crashes_of_a_node_count_until_it_is_committed(self, stores: Stores) -> None:
        execution = stores.start()

        counted = [stores.state.count_crash(execution, "first", 1, what).count for what in ("once", "twice")]
        stores.state.count_crash(execution, "second", 1, "elsewhere")

        assert counted == [1, 2]
        both = {"first": Crashes(2, "twice"), "second": Crashes(1, "elsewhere")}
        assert stores.snapshot(execution).crashes == both
        stores.state.update_execution(stores.commit(execution))
        assert stores.snapshot(execution).crashes == {"second": Crashes(1, "elsewhere")}

    def test_a_run_is_marked_once_until_its_node_is_committed(self, stores: Stores) -> None:
        execution = stores.start()
        first, second = (BegunRun(token, 1, "here:1", "2026-01-01T00:00:00Z") for token in ("a", "b"))

        marked = [stores.state.mark_begun(execution, "first", 1, run) for run in (first, first, second)]
        elsewhere = stores.state.mark_begun(execution, "second", 1, second)

        assert (marked, elsewhere) == ([first] * 3, second)
        assert stores.state.count_crash(execution, "first", 1, "lost").count == 1
        assert stores.snapshot(execution).crashes == {
            "first": Crashes(1, "lost", first),
            "second": Crashes(begun=second),
        }
        stores.state.update_execution(stores.commit(execution))
        assert stores.snapshot(execution).crashes == {"second": Crashes(begun=second)}
        assert stores.state.mark_begun(execution, "first", 1, first) is None, "it was committed after that"
        assert stores.state.mark_begun(execution, "first", 2, second) == second

    def test_a_mark_of_an_earlier_visit_does_not_count(self, stores: Stores) -> None:
        execution = stores.start()
        stale, present = (BegunRun(f"of {n}", n, "here:1", "2026-01-01T00:00:00Z") for n in (1, 2))
        stores.state.mark_begun(execution, "first", 1, stale)

        assert stores.state.mark_begun(execution, "first", 1, present) == present
        assert stores.state.mark_begun(execution, "first", 1, stale) == present

    def test_only_the_run_that_was_marked_may_be_unmarked(self, stores: Stores) -> None:
        execution = stores.start()
        run = BegunRun("a", 1, "here:1", "2026-01-01T00:00:00Z")
        stores.state.mark_begun(execution, "first", 1, run)

        stores.state.unmark_begun(execution, "first", "b")
        assert stores.snapshot(execution).crashes == {"first": Crashes(begun=run)}
        stores.state.count_crash(execution, "first", 1, "lost")
        stores.state.unmark_begun(execution, "first", "a")
        assert stores.snapshot(execution).crashes == {"first": Crashes(1, "lost")}
        stores.state.mark_begun(execution, "second", 1, run)
        stores.state.unmark_begun(execution, "second", "a")
        assert stores.snapshot(execution).crashes == {"first": Crashes(1, "lost")}

    def test_nothing_is_marked_in_an_execution_that_has_ended_or_does_not_exist(self, stores: Stores) -> None:
        execution = stores.start()
        run = BegunRun("a", 1, "here:1", "2026-01-01T00:00:00Z")
        stores.state.update_execution_status(execution, ExecutionStatus.CANCELLED)

        assert stores.state.mark_begun(execution, "first", 1, run) is None
        assert stores.state.mark_begun(NOBODY, "first", 1, run) is None

    def test_a_run_that_was_committed_is_no_crash(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution))

        assert stores.state.count_crash(execution, "first", 1, "after its commit").count == 0
        assert stores.state.count_crash(execution, "first", 2, "in its next run").count == 1
        assert stores.state.count_crash(NOBODY, "first", 1, "nobody").count == 0
        stores.state.update_execution_status(execution, ExecutionStatus.CANCELLED)
        assert stores.state.count_crash(execution, "first", 2, "after the end").count == 0

    def test_any_description_of_a_crash_can_be_stored(self, stores: Stores) -> None:
        execution = stores.start()

        assert stores.state.count_crash(execution, "first", 1, "nul \x00, surrogate \ud800").count == 1

    def test_a_context_is_persisted_only_with_the_present_fence(self, stores: Stores) -> None:
        execution = stores.start()
        fence = stores.snapshot(execution).fence

        assert stores.state.persist_context(execution, fence, {"variables": {}})
        assert not stores.state.persist_context(execution, str(uuid.uuid4()), {"variables": {}})
        assert not stores.state.persist_context(NOBODY, fence, {"variables": {}})

    def test_reading_what_does_not_exist_says_so(self, stores: Stores) -> None:
        missing = dataclasses.replace(stores.commit(stores.start()), execution_id=NOBODY)

        assert stores.state.load_snapshot(NOBODY) is None
        for call in (
            lambda: stores.state.update_execution(missing),
            lambda: stores.state.status_of(NOBODY),
            lambda: stores.state.seconds_since_move(NOBODY),
            lambda: stores.state.update_execution_status(NOBODY, ExecutionStatus.COMPLETED),
        ):
            with pytest.raises(ExecutionNotFound):
                call()

    def test_a_definition_is_found_by_its_version(self, stores: Stores) -> None:
        stored = stores.state.load_definition("contract", 1)

        assert stored is not None
        assert stored["id"] == "contract"
        assert stores.state.load_definition("contract", 2) is None


class WaitsContract:
    """Waits for a time, from the commit that opens them to the one that closes them."""

    def waiting(self, stores: Stores, execution: str, seconds: float = 60.0) -> NodeCommit:
        """Return a commit with which `first` begins to wait."""
        return stores.commit(
            execution,
            execution_status=ExecutionStatus.WAITING,
            status=NodeStatus.WAITING,
            handles=(),
            output=None,
            opens=NewWait(WaitType.DELAY, resume_in=seconds, details={"attempt": 1}),
        )

    def test_a_wait_wakes_its_node_when_it_is_over(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(self.waiting(stores, execution))
        assert stores.waits.claim_due() == []
        assert stores.waits.woken(execution, "first") is None

        stores.pass_time(100)

        (due,) = stores.waits.claim_due()
        assert (due.execution_id, due.node_id, due.seq) == (execution, "first", 2)
        assert (due.queue, due.priority) == ("orders", 4)
        woken = stores.waits.woken(execution, "first")
        assert woken is not None
        assert (woken.type, woken.reason) == (WaitType.DELAY, "time")
        assert woken.waited >= 100
        assert stores.waits.claim_due() == [], "a claim is kept for a while"
        assert stores.waits.woken(execution, "second") is None

    def test_a_claim_requests_a_wake_which_is_taken_once(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(self.waiting(stores, execution))
        stores.pass_time(100)
        stores.waits.claim_due()
        commit = stores.commit(execution, node_id="second")

        assert stores.state.update_execution(commit).wake_requested
        assert stores.waits.take_wake_request(execution) == ["first"]
        assert not stores.state.update_execution(commit).wake_requested
        assert stores.waits.take_wake_request(execution) == ["first"], "until its node has gone on"

    def test_a_claimed_wait_that_is_not_resumed_is_claimed_again(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(self.waiting(stores, execution))
        stores.pass_time(100)
        stores.waits.claim_due()

        stores.pass_time(1.5 * stores.settings.claim_lease)
        assert [due.node_id for due in stores.waits.claim_due()] == ["first"]
        stores.pass_time(1.5 * stores.settings.claim_lease)
        assert stores.waits.claim_due() == [], "the second claim lasts longer"

    def test_the_commit_of_the_woken_node_closes_its_wait(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(self.waiting(stores, execution))
        stores.pass_time(100)
        stores.waits.claim_due()

        stores.state.update_execution(
            stores.commit(execution, closes=("first",), woken_status=WaitStatus.COMPLETED)
        )

        assert stores.waits.woken(execution, "first") is None
        assert stores.waits.take_wake_request(execution) == []

    def test_a_commit_cancels_the_waits_it_overtakes_and_opens_its_own(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(self.waiting(stores, execution))
        overtaking = dataclasses.replace(self.waiting(stores, execution), node_id="second", closes=("first",))
        stores.state.update_execution(overtaking)

        stores.pass_time(100)

        assert [due.node_id for due in stores.waits.claim_due()] == ["second"]

    def test_a_refused_commit_opens_no_wait(self, stores: Stores) -> None:
        execution = stores.start()
        late = self.waiting(stores, execution)
        stores.state.update_execution(stores.commit(execution))

        assert not stores.state.update_execution(late).accepted

        stores.pass_time(100)
        assert stores.waits.claim_due() == []

    def test_a_wait_of_a_paused_execution_wakes_no_node(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(self.waiting(stores, execution))
        stores.state.update_execution_status(execution, ExecutionStatus.PAUSED)
        stores.pass_time(100)

        assert stores.waits.claim_due() == []

    def test_the_end_of_an_execution_ends_its_waits(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(self.waiting(stores, execution))
        stores.state.update_execution_status(execution, ExecutionStatus.CANCELLED)
        stores.pass_time(100)

        assert stores.waits.claim_due() == []
