"""A move has the same effects on an execution in Postgres, from an operator, a timeout or a commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from contracts.stores import TIMEOUT, Stores
from workflow_engine.errors import IllegalMove
from workflow_engine.execution.records import NewWait, NodeCommit
from workflow_engine.execution.states import (
    LEGAL_FROM,
    ExecutionStatus,
    NodeStatus,
    Operation,
    SupersededFor,
    WaitStatus,
    WaitType,
)
from workflow_engine.postgres.executions.moves import Amendment, Change, CommitByHand

PAUSE = Change(ExecutionStatus.PAUSED, LEGAL_FROM[Operation.PAUSE], "PAUSED")
CANCEL = Change(ExecutionStatus.CANCELLED, LEGAL_FROM[Operation.CANCEL], "CANCELLED", takes_fence=True)


def waiting(stores: Stores, execution: str) -> NodeCommit:
    """Return a commit with which `first` begins to wait for an hour."""
    return stores.commit(
        execution,
        execution_status=ExecutionStatus.WAITING,
        status=NodeStatus.WAITING,
        handles=(),
        output=None,
        opens=NewWait(WaitType.DELAY, resume_in=3600, details={"attempt": 1}),
    )


def context_of(stores: Stores, execution: str) -> dict[str, object]:
    """Return what the context at rest must be, as the journal has it."""
    snapshot = stores.snapshot(execution)
    variables: dict[str, object] = {}
    for row in snapshot.journal:
        variables |= row.variables or {}
    return {
        "executionId": execution,
        "workflowId": snapshot.workflow_id,
        "triggerId": snapshot.trigger_id,
        "triggerNodeId": snapshot.trigger_node_id,
        "currentNodeId": snapshot.journal[-1].entry.node_id,
        "variables": variables,
        "metadata": snapshot.metadata,
    }


@dataclass(frozen=True)
class End:
    """One way in which an execution ends."""

    status: ExecutionStatus
    make: Callable[[Stores, str], bool]
    """Ends an execution; False if it was refused."""
    needs_node: bool = False
    """It is the commit of a node, so that at least one node has begun."""
    history: tuple[tuple[str, str | None, str | None], ...] = ()
    """The lines that it leaves in the history; a commit is in the journal instead."""

    def __str__(self) -> str:
        return self.make.__name__.replace("_", " ")


def commit_of_the_last_node(stores: Stores, execution: str) -> bool:
    commit = stores.commit(execution, node_id="second", execution_status=ExecutionStatus.COMPLETED)
    return stores.state.update_execution(commit).accepted


def commit_of_a_failure(stores: Stores, execution: str) -> bool:
    commit = stores.commit(
        execution,
        node_id="second",
        execution_status=ExecutionStatus.FAILED,
        status=NodeStatus.FAILED,
        handles=(),
        output=None,
        error="boom",
    )
    return stores.state.update_execution(commit).accepted


def cancel_by_an_operator(stores: Stores, execution: str) -> bool:
    return stores.moves.write(execution, CANCEL, actor="ada", reason="a mistake") is not None


def timeout(stores: Stores, execution: str) -> bool:
    stores.pass_time(2 * TIMEOUT)
    return execution in [ended.execution_id for ended in stores.timeouts.end()]


def move_outside_of_a_hop(stores: Stores, execution: str) -> bool:
    try:
        stores.state.update_execution_status(execution, ExecutionStatus.FAILED, error="boom")
    except IllegalMove:
        return False
    return True


TOO_LONG = f"the execution took longer than its timeout of {TIMEOUT} s"

ENDS = [
    End(ExecutionStatus.COMPLETED, commit_of_the_last_node, needs_node=True),
    End(ExecutionStatus.FAILED, commit_of_a_failure, needs_node=True),
    End(ExecutionStatus.CANCELLED, cancel_by_an_operator, history=(("CANCELLED", "ada", "a mistake"),)),
    End(ExecutionStatus.FAILED, timeout, history=(("TIMED_OUT", "timekeeper", TOO_LONG),)),
    End(ExecutionStatus.FAILED, move_outside_of_a_hop),
]


class EndsContract:
    """Every end of an execution, by a commit, an operator, its timeout or the engine, is the same end."""

    @pytest.mark.parametrize("end", ENDS, ids=str)
    def test_an_end_closes_all_that_was_open(self, stores: Stores, end: End) -> None:
        execution = stores.start()
        stores.state.update_execution(waiting(stores, execution))
        fence = stores.snapshot(execution).fence

        assert end.make(stores, execution)

        shown = stores.show(execution)
        assert shown.status is end.status
        assert (shown.error is not None) == (end.status is ExecutionStatus.FAILED)
        assert shown.completed_at is not None
        assert shown.waits == [("first", WaitStatus.CANCELLED)]
        assert stores.snapshot(execution).fence != fence
        assert stores.waits.claim_due() == []

    @pytest.mark.parametrize("end", ENDS, ids=str)
    def test_the_context_at_the_end_is_that_of_the_journal(self, stores: Stores, end: End) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution, variables=b'{"paid":true}'))

        end.make(stores, execution)

        assert stores.show(execution).context == context_of(stores, execution)

    @pytest.mark.parametrize("end", ENDS, ids=str)
    def test_an_execution_lasted_from_the_beginning_of_its_first_node(self, stores: Stores, end: End) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution, duration_ms=5_000))

        end.make(stores, execution)

        shown = stores.show(execution)
        assert shown.started_at is not None
        assert shown.completed_at is not None
        lasted = (shown.completed_at - shown.started_at).total_seconds() * 1000
        assert shown.duration_ms == pytest.approx(lasted, abs=1)
        assert lasted >= 5_000

    @pytest.mark.parametrize("end", [end for end in ENDS if not end.needs_node], ids=str)
    def test_one_that_ends_before_its_first_node_has_no_beginning_and_no_duration(
        self, stores: Stores, end: End
    ) -> None:
        execution = stores.start()

        end.make(stores, execution)

        shown = stores.show(execution)
        assert (shown.started_at, shown.duration_ms) == (None, None)
        assert shown.context == context_of(stores, execution)

    @pytest.mark.parametrize("again", ENDS, ids=str)
    @pytest.mark.parametrize("end", ENDS, ids=str)
    def test_an_execution_ends_once(self, stores: Stores, end: End, again: End) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution))
        end.make(stores, execution)
        before = (stores.show(execution), stores.snapshot(execution).fence)

        assert not again.make(stores, execution)

        assert (stores.show(execution), stores.snapshot(execution).fence) == before

    @pytest.mark.parametrize("end", ENDS, ids=str)
    def test_the_history_says_what_the_journal_does_not(self, stores: Stores, end: End) -> None:
        execution = stores.start()

        end.make(stores, execution)

        assert stores.show(execution).history == list(end.history)

    def test_a_wait_that_the_last_commit_was_woken_from_is_not_cancelled(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(waiting(stores, execution))
        ending = stores.commit(
            execution,
            execution_status=ExecutionStatus.COMPLETED,
            closes=("first",),
            woken_status=WaitStatus.COMPLETED,
        )

        stores.state.update_execution(ending)

        assert stores.show(execution).waits == [("first", WaitStatus.COMPLETED)]

    def test_only_what_takes_longer_than_its_timeout_is_ended_by_it(self, stores: Stores) -> None:
        execution = stores.start()
        stores.pass_time(TIMEOUT / 2)

        assert stores.timeouts.end() == []
        assert stores.show(execution).status is ExecutionStatus.PENDING

    def test_the_time_of_an_execution_stands_still_while_it_is_paused(self, stores: Stores) -> None:
        execution = stores.start()
        stores.pass_time(TIMEOUT / 2)
        stores.moves.write(execution, PAUSE)
        stores.pass_time(10 * TIMEOUT)

        assert stores.timeouts.end() == []
        stores.state.update_execution_status(execution, ExecutionStatus.PENDING)
        assert stores.timeouts.end() == []
        stores.pass_time(TIMEOUT / 2 + 1)
        assert [ended.execution_id for ended in stores.timeouts.end()] == [execution]


def in_status(stores: Stores, status: ExecutionStatus) -> str:
    """Start an execution and bring it to a status."""
    execution = stores.start()
    if status is not ExecutionStatus.PENDING:
        stores.state.update_execution_status(execution, status)
    return execution


class MovesContract:
    """What operators do to executions."""

    @pytest.mark.parametrize("change", [PAUSE, CANCEL], ids=lambda change: change.event)
    @pytest.mark.parametrize("status", ExecutionStatus)
    def test_a_move_is_made_from_its_sources_and_from_no_other_status(
        self, stores: Stores, status: ExecutionStatus, change: Change
    ) -> None:
        execution = in_status(stores, status)
        before = stores.show(execution)

        moved = stores.moves.write(execution, change)

        if status in change.sources:
            assert moved is not None
            assert moved.status_before is status
            assert stores.show(execution).status is change.status
        else:
            assert moved is None
            assert stores.show(execution) == before

    def test_a_pause_leaves_the_fence_so_that_the_result_of_a_running_node_counts(
        self, stores: Stores
    ) -> None:
        execution = stores.start()
        running = stores.commit(execution)

        stores.moves.write(execution, PAUSE, actor="ada", reason="lunch")

        result = stores.state.update_execution(running)
        assert (result.accepted, result.status) == (True, ExecutionStatus.PAUSED)
        assert stores.show(execution).history == [("PAUSED", "ada", "lunch")]

    def test_the_context_is_that_of_the_journal_after_a_pause_and_after_each_commit_that_meets_it(
        self, stores: Stores
    ) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution, variables=b'{"paid":true}'))
        assert stores.show(execution).context["currentNodeId"] == "start", "it is not at rest"

        stores.moves.write(execution, PAUSE)
        assert stores.show(execution).context == context_of(stores, execution)

        stores.state.update_execution(stores.commit(execution, node_id="second", variables=b'{"paid":false}'))
        shown = stores.show(execution)
        assert shown.context == context_of(stores, execution)
        assert (shown.context["currentNodeId"], shown.context["variables"]["paid"]) == ("second", False)

    def test_a_move_worked_out_from_an_older_journal_changes_nothing(self, stores: Stores) -> None:
        execution = stores.start()
        seen = stores.snapshot(execution)
        stores.state.update_execution(stores.commit(execution))
        before = stores.show(execution)

        assert stores.moves.write(execution, rerun_of_first(stores, execution, fence=seen.fence)) is None

        assert stores.show(execution) == before

    def test_a_rerun_supersedes_rows_and_takes_a_number_of_the_journal(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution, variables=b'{"paid":true}'))
        stores.state.update_execution(
            stores.commit(execution, node_id="second", execution_status=ExecutionStatus.COMPLETED)
        )
        late = stores.commit(execution)

        moved = stores.moves.write(execution, rerun_of_first(stores, execution))

        assert moved is not None
        assert (moved.status_before, moved.seq) == (ExecutionStatus.COMPLETED, 4)
        snapshot = stores.snapshot(execution)
        assert (snapshot.status, snapshot.seq) == (ExecutionStatus.RUNNING, 4)
        assert [row.entry.node_id for row in snapshot.journal] == ["start"]
        assert snapshot.visits == {"first": 2, "second": 2}
        assert not stores.state.update_execution(late).accepted, "the fence was taken"
        shown = stores.show(execution)
        assert (shown.completed_at, shown.duration_ms) == (None, None)
        assert shown.started_at is not None
        assert shown.context == context_of(stores, execution)

    def test_a_rerun_of_a_paused_execution_leaves_its_context_true(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution, variables=b'{"paid":true}'))
        stores.moves.write(execution, PAUSE)

        stores.moves.write(execution, rerun_of_first(stores, execution, status=ExecutionStatus.PAUSED))

        shown = stores.show(execution)
        assert shown.status is ExecutionStatus.PAUSED
        assert (shown.context["currentNodeId"], shown.context["variables"]) == ("start", {"currency": "EUR"})

    def test_what_has_not_begun_says_so_until_its_first_commit(self, stores: Stores) -> None:
        execution = stores.start()
        stores.moves.write(execution, PAUSE)
        assert not stores.snapshot(execution).has_begun

        stores.state.update_execution(stores.commit(execution))

        assert stores.snapshot(execution).has_begun

    def test_a_superseded_wait_is_cancelled_and_one_that_is_reopened_wakes_its_node_again(
        self, stores: Stores
    ) -> None:
        execution = stores.start()
        stores.state.update_execution(waiting(stores, execution))
        stores.moves.write(execution, CANCEL)
        assert stores.show(execution).waits == [("first", WaitStatus.CANCELLED)]
        cancelled = {ExecutionStatus.CANCELLED}

        stores.moves.write(execution, Change(ExecutionStatus.WAITING, cancelled, "RERUN", waiting=[2]))
        assert stores.show(execution).waits == [("first", WaitStatus.WAITING)]
        stores.pass_time(2 * 3600)
        assert [due.node_id for due in stores.waits.claim_due()] == ["first"]

        stores.moves.write(execution, rerun_of_first(stores, execution))
        assert stores.show(execution).waits == [("first", WaitStatus.CANCELLED)]

    def test_what_is_run_again_has_the_whole_of_its_time_again(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution))
        stores.pass_time(TIMEOUT / 2)

        stores.moves.write(execution, rerun_of_first(stores, execution))

        stores.pass_time(TIMEOUT / 2 + 1)
        assert stores.timeouts.end() == []
        stores.pass_time(TIMEOUT / 2)
        assert [ended.execution_id for ended in stores.timeouts.end()] == [execution]

    @pytest.mark.parametrize("status", ExecutionStatus)
    def test_a_result_by_hand_is_appended_from_its_sources_and_from_no_other_status(
        self, stores: Stores, status: ExecutionStatus
    ) -> None:
        execution = in_status(stores, status)
        before = stores.show(execution)
        late = stores.commit(execution)
        sources = LEGAL_FROM[Operation.SKIP] - {ExecutionStatus.FAILED}
        by_hand = CommitByHand(stores.commit(execution, output=b'"by hand"'), sources, "NODE_SKIPPED")

        moved = stores.moves.commit(execution, by_hand, actor="ada", reason="lunch")

        if status not in sources:
            assert moved is None
            assert stores.show(execution) == before
            return
        is_paused = status is ExecutionStatus.PAUSED
        becomes = ExecutionStatus.PAUSED if is_paused else ExecutionStatus.RUNNING
        assert moved is not None
        assert (moved.status_before, moved.status, moved.seq) == (status, becomes, 2)
        assert stores.snapshot(execution).journal[-1].output == b'"by hand"'
        assert stores.show(execution).history[-1] == ("NODE_SKIPPED", "ada", "lunch")
        assert not stores.state.update_execution(late).accepted, "the fence was taken"

    def test_a_result_by_hand_closes_the_wait_of_its_node(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(waiting(stores, execution))
        commit = stores.commit(execution, closes=("first",), woken_status=WaitStatus.COMPLETED)

        stores.moves.commit(execution, CommitByHand(commit, {ExecutionStatus.WAITING}, "NODE_COMPLETED"))

        assert stores.show(execution).waits == [("first", WaitStatus.COMPLETED)]
        stores.pass_time(2 * 3600)
        assert stores.waits.claim_due() == []

    def test_a_result_by_hand_reopens_what_a_failure_has_ended_in_the_same_move(self, stores: Stores) -> None:
        execution = stores.start()
        assert commit_of_a_failure(stores, execution)
        snapshot = stores.snapshot(execution)
        reopening = Change(
            ExecutionStatus.RUNNING,
            {ExecutionStatus.FAILED},
            None,
            takes_fence=True,
            fence=snapshot.fence,
            superseded=[snapshot.journal[-1].entry],
            superseded_for=SupersededFor.RETRY,
        )
        commit = stores.commit(execution, node_id="second", execution_status=ExecutionStatus.COMPLETED)
        by_hand = CommitByHand(commit, {ExecutionStatus.FAILED}, "NODE_SKIPPED", reopening)

        moved = stores.moves.commit(execution, by_hand)

        assert moved is not None
        assert (moved.status_before, moved.status) == (ExecutionStatus.FAILED, ExecutionStatus.COMPLETED)
        assert [row.entry.seq for row in stores.snapshot(execution).journal] == [1, 4]
        shown = stores.show(execution)
        assert (shown.status, shown.error) == (ExecutionStatus.COMPLETED, None)
        assert stores.moves.commit(execution, by_hand) is None, "the fence has moved"

    @pytest.mark.parametrize("status", ExecutionStatus)
    def test_an_amendment_is_made_from_its_sources_and_changes_no_status_and_no_fence(
        self, stores: Stores, status: ExecutionStatus
    ) -> None:
        execution = in_status(stores, status)
        before, snapshot = stores.show(execution), stores.snapshot(execution)
        sources = LEGAL_FROM[Operation.SET_VARIABLE]
        amendments = [
            Amendment(sources, "VARIABLE_SET", snapshot.fence, variable="currency", value=b'"USD"'),
            Amendment(sources, "OUTPUT_SET", snapshot.fence, seq=1, output=b"7"),
        ]

        moved = [stores.moves.amend(execution, each, actor="ada", reason="typo") for each in amendments]

        after = stores.snapshot(execution)
        assert (after.status, after.fence, after.seq) == (status, snapshot.fence, snapshot.seq)
        if status not in sources:
            assert moved == [None, None]
            assert (stores.show(execution), after.journal) == (before, snapshot.journal)
            return
        assert [each and each.status_before for each in moved] == [status, status]
        assert (after.journal[0].output, after.journal[0].variables) == (b"7", {"currency": "USD"})
        shown = stores.show(execution)
        assert shown.context == context_of(stores, execution)
        assert shown.history[-2:] == [("VARIABLE_SET", "ada", "typo"), ("OUTPUT_SET", "ada", "typo")]
        stale = Amendment(sources, "OUTPUT_SET", stores.start(), seq=1, output=b"8")
        assert stores.moves.amend(execution, stale) is None, "that is not its fence"

    def test_an_amended_variable_has_its_value_in_each_row_that_has_set_it(self, stores: Stores) -> None:
        execution = stores.start()
        stores.state.update_execution(stores.commit(execution, variables=b'{"currency":"CHF"}'))
        stores.state.update_execution(stores.commit(execution, node_id="second", variables=b'{"paid":true}'))
        stores.moves.write(execution, PAUSE)
        fence = stores.snapshot(execution).fence

        stores.moves.amend(
            execution,
            Amendment({ExecutionStatus.PAUSED}, "VARIABLE_SET", fence, variable="currency", value=b'"USD"'),
        )

        variables = [row.variables for row in stores.snapshot(execution).journal]
        assert variables == [{"currency": "USD"}, {"currency": "USD"}, {"paid": True}]

    def test_a_commit_by_which_a_node_with_a_breakpoint_becomes_due_pauses_the_execution(
        self, stores: Stores
    ) -> None:
        execution = stores.start()
        assert self._breakpoint(stores, execution, "second") is not None
        stores.pass_time(TIMEOUT / 2)

        result = stores.state.update_execution(stores.commit(execution, newly_due=("second",)))

        assert (result.accepted, result.status) == (True, ExecutionStatus.PAUSED)
        shown = stores.show(execution)
        assert shown.status is ExecutionStatus.PAUSED
        assert shown.context == context_of(stores, execution)
        assert shown.history == [
            ("BREAKPOINT_SET", None, None),
            ("PAUSED", "breakpoint", "breakpoint before second"),
        ]
        stores.pass_time(10 * TIMEOUT)
        assert stores.timeouts.end() == [], "its time stands still"
        stores.state.update_execution_status(execution, ExecutionStatus.RUNNING)
        stores.pass_time(TIMEOUT / 2 + 1)
        assert [ended.execution_id for ended in stores.timeouts.end()] == [execution]

    def test_a_commit_that_makes_no_such_node_due_pauses_nothing(self, stores: Stores) -> None:
        execution = stores.start()
        self._breakpoint(stores, execution, "third")

        result = stores.state.update_execution(stores.commit(execution, newly_due=("second",)))

        assert result.status is ExecutionStatus.RUNNING
        self._breakpoint(stores, execution, None)
        last = stores.commit(execution, node_id="second", newly_due=("third",))
        assert stores.state.update_execution(last).status is ExecutionStatus.RUNNING, "they were cleared"

    def test_a_row_behind_those_of_siblings_stops_at_any_join_that_it_may_have_made_due(
        self, stores: Stores
    ) -> None:
        execution = stores.start()
        self._breakpoint(stores, execution, "join")
        behind = stores.commit(execution, node_id="second", shared_since=1, joins=("join",))
        first = stores.commit(execution, shared_since=1, joins=("join",))
        assert stores.state.update_execution(first).status is ExecutionStatus.RUNNING

        assert stores.state.update_execution(behind).status is ExecutionStatus.PAUSED

    @pytest.mark.parametrize("status", ExecutionStatus)
    def test_a_breakpoint_is_set_in_what_has_not_ended_and_moves_nothing(
        self, stores: Stores, status: ExecutionStatus
    ) -> None:
        execution = in_status(stores, status)
        fence = stores.snapshot(execution).fence

        moved = self._breakpoint(stores, execution, "second")

        assert (moved is None) == status.is_finished
        assert (stores.show(execution).status, stores.snapshot(execution).fence) == (status, fence)

    def _breakpoint(self, stores: Stores, execution: str, node: str | None) -> object:
        sources = LEGAL_FROM[Operation.PAUSE_BEFORE]
        return stores.moves.set_breakpoint(execution, node, sources, "BREAKPOINT_SET")


def rerun_of_first(
    stores: Stores,
    execution: str,
    *,
    status: ExecutionStatus = ExecutionStatus.RUNNING,
    fence: str | None = None,
) -> Change:
    snapshot = stores.snapshot(execution)
    return Change(
        status,
        {snapshot.status},
        "RERUN",
        takes_fence=True,
        fence=fence or snapshot.fence,
        superseded=[row.entry for row in snapshot.journal[1:]],
        superseded_for=SupersededFor.RERUN,
    )
