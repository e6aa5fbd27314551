"""Commits: a node's outcome is offered to the journal in Postgres, which decides (step 3 of a hop)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from workflow_engine.engine.children import REFUSED
from workflow_engine.engine.failure_workflows import FailureWorkflows
from workflow_engine.engine.hop import After, Committed, Hop
from workflow_engine.engine.inline import MOST_BYTES_UNCOMMITTED, size_of
from workflow_engine.engine.observation.counts import count_commits
from workflow_engine.engine.steps.known_commits import KnownCommits, is_due_in, row_of
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import BackingServiceUnavailable, ChildrenRefused, InvalidValue
from workflow_engine.execution.messages import NextMessage
from workflow_engine.execution.records import (
    CommitResult,
    FailureStart,
    JournalRow,
    NodeCommit,
    PureRow,
)
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.execution.walk import Step, Walk
from workflow_engine.nodes.results import NodeError
from workflow_engine.outages import retry_unavailable
from workflow_engine.postgres.executions.state import CommitReply
from workflow_engine.runner.node_run import Outcome
from workflow_engine.settings import Settings

MOST_BYTES_TOGETHER = 100_000
"""Bytes of a commit that may share a statement with others."""


@dataclass(frozen=True, eq=False)
class AwaitedCommit:
    """An outcome on its way to Postgres, while the process serves the next message."""

    hop: Hop
    outcome: Outcome
    walk: Walk
    cancelled: tuple[str, ...]
    before: tuple[Committed, ...]
    """The pure nodes whose rows are committed together with its own."""
    commit: NodeCommit

    def is_of(self, message: NextMessage) -> bool:
        """Return whether a message is one of the same execution."""
        return message.message.execution_id == self.hop.execution_id

    @property
    def may_join_others(self) -> bool:
        """True if one statement may commit it together with those of other executions."""
        commit = self.commit
        stands_in_line = commit.queue_timeouts or commit.has_queue_timeout
        return commit.only_appends and not stands_in_line and commit.size <= MOST_BYTES_TOGETHER

    @property
    def expected(self) -> Committed:
        """What the hop has come to if nothing has come in between."""
        result = CommitResult(
            accepted=True,
            seq=self.hop.cached.seq + 1,
            status=self.commit.execution_status,
            fence=self.hop.token,
            wake_requested=False,
            committed_at=datetime.now(UTC),
        )
        return Committed(self.hop, self.outcome, self.walk, result, self.cancelled, is_awaited=True)


@dataclass(frozen=True)
class SentCommits:
    """Commits that were sent in one statement, whose results have yet to be read."""

    awaited: Sequence[AwaitedCommit]
    reply: CommitReply


Offer = tuple[AwaitedCommit, Callable[[], Committed]]
"""A commit, and the call that returns what it has come to."""


class End(NamedTuple):
    """A node that has run, and its outcome."""

    hop: Hop
    outcome: Outcome


class _InLine(NamedTuple):
    """An end on top of those before it, the walk after it, and its step."""

    hop: Hop
    outcome: Outcome
    walk: Walk
    step: Step


class Commits:
    """Offers outcomes to the journal. One instance serves a process."""

    def __init__(self, stores: Stores, failure_workflows: FailureWorkflows, settings: Settings) -> None:
        self._state = stores.state
        self._known = KnownCommits()
        self._queue_deadlines = stores.queue_deadlines
        self._failure_workflows = failure_workflows
        self._settings = settings

    def commit(
        self, hop: Hop, outcome: Outcome, before: Sequence[Committed] = (), after: After | None = None
    ) -> Committed:
        """Commit the outcome, retrying while Postgres is away; the node fails for content that it refuses.

        `before` are the pure nodes whose rows are committed together with its own. `after` is the walk after
        the outcome and its step, if they are known; siblings change them.
        """
        done = self._commit(hop, outcome, before, after)
        count_commits(done, before)
        return done

    def _commit(
        self, hop: Hop, outcome: Outcome, before: Sequence[Committed] = (), after: After | None = None
    ) -> Committed:
        try:
            return self._offer(hop, outcome, after)
        except InvalidValue as refusal:
            if before:
                return self._commit_one_by_one(before, hop, outcome)
            name = REFUSED if isinstance(refusal, ChildrenRefused) else type(refusal).__name__
            return self._offer(hop, hop.failure_outcome(NodeError(name, str(refusal))))

    def commit_jointly(self, ends: Sequence[End]) -> list[Committed]:
        """Commit nodes that have ended beside one another as if one after the other, by one statement.

        Return what those have come to that were committed: all that can be put in line, or none if another
        process has committed in between. The rest has to be committed one by one. Raises
        `DatabaseUnavailable` once Postgres has been away for long.
        """
        line = self._in_line(ends)
        if len(line) < 2:
            return []
        last, execution_id = line[-1], line[-1].hop.execution_id
        commit = last.hop.commit_of(*last[1:], self._settings.unknown_type_timeout)
        try:
            result = retry_unavailable(
                partial(self._state.update_execution, commit),
                self._settings.commit_retry_timeout,
                f"commit {len(line)} nodes of execution {execution_id}",
            )
        except InvalidValue:
            return []
        if not result.accepted:
            self._known.note_refusal(execution_id)
            return []
        self._known.note(commit, last.hop, last.walk, result)
        committed = [
            Committed(hop, outcome, walk, replace(result, seq=hop.cached.seq + 1, fence=hop.token))
            for hop, outcome, walk, _ in line
        ]
        for done in committed:
            count_commits(done, ())
        return committed

    def is_contended(self, execution_id: str) -> bool:
        """Return whether other processes commit so often that `commit_jointly` would mostly fail."""
        return self._known.is_contended(execution_id)

    def _in_line(self, ends: Sequence[End]) -> list[_InLine]:
        """Put ends in line, on top of the latest commit that is known here.

        Something is due after each, so that the next one or the execution goes on. An end that does not fit
        is left out.
        """
        line: list[_InLine] = []
        rows: list[JournalRow] = []
        uncommitted: tuple[PureRow, ...] = ()
        base, size = (0, ""), 0
        for end in ends:
            hop, outcome = self._known.caught_up(end.hop), end.outcome
            if line:
                before = line[-1]
                if (hop.cached.seq, hop.cached.fence) != base or not is_due_in(before.walk, hop):
                    continue
                on_top = hop.caught_up(rows, before.hop.token, before.walk)
                hop = replace(on_top, uncommitted=uncommitted)
            walk, step = hop.walk_after(outcome)
            row = hop.pure_row_of(outcome, walk, step)
            size += size_of(row)
            if step.cancelled or not walk.due or (line and size > MOST_BYTES_UNCOMMITTED):
                continue
            base = base if line else (hop.cached.seq, hop.cached.fence)
            line.append(_InLine(hop, outcome, walk, step))
            rows.append(row_of(row, hop.cached.seq + 1))
            uncommitted = (*uncommitted, row)
        return line

    def prepared(
        self, hop: Hop, outcome: Outcome, walk: Walk, step: Step, before: Sequence[Committed]
    ) -> AwaitedCommit | None:
        """Return a commit that can be sent without waiting for its result; None if there is none.

        `walk` and `step` are those after the outcome.
        """
        commit = hop.commit_of(outcome, walk, step, self._settings.unknown_type_timeout)
        if commit.opens is not None:
            return None
        return AwaitedCommit(hop, outcome, walk, step.cancelled, tuple(before), commit)

    def send(self, awaited: Sequence[AwaitedCommit]) -> SentCommits | None:
        """Send one commit, or several that may join others. Return None if nothing can be sent now.

        `received` has to be called with what this returns.
        """
        with suppress(Exception):  # each is offered by itself then, and meets the error again if it lasts
            if (reply := self._state.send_updates([each.commit for each in awaited])) is not None:
                return SentCommits(awaited, reply)
        return None

    def received(self, sent: SentCommits) -> Iterator[Offer]:
        """Wait for the reply, and yield each commit with the call that returns what it has come to.

        If the statement has failed, each call offers its commit again, by itself, and raises as `commit`.
        """
        results: Mapping[str, CommitResult] = {}
        with suppress(Exception):  # it belongs to no single hop
            results = sent.reply.results()
        for awaited in sent.awaited:
            yield awaited, partial(self._received, awaited, results.get(awaited.hop.execution_id))

    def offered(self, awaited: AwaitedCommit) -> Offer:
        """Return a commit that was not sent with the call that offers it."""
        return awaited, partial(self._received, awaited, None)

    def _received(self, awaited: AwaitedCommit, result: CommitResult | None) -> Committed:
        if result is None:
            return self.commit(awaited.hop, awaited.outcome, awaited.before)
        done = Committed(awaited.hop, awaited.outcome, awaited.walk, result, awaited.cancelled)
        count_commits(done, awaited.before)
        return done

    def rest(self) -> None:
        """Close what `send` keeps open."""
        self._state.rest()

    def _commit_one_by_one(self, before: Sequence[Committed], hop: Hop, outcome: Outcome) -> Committed:
        """Commit each of these nodes alone, up to the one whose content Postgres refuses, which fails."""
        for each in before:
            done = self._commit(replace(each.hop, uncommitted=()), each.outcome)
            if done.outcome is not each.outcome or not done.result.accepted:
                return done
        return self._commit(replace(hop, uncommitted=()), outcome)

    def _offer(self, hop: Hop, outcome: Outcome, after: After | None = None) -> Committed:
        """Offer the outcome, again on top of what siblings have committed if it depends on that."""
        while True:
            hop = self._known.caught_up(hop) if hop.is_shared else hop
            walk, step = after or hop.walk_after(outcome)
            commit = hop.commit_of(outcome, walk, step, self._settings.unknown_type_timeout)
            if outcome.ends_execution and hop.workflow.workflow.on_failure is not None:
                commit = replace(commit, on_failure=self._started_by_failure(hop, outcome))
            result = retry_unavailable(
                partial(self._state.update_execution, commit),
                self._settings.commit_retry_timeout,
                f"commit node {hop.node.id} of execution {hop.execution_id}",
            )
            if not hop.is_shared or hop.goes_on(outcome):
                return Committed(hop, outcome, walk, result, step.cancelled)
            hop = self._caught_up(hop, result)
            if result.accepted:
                walk, step = hop.walk_after(outcome)
                self._known.note(commit, hop, walk, result)
                if late := hop.queue_timeouts_after(walk).items() - commit.queue_timeouts.items():
                    self._begin_queue_time(hop, dict(late))
                return Committed(hop, outcome, walk, self._settle(hop, walk, result), step.cancelled)
            if not result.is_behind or not hop.is_due:
                self._known.forget(hop.execution_id)
                return Committed(hop, outcome, walk, result)

    def _caught_up(self, hop: Hop, result: CommitResult) -> Hop:
        """Return the hop on top of what siblings have committed, as the result of its commit shows."""
        if not result.missed:
            return hop
        seq = result.missed[-1].entry.seq
        if (known := self._known.caught_up(hop)).cached.seq <= seq:
            hop = known  # a sibling in this process has been through most of the rows
        missed = [row for row in result.missed if row.entry.seq > hop.cached.seq]
        return hop.caught_up(missed, result.fence) if missed else hop

    def _begin_queue_time(self, hop: Hop, timeouts: Mapping[str, float]) -> None:
        """Note nodes of which only the rows of siblings have shown that this commit sends them."""
        with suppress(BackingServiceUnavailable):  # without it they may stand there for longer
            self._queue_deadlines.add(hop.execution_id, timeouts)

    def _started_by_failure(self, hop: Hop, outcome: Outcome) -> FailureStart | None:
        return retry_unavailable(
            partial(self._failure_workflows.of_commit, hop, outcome),
            self._settings.commit_retry_timeout,
            f"make ready what the failure of execution {hop.execution_id} starts",
        )

    def _settle(self, hop: Hop, walk: Walk, result: CommitResult) -> CommitResult:
        """Bring an execution to rest if nothing is due, which its last commit did not know."""
        if result.status is not ExecutionStatus.RUNNING or walk.due:
            return result
        status = ExecutionStatus.COMPLETED if walk.is_finished else ExecutionStatus.WAITING
        settled = retry_unavailable(
            lambda: self._state.settle(hop.execution_id, status, result.fence),
            self._settings.commit_retry_timeout,
            f"settle execution {hop.execution_id}",
        )
        if settled is None:
            return result
        return replace(result, status=settled.status, follow_ups=settled.follow_ups or result.follow_ups)
