"""Executions, journal and waits in memory, behind the methods of `ExecutionStateService`.

Only the parts that a hop and its recovery use: waits are for times and children, not for events. There is no
unique index on final rows, which Postgres has as a last resort: here the fence alone keeps results from being
repeated.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import orjson

from simulation.rows import (
    OPEN,
    ChildrenRow,
    ExecutionRow,
    Place,
    WaitRow,
    context_at_rest,
    due_wait,
    first_of,
    open_waits,
    put_aside_or_on,
)
from simulation.steps import Clock, step
from workflow_engine.errors import DatabaseUnavailable, ExecutionNotFound, IllegalMove
from workflow_engine.execution.records import (
    FIRST_SEQ,
    FORMAT,
    BegunRun,
    CommitResult,
    Crashes,
    FollowUps,
    JournalRow,
    NewExecution,
    NewRow,
    NodeCommit,
    Settled,
    Snapshot,
    StartedChild,
    StartedExecution,
)
from workflow_engine.execution.states import (
    LEGAL_MOVES,
    ExecutionStatus,
    NodeStatus,
    WaitStatus,
    WaitType,
)
from workflow_engine.execution.walk import JournalEntry
from workflow_engine.settings import Settings

Answer = TypeVar("Answer")

COMMIT = "commit"
"""The name of a commit's call, before which processes stop."""

NO_RETRY: Mapping[str, Any] = {}

CLAIM_LEASE = Settings().claim_lease

ONE_TRANSACTION = "the end of a child and its effect on the parent are one transaction"
REPEATED_END = "a repeated commit counts the end of a child once"
CASCADE = "a wait that is over has its children cancelled"
ITERATION = "a wait goes on with another child, or is over, once for each"
CHILD_CHECKS = (ONE_TRANSACTION, REPEATED_END, CASCADE, ITERATION)
"""The safeguards of children, by what they are for."""

CHECKS = frozenset(("fence", "chain", "own node", "mark", *CHILD_CHECKS))
"""What is checked: a commit, the mark of a run that must not be repeated, and the ends of children."""


class PostgresInMemory:
    """The tables. Without one of its checks it accepts more, to see what the check is for."""

    def __init__(self, clock: Clock, *, checks: Collection[str] = CHECKS) -> None:
        self.clock = clock
        self.checks = checks
        self._numbers = itertools.count(2)
        self.uncounted: list[tuple[Place, ExecutionStatus]] = []
        """Ends of children that are counted in a step of their own, without that safeguard."""
        self.definitions: dict[tuple[str, int], dict[str, Any]] = {}
        self.executions: dict[str, ExecutionRow] = {}
        self.sent = itertools.count()
        """Numbers the commits whose results are awaited."""

    def row(self, execution_id: str) -> ExecutionRow:
        if (row := self.executions.get(execution_id)) is None:
            raise ExecutionNotFound(execution_id)
        return row

    def end(
        self,
        row: ExecutionRow,
        status: ExecutionStatus,
        *,
        fence: str | None = None,
        error: str | None = None,
        event: str | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> FollowUps | None:
        """End an execution that has not ended, as `end_execution` does."""
        row.status, row.fence, row.error = status, fence or str(uuid.uuid4()), error
        row.completed_at = row.updated_at = self.clock.now()
        if row.started_at is not None:
            row.duration_ms = (row.completed_at - row.started_at) // timedelta(milliseconds=1)
        row.context = context_at_rest(row)
        row.expires_at = row.timeout_left = None
        row.crashes.clear()
        for wait in open_waits(row):
            self.close(wait, WaitStatus.CANCELLED)
        if event is not None:
            row.history.append((event, actor, reason))
        if row.place is None:
            return None
        if ONE_TRANSACTION not in self.checks:
            self.uncounted.append((row.place, status))
            return None
        return self.child_finished(row.place, status)

    # -- children, as the functions in Postgres --------------------------------------------------------

    def create(self, new: NewExecution, place: Place | None = None) -> ExecutionRow:
        """Write an execution and its trigger's row."""
        now = self.clock.now()
        started = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        row = ExecutionRow(new, str(uuid.uuid4()), {**new.metadata, "startedAt": started}, now, place=place)
        row.tokens[FIRST_SEQ] = row.fence
        row.expires_at = None if new.timeout is None else now + timedelta(seconds=new.timeout)
        entry = JournalEntry(FIRST_SEQ, new.trigger_node_id, 1, 1, NodeStatus.COMPLETED, ("",))
        row.journal.append(JournalRow(entry, new.data, orjson.loads(new.variables)))
        row.context = context_at_rest(row)
        self.executions[new.execution_id] = row
        return row

    def close(self, wait: WaitRow, status: WaitStatus) -> None:
        """Close a wait; its children that still run are to be cancelled."""
        wait.status = status
        if wait.children is not None and CASCADE in self.checks:
            wait.children.due = self.clock.now() if wait.children.running else None

    def outstanding(self, row: ExecutionRow, commit: NodeCommit, seq: int) -> FollowUps | None:
        """Return what this commit has started or woken, when it is repeated."""
        parent = row
        if row.status.is_finished and row.place is not None:
            parent, seq = self.executions[row.place.parent_id], row.place.seq
        wait = next((each for each in parent.waits if each.seq == seq and each.children is not None), None)
        if wait is None:
            return None
        parent_id, now = parent.new.execution_id, self.clock.now()
        started = tuple(
            first_of(child)
            for child in self.executions.values()
            if child.status is ExecutionStatus.PENDING
            and child.place is not None
            and (child.place.parent_id, child.place.seq) == (parent_id, seq)
        )
        is_woken = wait.status is WaitStatus.RESUMING
        return FollowUps(started, (due_wait(parent_id, parent, wait, now),) if is_woken else ())

    def child_finished(self, place: Place, status: ExecutionStatus) -> FollowUps | None:
        parent = self.executions[place.parent_id]
        wait = next((each for each in parent.waits if each.seq == place.seq), None)
        if wait is None or wait.status is not WaitStatus.WAITING:
            return None
        return self.go_on_with_children(parent, wait, status)

    def go_on_with_children(
        self, parent: ExecutionRow, wait: WaitRow, ended: ExecutionStatus | None = None
    ) -> FollowUps | None:
        counts, now = wait.children, self.clock.now()
        assert counts is not None
        plan = counts.plan
        if ended is not None:
            counts.running -= 1
            is_completed = ended is ExecutionStatus.COMPLETED
            counts.completed, counts.failed = (
                counts.completed + is_completed,
                counts.failed + (not is_completed),
            )
        started = []
        is_paused = parent.status is ExecutionStatus.PAUSED
        is_due = counts.due is None or counts.due <= now
        while (
            counts.next < plan.total
            and counts.running < plan.concurrency
            and counts.failed <= plan.tolerated
            and not is_paused
            and is_due
        ):
            started.append(self._start_child(parent, wait, counts))
        is_over = counts.running == 0 and (counts.next == plan.total or counts.failed > plan.tolerated)
        counts.due = None if is_due and not is_paused else counts.due or now
        if not is_over:
            return FollowUps(tuple(started)) if started else None
        counts.due = None
        wait.status, wait.claims = WaitStatus.RESUMING, 1
        wait.claimed_until = now + timedelta(seconds=CLAIM_LEASE)
        parent.wake_requested = True
        return FollowUps(tuple(started), (due_wait(parent.new.execution_id, parent, wait, now),))

    def _start_child(self, parent: ExecutionRow, wait: WaitRow, counts: ChildrenRow) -> StartedChild:
        plan, index = counts.plan, counts.plan.first + counts.next
        counts.next, counts.running = counts.next + 1, counts.running + 1
        data, variables = plan.start.data, orjson.loads(plan.start.variables)
        if plan.has_items:
            variables |= {str(plan.item_variable): counts.items[index], str(plan.index_variable): index}
            data = orjson.dumps({**orjson.loads(data), "index": index})
        new = replace(
            plan.start,
            execution_id=f"01890000-0000-7000-8000-{next(self._numbers):012d}",
            data=data,
            variables=orjson.dumps(variables),
        )
        return first_of(self.create(new, Place(parent.new.execution_id, wait.seq, index)))


class ReplyInMemory:
    """The reply to a commit that was sent. Every other one is made only as its result is read."""

    def __init__(self, number: int, make: Callable[[], CommitResult], execution_id: str) -> None:
        self._execution_id = execution_id
        self._made = make() if number % 2 else None
        self._make = make

    def results(self) -> dict[str, CommitResult]:
        return {self._execution_id: database_step(lambda: self._made or self._make(), COMMIT)}


class StateInMemory:
    """Stands in for `ExecutionStateService`."""

    def __init__(self, database: PostgresInMemory) -> None:
        self._database = database

    def create_execution(self, new: NewExecution, connection: None = None) -> StartedExecution:
        return database_step(lambda: self._create(new))

    def _create(self, new: NewExecution) -> StartedExecution:
        return StartedExecution(new.execution_id, True, self._database.create(new).updated_at)

    def update_execution(self, commit: NodeCommit) -> CommitResult:
        result = database_step(lambda: self._commit_together(commit), COMMIT)
        ended, self._database.uncounted = self._database.uncounted, []
        if not ended:
            return result
        return replace(result, follow_ups=database_step(lambda: self._count_ends(ended)))

    def send_updates(self, commits: Sequence[NodeCommit]) -> ReplyInMemory | None:
        """Send the commit of an execution that has no parent."""
        (commit,) = commits
        if self._database.row(commit.execution_id).place is not None:
            return None
        number = next(self._database.sent)
        return database_step(
            lambda: ReplyInMemory(number, lambda: self._commit_together(commit), commit.execution_id)
        )

    def _count_ends(self, ended: list[tuple[Place, ExecutionStatus]]) -> FollowUps | None:
        """Count ends of children in a step of its own, as the engine does not."""
        counted = [self._database.child_finished(*each) for each in ended]
        return next((each for each in counted if each is not None), None)

    def _commit_together(self, commit: NodeCommit) -> CommitResult:
        row, before = self._database.row(commit.execution_id), commit.before
        first = (*before, commit)[0]
        holds = first.fence == row.fence or "fence" not in self._database.checks
        if holds and commit.token != row.fence and not row.status.is_finished:
            for each in before:
                self._append_row(row, each)
            if commit.passes_crash_to is not None and commit.node_id in row.crashes:
                blamed = row.crashes.get(commit.passes_crash_to, Crashes())
                row.crashes[commit.passes_crash_to] = replace(row.crashes[commit.node_id], begun=blamed.begun)
        return self._commit(commit)

    def _commit(self, commit: NodeCommit) -> CommitResult:
        row = self._database.row(commit.execution_id)
        if commit.iteration is not None and (result := self._after_child(row, commit)) is not None:
            return result
        is_behind = commit.shared_since is not None and commit.fence != row.fence
        if is_behind and (result := self._commit_behind_siblings(row, commit)) is not None:
            return result
        may_move = commit.fence == row.fence or "fence" not in self._database.checks
        follow_ups = None
        if may_move and commit.token != row.fence and not row.status.is_finished:
            follow_ups = self._append(row, commit)
        elif REPEATED_END not in self._database.checks and row.place is not None and row.status.is_finished:
            follow_ups = self._database.child_finished(row.place, row.status)
        elif row.fence == commit.token:
            follow_ups = self._database.outstanding(row, commit, row.seq)
        return self._reply(row, accepted=row.fence == commit.token, follow_ups=follow_ups)

    def _after_child(self, row: ExecutionRow, commit: NodeCommit) -> CommitResult | None:
        """Go on with a wait, or refuse to; return None for an ordinary commit. As `commit_iteration` does."""
        iteration = commit.iteration
        assert iteration is not None
        wait = next(each for each in row.waits if each.seq == iteration.wait_seq)
        assert wait.children is not None
        is_open = wait.status in OPEN
        is_current = is_open and (
            wait.status is WaitStatus.RESUMING and wait.children.plan.first == iteration.index
        )
        is_current = is_current or ITERATION not in self._database.checks
        if not iteration.goes_on:
            return None if is_current or not is_open else self._reply(row, accepted=False)
        if is_current and is_open:
            return self._gone_on(row, wait, commit)
        if is_open and wait.children.token == commit.token:
            again = self._database.outstanding(row, commit, wait.seq)
            return self._reply(row, accepted=True, follow_ups=again)
        return self._reply(row, accepted=False)

    def _gone_on(self, row: ExecutionRow, wait: WaitRow, commit: NodeCommit) -> CommitResult:
        now = row.updated_at = self._database.clock.now()
        assert commit.opens is not None
        assert commit.opens.children is not None
        plan = commit.opens.children
        due = None if plan.starts_in is None else now + timedelta(seconds=plan.starts_in)
        wait.status, wait.claims, wait.claimed_until = WaitStatus.WAITING, 0, None
        wait.children = ChildrenRow(plan, due=due, token=commit.token)
        row.crashes.pop(commit.node_id, None)
        return self._reply(row, accepted=True, follow_ups=self._database.go_on_with_children(row, wait))

    @staticmethod
    def _reply(row: ExecutionRow, *, accepted: bool, follow_ups: FollowUps | None = None) -> CommitResult:
        return CommitResult(
            accepted, row.seq, row.status, row.fence, row.wake_requested, row.updated_at, follow_ups
        )

    def _commit_behind_siblings(self, row: ExecutionRow, commit: NodeCommit) -> CommitResult | None:
        """Append a row behind those that its node has not seen; return None if it may not follow them."""
        since, checks = commit.shared_since or 0, self._database.checks
        missed = [each for each in row.journal if each.entry.seq > since]
        if row.status.is_finished:
            return None
        if "chain" in checks and not self._follows(row, commit, len(missed)):
            return None
        tokens = {row.tokens[each.entry.seq]: each.entry.seq for each in missed}
        if (own := tokens.get(commit.token)) is not None:
            before = [each for each in missed if each.entry.seq < own]
            again = self._database.outstanding(row, commit, own)
            return replace(self._result(row, commit.token, own, before), follow_ups=again)
        if "own node" in checks and (commit.node_id, commit.visit) in {
            (each.entry.node_id, each.entry.visit) for each in missed
        }:
            return None
        if {commit.node_id, *(each.entry.node_id for each in missed)}.intersection(commit.ordered):
            return replace(self._result(row, row.fence, row.seq, missed), accepted=False, is_behind=True)
        is_failure = commit.execution_status is ExecutionStatus.FAILED
        status = commit.execution_status if is_failure else ExecutionStatus.RUNNING
        may_be_due = (*commit.newly_due, *commit.joins)
        follow_ups = self._append(row, replace(commit, execution_status=status, newly_due=may_be_due))
        return replace(self._result(row, commit.token, row.seq, missed), follow_ups=follow_ups)

    def _follows(self, row: ExecutionRow, commit: NodeCommit, missed: int) -> bool:
        return missed == row.seq - (commit.shared_since or 0) and commit.fence in (
            row.tokens.get(commit.shared_since),
            row.epoch_fence,
        )

    def _result(self, row: ExecutionRow, fence: str, seq: int, missed: Sequence[JournalRow]) -> CommitResult:
        seen = tuple(replace(each, output=None) for each in missed)
        return CommitResult(True, seq, row.status, fence, row.wake_requested, row.updated_at, missed=seen)

    def settle(self, execution_id: str, status: ExecutionStatus, fence: str) -> Settled | None:
        return database_step(lambda: self._settled(execution_id, status, fence))

    def _settled(self, execution_id: str, status: ExecutionStatus, fence: str) -> Settled | None:
        row = self._database.row(execution_id)
        if row.status is not ExecutionStatus.RUNNING or row.fence != fence:
            return None
        return Settled(status, self._put(execution_id, status, None))

    def _append_row(self, row: ExecutionRow, new: NewRow, retry: Mapping[str, Any] = NO_RETRY) -> None:
        row.fence, row.seq, row.updated_at = new.token, row.seq + 1, self._database.clock.now()
        row.tokens[row.seq] = new.token
        row.started_at = row.started_at or row.updated_at - timedelta(milliseconds=new.duration_ms)
        row.crashes.pop(new.node_id, None)
        entry = JournalEntry(
            seq=row.seq,
            node_id=new.node_id,
            visit=new.visit,
            attempt=new.attempt,
            status=new.status,
            handles=new.handles,
            waits=bool(retry.get("waitMs")),
            rule=retry.get("rule"),
        )
        variables = orjson.loads(new.variables) if new.variables is not None else None
        row.journal.append(JournalRow(entry, new.output, variables))
        row.accepted.append(new)

    def _append(self, row: ExecutionRow, commit: NodeCommit) -> FollowUps | None:
        self._append_row(row, commit, commit.retry_details or NO_RETRY)
        for wait in open_waits(row):
            if wait.node_id in commit.closes:
                is_own = wait.node_id == commit.node_id and commit.woken_status is not None
                status = commit.woken_status if is_own else WaitStatus.CANCELLED
                self._database.close(wait, status or WaitStatus.CANCELLED)
        follow_ups = None
        if commit.opens is not None:
            row.waits.append(self._opened(row, commit))
            if commit.opens.children is not None:
                follow_ups = self._database.go_on_with_children(row, row.waits[-1])
        if commit.execution_status.is_finished:
            error = commit.error if commit.execution_status is ExecutionStatus.FAILED else None
            follow_ups = self._database.end(row, commit.execution_status, fence=commit.token, error=error)
        elif hit := [each for each in commit.newly_due if each in row.breakpoints]:
            put_aside_or_on(row, ExecutionStatus.PAUSED, row.updated_at)
            row.history.append(("PAUSED", "breakpoint", f"breakpoint before {', '.join(hit)}"))
        elif row.status is not ExecutionStatus.PAUSED:
            row.status = commit.execution_status
        if row.status is not ExecutionStatus.RUNNING:
            row.context = context_at_rest(row)
        return follow_ups

    def _opened(self, row: ExecutionRow, commit: NodeCommit) -> WaitRow:
        opens, now = commit.opens, row.updated_at
        assert opens is not None
        assert opens.type is not WaitType.EVENTS, "events are not simulated"
        resume_at = opens.resume_at or now + timedelta(seconds=opens.resume_in or 0)
        wait = WaitRow(commit.node_id, row.seq, commit.visit, opens.type, resume_at, commit.attempt, now)
        if opens.children is not None:
            items = orjson.loads(commit.input_data or b"{}").get("items", [])
            starts_in = opens.children.starts_in
            due = None if starts_in is None else now + timedelta(seconds=starts_in)
            wait.resume_at, wait.children = None, ChildrenRow(opens.children, items, due=due)
        if opens.resume_at is not None and opens.resume_at <= now:
            wait.status, wait.claims = WaitStatus.RESUMING, 1
            wait.claimed_until = now + timedelta(seconds=CLAIM_LEASE)
            row.wake_requested = True
        return wait

    def update_execution_status(
        self, execution_id: str, status: ExecutionStatus, *, error: str | None = None
    ) -> FollowUps | None:
        return database_step(lambda: self._put(execution_id, status, error))

    def _put(self, execution_id: str, status: ExecutionStatus, error: str | None) -> FollowUps | None:
        row = self._database.row(execution_id)
        if status not in LEGAL_MOVES[row.status]:
            raise IllegalMove(execution_id, row.status.value, status.value)
        if status.is_finished:
            is_failure = status is ExecutionStatus.FAILED
            reason = error or "no reason was given" if is_failure else None
            return self._database.end(row, status, error=reason)
        put_aside_or_on(row, status, self._database.clock.now())
        return None

    def status_of(self, execution_id: str) -> ExecutionStatus:
        return database_step(lambda: self._database.row(execution_id).status)

    def persist_context(self, execution_id: str, fence: str, context: Mapping[str, Any]) -> bool:
        return database_step(lambda: self._persist(execution_id, fence, context))

    def _persist(self, execution_id: str, fence: str, context: Mapping[str, Any]) -> bool:
        row = self._database.executions.get(execution_id)
        if row is None or row.fence != fence:
            return False
        row.context.update((key, value) for key, value in context.items() if key != "nodeOutputs")
        return True

    def load_snapshot(self, execution_id: str, *, with_outputs: bool = True) -> Snapshot | None:
        return database_step(lambda: self._snapshot(execution_id, with_outputs))

    def _snapshot(self, execution_id: str, with_outputs: bool) -> Snapshot | None:
        if (row := self._database.executions.get(execution_id)) is None:
            return None
        return Snapshot(
            execution_id=execution_id,
            workflow_id="#".join(filter(None, (row.new.workflow_id, row.new.body))),
            version=row.new.version,
            trigger_id=row.new.trigger_id,
            trigger_node_id=row.new.trigger_node_id,
            status=row.status,
            has_begun=row.started_at is not None,
            fence=row.fence,
            seq=row.seq,
            format=FORMAT,
            priority=row.new.priority,
            crashes=dict(row.crashes),
            read_at=self._database.clock.now(),
            metadata=dict(row.metadata),
            visits=dict(row.visits),
            journal=tuple(
                row.journal
                if with_outputs
                else (replace(each, output=None, variables=None) for each in row.journal)
            ),
            queue=row.new.queue,
            has_breakpoints=bool(row.breakpoints),
        )

    def load_output(self, execution_id: str, node_id: str) -> bytes | None:
        return database_step(lambda: self._output(execution_id, node_id))

    def _output(self, execution_id: str, node_id: str) -> bytes | None:
        row = self._database.executions.get(execution_id)
        found = [
            journalled.output
            for journalled in (row.journal if row is not None else ())
            if journalled.entry.node_id == node_id and journalled.entry.status.is_final and journalled.output
        ]
        return found[-1] if found else None

    def count_crash(self, execution_id: str, node_id: str, seq: int, what: str) -> Crashes:
        return database_step(lambda: self._counted(execution_id, node_id, seq, what))

    def _counted(self, execution_id: str, node_id: str, seq: int, what: str) -> Crashes:
        row = self._database.executions.get(execution_id)
        if row is None or row.status.is_finished:
            return Crashes()
        if any(each.entry.node_id == node_id and each.entry.seq > seq for each in row.journal):
            return Crashes()
        before = row.crashes.get(node_id, Crashes())
        row.crashes[node_id] = replace(before, count=before.count + 1, last=what)
        return row.crashes[node_id]

    def mark_begun(self, execution_id: str, node_id: str, seq: int, run: BegunRun) -> BegunRun | None:
        return database_step(lambda: self._marked(execution_id, node_id, seq, run))

    def _marked(self, execution_id: str, node_id: str, seq: int, run: BegunRun) -> BegunRun | None:
        row = self._database.executions.get(execution_id)
        if row is None or row.status.is_finished:
            return None
        crashes = row.crashes.get(node_id, Crashes())
        if any(each.entry.node_id == node_id and each.entry.seq > seq for each in row.journal):
            return crashes.begun
        begun = crashes.begun if "mark" in self._database.checks else None
        if begun is not None and begun.token != run.token and begun.visit >= run.visit:
            return begun
        row.crashes[node_id] = replace(crashes, begun=run)
        return run

    def unmark_begun(self, execution_id: str, node_id: str, token: str) -> None:
        database_step(lambda: self._unmarked(execution_id, node_id, token))

    def _unmarked(self, execution_id: str, node_id: str, token: str) -> None:
        row = self._database.executions.get(execution_id)
        crashes = row.crashes.get(node_id) if row is not None else None
        if row is None or crashes is None or crashes.begun is None or crashes.begun.token != token:
            return
        row.crashes[node_id] = replace(crashes, begun=None)
        if not crashes.count:
            del row.crashes[node_id]

    def record(self, *_: Any, **__: Any) -> None:
        database_step(lambda: None)

    def seconds_since_move(self, execution_id: str) -> float:
        return database_step(lambda: self._since_move(execution_id))

    def _since_move(self, execution_id: str) -> float:
        return (self._database.clock.now() - self._database.row(execution_id).updated_at).total_seconds()

    def load_definition(self, workflow_id: str, version: int) -> dict[str, Any] | None:
        return database_step(lambda: self._database.definitions.get((workflow_id, version)))


def database_step(call: Callable[[], Answer], what: str = "") -> Answer:
    return step(call, DatabaseUnavailable("simulated"), what)
