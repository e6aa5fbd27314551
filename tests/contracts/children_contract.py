"""The contract of children: those of Postgres keep it, and so do those in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from contracts.stores import Stores
from workflow_engine.execution.records import (
    CommitResult,
    FollowUps,
    Iteration,
    NewChildren,
    NewExecution,
    NewWait,
    NodeCommit,
)
from workflow_engine.execution.states import ExecutionStatus, NodeStatus, WaitStatus, WaitType

COUNTS = {"next": 0, "running": 0, "completed": 0, "failed": 0}


class ChildrenContract:
    """Waits for children, from the commit that opens one to the end of the last child."""

    def opening(self, stores: Stores, execution: str, **plan: Any) -> NodeCommit:
        """Return a commit with which `first` begins to wait for three children, two at a time."""
        start = NewExecution(
            execution_id="",
            workflow_id="contract",
            version=1,
            trigger_id=stores.trigger_id,
            trigger_node_id="start",
            trigger_sub_type="manual",
            data=b'{"of":"parent"}',
            variables=b"{}",
            queue="orders",
        )
        children = NewChildren(start, **{"total": 3, "concurrency": 2, **plan})
        return stores.commit(
            execution,
            execution_status=ExecutionStatus.WAITING,
            status=NodeStatus.WAITING,
            handles=(),
            output=None,
            opens=NewWait(WaitType.CHILDREN, details={"attempt": 1, **COUNTS}, children=children),
        )

    def opened(self, stores: Stores, **plan: Any) -> tuple[str, list[str]]:
        """Return a parent that waits, and the children that it has started."""
        execution = stores.start()
        result = stores.state.update_execution(self.opening(stores, execution, **plan))
        return execution, started(result.follow_ups)

    def end(
        self, stores: Stores, child: str, status: ExecutionStatus = ExecutionStatus.COMPLETED
    ) -> NodeCommit:
        is_failed = status is ExecutionStatus.FAILED
        return stores.commit(
            child,
            execution_status=status,
            status=NodeStatus.FAILED if is_failed else NodeStatus.COMPLETED,
            error="boom" if is_failed else None,
        )

    def after(
        self, stores: Stores, execution: str, index: int, *, goes_on: bool = False, **plan: Any
    ) -> NodeCommit:
        """Return what `first` commits after the child of this index: the next one, or its own result."""
        iteration = Iteration(wait_seq=2, index=index, goes_on=goes_on)
        if not goes_on:
            closing = stores.commit(execution, closes=("first",), woken_status=WaitStatus.COMPLETED)
            return replace(closing, iteration=iteration)
        following = self.opening(stores, execution, total=1, first=index + 1, **plan)
        return replace(following, iteration=iteration)

    def ended(self, stores: Stores, child: str, **changes: Any) -> CommitResult:
        return stores.state.update_execution(self.end(stores, child, **changes))

    def test_a_wait_starts_its_first_children_with_its_commit(self, stores: Stores) -> None:
        execution, children = self.opened(stores)

        assert len(children) == 2
        for child in children:
            snapshot = stores.snapshot(child)
            assert (snapshot.status, snapshot.seq) == (ExecutionStatus.PENDING, 1)
            assert (snapshot.workflow_id, snapshot.queue) == ("contract", "orders")
            assert snapshot.journal[0].output == b'{"of":"parent"}'
        assert stores.show(execution).status is ExecutionStatus.WAITING

    def test_the_end_of_a_child_starts_the_next_and_that_of_the_last_wakes_the_parent(
        self, stores: Stores
    ) -> None:
        execution, (first, second) = self.opened(stores)

        (third,) = started(self.ended(stores, first).follow_ups)
        assert self.ended(stores, third).follow_ups is None
        last = self.ended(stores, second)

        assert last.follow_ups is not None
        (woken,) = last.follow_ups.woken
        assert (woken.execution_id, woken.node_id, woken.seq) == (execution, "first", 2)
        assert stores.waits.take_wake_request(execution) == ["first"]
        found = stores.waits.woken(execution, "first")
        assert found is not None
        assert (found.type, found.reason, found.seq) == (WaitType.CHILDREN, "children", 2)
        counts = {name: found.children[name] for name in ("total", "completed", "failed")}
        assert counts == {"total": 3, "completed": 3, "failed": 0}
        results = stores.children.ended(execution, 2, ["first"])
        assert [(each.index, each.execution_id) for each in results] == [(0, first), (1, second), (2, third)]
        assert [each.outputs for each in results] == [{"first": {"a": 1}}] * 3

    def test_a_repeated_commit_reports_again_and_counts_once(self, stores: Stores) -> None:
        execution = stores.start()
        opening = self.opening(stores, execution)
        reports = [started(stores.state.update_execution(opening).follow_ups) for _ in range(3)]
        first, second = reports[0]
        assert [sorted(each) for each in reports] == [sorted(reports[0])] * 3

        ends = [self.end(stores, first), self.end(stores, second)]
        (third,) = started(stores.state.update_execution(ends[0]).follow_ups)
        assert third in started(stores.state.update_execution(ends[0]).follow_ups)
        stores.state.update_execution(ends[1])
        assert stores.waits.woken(execution, "first") is None
        last = self.end(stores, third)
        woken = [stores.state.update_execution(last).follow_ups for _ in range(3)]

        assert [[each.node_id for each in told.woken] for told in woken if told] == [["first"]] * 3

    def test_after_more_failures_than_tolerated_no_further_child_starts(self, stores: Stores) -> None:
        execution, (first, second) = self.opened(stores, tolerated=0, total=9)

        assert self.ended(stores, first, status=ExecutionStatus.FAILED).follow_ups is None
        assert started(self.ended(stores, second).follow_ups) == []

        found = stores.waits.woken(execution, "first")
        assert found is not None
        assert (found.children["completed"], found.children["failed"]) == (1, 1)
        (failed,) = stores.children.ended(execution, 2, ["first"], only_failed=True)
        assert (failed.execution_id, failed.error) == (first, "boom")

    def test_a_tolerated_failure_is_followed_by_the_next_child(self, stores: Stores) -> None:
        _, (first, _) = self.opened(stores, tolerated=1)

        assert len(started(self.ended(stores, first, status=ExecutionStatus.FAILED).follow_ups)) == 1

    def test_a_child_that_is_cancelled_counts_as_failed(self, stores: Stores) -> None:
        execution, (first, _) = self.opened(stores, total=2, tolerated=1)

        stores.state.update_execution_status(first, ExecutionStatus.CANCELLED)

        assert stores.waits.woken(execution, "first") is None
        (cancelled,) = stores.children.ended(execution, 2, ["first"])
        assert cancelled.status is ExecutionStatus.CANCELLED

    def test_the_children_of_a_wait_that_is_over_are_cancelled(self, stores: Stores) -> None:
        execution, children = self.opened(stores)
        stores.state.update_execution_status(execution, ExecutionStatus.CANCELLED)
        assert stores.children.due() == [(execution, 2)]

        tended = stores.children.tend(execution, 2)

        assert sorted(tended.cancelled) == sorted(children)
        assert [stores.show(child).status for child in children] == [ExecutionStatus.CANCELLED] * 2
        assert stores.children.due() == []
        assert stores.show(execution).waits == [("first", WaitStatus.CANCELLED)]

    def test_a_child_may_start_later(self, stores: Stores) -> None:
        execution, children = self.opened(stores, total=1, starts_in=60.0)
        assert (children, stores.children.due()) == ([], [])

        stores.pass_time(61)

        assert stores.children.due() == [(execution, 2)]
        assert len(started(stores.children.tend(execution, 2).follow_ups)) == 1
        assert stores.children.due() == []

    def test_a_paused_parent_starts_no_child(self, stores: Stores) -> None:
        execution, (first, second) = self.opened(stores)
        stores.state.update_execution_status(execution, ExecutionStatus.PAUSED)

        assert [self.ended(stores, child).follow_ups for child in (first, second)] == [None, None]
        assert stores.waits.woken(execution, "first") is None

    def test_a_wait_goes_on_with_another_child_and_writes_no_row(self, stores: Stores) -> None:
        execution, (first,) = self.opened(stores, total=1)
        self.ended(stores, first)
        before = stores.snapshot(execution)

        result = stores.state.update_execution(self.after(stores, execution, 0, goes_on=True))

        (second,) = started(result.follow_ups)
        after = stores.snapshot(execution)
        assert (result.accepted, result.seq, result.fence) == (True, before.seq, before.fence)
        assert (after.seq, after.fence, after.journal) == (before.seq, before.fence, before.journal)
        assert stores.show(execution).waits == [("first", WaitStatus.WAITING)]
        self.ended(stores, second)
        found = stores.waits.woken(execution, "first")
        assert found is not None
        assert (found.seq, found.children["first"], found.children["completed"]) == (2, 1, 1)
        (latest,) = stores.children.ended(execution, 2, ["first"], first=1)
        assert (latest.index, latest.execution_id) == (1, second)

    def test_the_next_child_may_start_later(self, stores: Stores) -> None:
        execution, (first,) = self.opened(stores, total=1)
        self.ended(stores, first)

        later = self.after(stores, execution, 0, goes_on=True, starts_in=60.0)
        assert stores.state.update_execution(later).follow_ups is None
        stores.pass_time(61)

        assert len(started(stores.children.tend(execution, 2).follow_ups)) == 1

    def test_a_commit_that_goes_on_starts_one_child_however_often_it_is_repeated(
        self, stores: Stores
    ) -> None:
        execution, (first,) = self.opened(stores, total=1)
        self.ended(stores, first)
        following = self.after(stores, execution, 0, goes_on=True)

        results = [stores.state.update_execution(following) for _ in range(3)]

        assert [each.accepted for each in results] == [True] * 3
        assert [started(each.follow_ups) for each in results] == [started(results[0].follow_ups)] * 3

    @pytest.mark.parametrize("goes_on", [False, True])
    def test_a_wait_goes_on_or_ends_once_for_each_child(self, stores: Stores, goes_on: bool) -> None:
        execution, (first,) = self.opened(stores, total=1)
        self.ended(stores, first)
        late = self.after(stores, execution, 0, goes_on=goes_on)
        following = self.after(stores, execution, 0, goes_on=True)
        (second,) = started(stores.state.update_execution(following).follow_ups)

        refused = [stores.state.update_execution(late)]
        self.ended(stores, second)
        refused.append(stores.state.update_execution(late))

        assert [(each.accepted, each.follow_ups) for each in refused] == [(False, None)] * 2
        assert stores.show(execution).waits == [("first", WaitStatus.RESUMING)]
        result = self.after(stores, execution, 1)
        assert [stores.state.update_execution(result).accepted for _ in range(2)] == [True] * 2
        assert stores.show(execution).waits == [("first", WaitStatus.COMPLETED)]

    def test_a_wait_that_is_closed_does_not_go_on(self, stores: Stores) -> None:
        execution, (first,) = self.opened(stores, total=1)
        self.ended(stores, first)
        stores.state.update_execution_status(execution, ExecutionStatus.CANCELLED)

        result = stores.state.update_execution(self.after(stores, execution, 0, goes_on=True))

        assert (result.accepted, result.follow_ups) == (False, None)

    def test_a_refused_commit_starts_no_child(self, stores: Stores) -> None:
        execution = stores.start()
        late = self.opening(stores, execution)
        stores.state.update_execution(stores.commit(execution))

        result = stores.state.update_execution(late)

        assert (result.accepted, result.follow_ups) == (False, None)


def started(follow_ups: FollowUps | None) -> list[str]:
    return [child.execution_id for child in follow_ups.started] if follow_ups is not None else []
