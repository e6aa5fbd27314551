"""WorkflowExecutor: one hop of an execution, from a message to the next message.

A hop is five steps: enter (lock and read), run, commit, leave (write and unlock), enqueue. Postgres
decides in the third; the others can fail or be repeated at any point without losing or doubling a result.

In a workflow with `hops: inline` the worker runs and commits further nodes before it leaves, for a slice of
time. Each has its own journal row and its own check of the fence; the slice saves everything else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from workflow_engine.engine.ahead import Ahead
from workflow_engine.engine.failure_workflows import FailureWorkflows
from workflow_engine.engine.hop import Committed, Hop, worker_name
from workflow_engine.engine.hop_report import INTERRUPTED, HopEnd, HopReport, dropped
from workflow_engine.engine.inline import Slice
from workflow_engine.engine.observation.spans import Spans
from workflow_engine.engine.overlap import Overlap
from workflow_engine.engine.publisher import Publisher
from workflow_engine.engine.resumption import Resumption
from workflow_engine.engine.siblings import Siblings
from workflow_engine.engine.steps.admission import Admission, NotAdmitted, Overtaken
from workflow_engine.engine.steps.attempts import Attempts
from workflow_engine.engine.steps.commits import Commits
from workflow_engine.engine.steps.departure import Departure
from workflow_engine.engine.steps.joint_ends import JointEnds
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import (
    BackingServiceUnavailable,
    CacheUnavailable,
    DatabaseOutdated,
    ExecutionNotFound,
    Requeue,
)
from workflow_engine.execution.messages import HopMessage, LookAhead, sees_nothing
from workflow_engine.execution.records import (
    Crashes,
    NewExecution,
    StartedExecution,
)
from workflow_engine.execution.states import ExecutionStatus, HistoryLine
from workflow_engine.nodes.results import NodeError
from workflow_engine.redis.running_nodes import RunningNodes
from workflow_engine.runner.compiled import CompiledWorkflows
from workflow_engine.runner.interruption import NodeInterrupted
from workflow_engine.runner.node_run import Outcome
from workflow_engine.settings import Settings
from workflow_engine.telemetry import counting
from workflow_engine.telemetry.log_events import LogEvent, log_fields

if TYPE_CHECKING:
    from workflow_engine.postgres.caller_transaction import CallersTransaction  # brings SQLAlchemy

log = logging.getLogger(__name__)


class WorkflowExecutor:
    """Runs executions node by node. One instance serves a process.

    It holds no state of an execution, except for hops whose ends overlap with the next ones (`Overlap`).
    """

    def __init__(
        self,
        stores: Stores,
        workflows: CompiledWorkflows,
        attempts: Attempts,
        running_nodes: RunningNodes,
        publisher: Publisher,
        settings: Settings,
        spans: Spans | None = None,
    ) -> None:
        self._state = stores.state
        self._cache = stores.cache
        self._locks = stores.locks
        self._workflows = workflows
        self._resumption = Resumption(stores, workflows, publisher, settings)
        self.admission = Admission(stores, workflows, self._resumption)
        self._attempts = attempts
        self._commits = Commits(stores, FailureWorkflows(stores, workflows, settings), settings)
        siblings = Siblings(stores, running_nodes, publisher, self._resumption, settings)
        self._departure = Departure(stores, siblings, self._resumption, publisher, settings)
        self.joint_ends = JointEnds(self._commits, self._departure)
        self._overlap = Overlap(stores, self.admission, self._commits, self._departure, self._resumption)
        self._ahead = Ahead(attempts, self._commits, self._overlap)
        self._publisher = publisher
        self._spans = spans

    def execute_workflow(
        self, new: NewExecution, transaction: CallersTransaction | None = None
    ) -> StartedExecution:
        """Create an execution and send its first node to the workers.

        In a transaction of the caller, the message waits for its commit. If the broker accepts no message,
        the execution exists all the same, and recovery finds it.
        """
        if self._spans is not None:
            return self._spans.start(new, partial(self._execute, transaction=transaction))
        return self._execute(new, transaction)

    def _execute(self, new: NewExecution, transaction: CallersTransaction | None) -> StartedExecution:
        if transaction is not None:
            return self._execute_in(transaction, new)
        started = self._state.create_execution(new)
        if started.is_new:
            self._publisher.begin(new, started)
        else:
            # The start that used this key before may have ended between its commit and its message.
            self._begin_if_pending(new, started)
        return started

    def execute_workflows(
        self, new: Sequence[NewExecution], transaction: CallersTransaction | None = None
    ) -> list[StartedExecution]:
        """Create executions with one statement, and send their first nodes in one round trip."""
        if self._spans is not None:
            new = [self._spans.begin(each) for each in new]
        started = self._state.create_executions(new, transaction.statements if transaction else None)
        begun = [pair for pair in zip(new, started, strict=True) if pair[1].is_new]
        if transaction is None:
            self._publisher.begin_all(begun)
            return started
        if begun:
            transaction.after_commit(begun[0][1].id, partial(self._publisher.begin_all, begun))
        pairs = zip(new, started, strict=True)
        return [replace(one, _publish=partial(self._begin_if_pending, each, one)) for each, one in pairs]

    def continue_execution(
        self,
        message: HopMessage,
        task_id: str = "",
        traceparent: str | None = None,
        look_ahead: LookAhead = sees_nothing,
    ) -> HopReport:
        """Run one node of an execution, enqueue the next, and report how the node ended.

        A message for a node that is not due is dropped. Raises `LeftToOthers` for an execution that a newer
        worker has written. Raises `Requeue` if the message has to be delivered again later: a server cannot
        be reached, migrations have to be applied first, or the node needs a newer worker.

        `traceparent` is the trace context of what led to the message. If `look_ahead` returns a message, this
        hop may end while that one is served; if it is not served after all, `settle` has to be called.
        """
        with message.log_context():
            return self._hop(message, task_id, self._attempts.run, traceparent, look_ahead)

    def settle(self) -> None:
        """Finish the last hop, and release the next node, whose message will not be served here."""
        self._overlap.settle()

    def fail_node(self, message: HopMessage, error: NodeError) -> None:
        """Fail the current attempt of a node whose process could not do so itself.

        Takes the same steps as running the node, and raises the same errors.
        """
        with message.log_context():
            self._hop(message, "", lambda hop: hop.attempt_failure_outcome(error))

    def expire_node(self, message: HopMessage) -> None:
        """Fail a node that has stood in its queue for too long, unless it begins now or has begun.

        Takes the same steps as running the node, and raises the same errors.
        """
        with message.log_context():
            self._hop(message, "", self._attempts.expired)

    def count_crash(self, message: HopMessage, seq: int, what: str) -> Crashes:
        """Count the crash of the process that ran the node of a message on top of `seq`; `what` says how.

        Return the crashes of that node since its last commit; none if the run had committed.
        """
        workflow = self._workflows.get(message.workflow, message.version)
        crashes = self._resumption.count_crash(message.execution_id, workflow, message.node_id, seq, what)
        self._cache.remove_from_cache(message.execution_id)  # it lacks this crash
        return crashes

    def resume_execution(self, execution_id: str) -> bool:
        """Enqueue what the journal shows as due of an execution that may have stopped moving.

        A second call, or one for an execution that is moving, is harmless: workers admit these messages like
        any other. Return False if there was nothing to do: the lock is held, or the execution does not exist,
        is paused or has ended.
        """
        return self._resumption.resume(execution_id)

    # -- an execution begins -----------------------------------------------------------------------------

    def _execute_in(self, transaction: CallersTransaction, new: NewExecution) -> StartedExecution:
        started = self._state.create_execution(new, transaction.statements)
        if started.is_new:
            transaction.after_commit(started.id, partial(self._publisher.begin, new, started))
        return replace(started, _publish=partial(self._begin_if_pending, new, started))

    def _begin_if_pending(self, new: NewExecution, started: StartedExecution) -> None:
        if self._state.status_of(started.id) is not ExecutionStatus.PENDING:
            return
        if started.is_new:
            self._publisher.begin(new, started)
        else:
            self.resume_execution(started.id)  # with what it was started with, which may be another version

    # -- one hop: 1 enter (`Admission`), 2 run (`Attempts`), 3 commit (`Commits`), 4 leave and 5 enqueue
    # (`Departure`), some of which may go on beside the next hop (`Overlap`) --

    def _hop(
        self,
        message: HopMessage,
        task_id: str,
        run: Callable[[Hop], Outcome],
        traceparent: str | None = None,
        look_ahead: LookAhead = sees_nothing,
    ) -> HopReport:
        try:
            entered = self._overlap.entered(message, task_id)
            hop = self.admission.admit(message, task_id, entered, traceparent)
            self._overlap.make_way(hop)
            return self._run_and_leave(hop, run, look_ahead)
        except (NotAdmitted, ExecutionNotFound) as reason:
            _log_dropped(message, reason)
            return dropped(reason)
        except (BackingServiceUnavailable, DatabaseOutdated) as error:
            raise Requeue(str(error)) from error
        finally:
            self._overlap.end()

    def _run_and_leave(self, hop: Hop, run: Callable[[Hop], Outcome], look_ahead: LookAhead) -> HopReport:
        slice_ = Slice(self._locks)
        with self._resumption.release_on_error(hop.claim):
            done = self._run_until_committed(hop, run, slice_, look_ahead)
        report = done.report if done is not None else INTERRUPTED
        while done is not None and (following := slice_.following(done)) is not None:
            self._publisher.follow_up(done.result.follow_ups)
            done = self._walk_on(done, following, slice_, look_ahead)
            report = report.followed_by(done.report) if done is not None else report
        if done is not None and not done.is_awaited and not done.is_left:
            self._overlap.leave(done, look_ahead)
        if done is not None and done.result.follow_ups is not None:
            report = replace(report, restarting=done.result.follow_ups.restarting)
        return report

    def _run_until_committed(
        self, hop: Hop, run: Callable[[Hop], Outcome], slice_: Slice, look_ahead: LookAhead
    ) -> Committed | None:
        """Run a node and, if it is pure, those up to the next one that is not, and commit them together."""
        done = self._run_and_commit(hop, run, slice_, look_ahead)
        while done is not None and done.followed_by is not None:
            with done.followed_by.log_context():
                done = self._run_and_commit(done.followed_by, self._attempts.run, slice_, look_ahead)
        return done

    def _run_and_commit(
        self, hop: Hop, run: Callable[[Hop], Outcome], slice_: Slice, look_ahead: LookAhead
    ) -> Committed | None:
        """Run a node and commit its outcome, unless it is pure and another follows before the commit.

        Return None if it was interrupted, and its execution left. Any other end without a commit is counted,
        unless the message is requeued or the whole process exits, which its parent counts.
        """
        try:
            if self._spans is None:
                return self._attempt(hop, run, slice_, look_ahead)
            return self._spans.attempt(self._attempt, hop, run, slice_, look_ahead)
        except NodeInterrupted:
            self._abandon(hop)
            return None
        except Overtaken:
            _ = self._cache.discard(hop.claim)  # the execution is resumed in any case
            self.resume_execution(hop.execution_id)
            raise
        except (NotAdmitted, Requeue, BackingServiceUnavailable, DatabaseOutdated, SystemExit):
            raise
        except BaseException as error:
            self._resumption.count_error(hop.execution_id, hop.node.id, hop.committed_seq, error)
            raise
        finally:
            self._attempts.finished(hop)

    def _attempt(
        self, hop: Hop, run: Callable[[Hop], Outcome], slice_: Slice, look_ahead: LookAhead
    ) -> Committed:
        """Run a node and commit it, unless that is put off, or awaited beside the next message."""
        outcome = run(hop)
        self._overlap.note(hop, outcome)
        if hop.is_shared:
            self._overlap.conclude()  # before this process waits for Postgres
            return self.joint_ends.commit(hop, outcome)
        after = hop.walk_after(outcome)
        if (put_off := slice_.put_off(hop, outcome, after)) is not None:
            return put_off
        if (done := self._overlap.commit(hop, outcome, after, slice_, look_ahead)) is not None:
            return done
        self._overlap.conclude()
        if (done := self._ahead.commit(hop, outcome, after, slice_)) is not None:
            return done
        return self._commits.commit(hop, outcome, slice_.take_uncommitted(), after)

    def _walk_on(
        self, done: Committed, following: Hop, slice_: Slice, look_ahead: LookAhead
    ) -> Committed | None:
        """Run and commit the next node; any error ends the slice where it is."""
        try:
            with following.log_context():
                made = slice_.take_ahead()
                run = self._attempts.run if made is None else lambda _hop: made
                return self._run_until_committed(following, run, slice_, look_ahead)
        except BaseException as error:
            # The next node gets a message of its own. The one that began the slice must not come again.
            with suppress(CacheUnavailable):
                self._departure.leave_and_enqueue(done)
            if not isinstance(error, Requeue | BackingServiceUnavailable | DatabaseOutdated):
                raise
            log.warning(
                "Stopped walking execution %s inline; its next node is enqueued: %s",
                following.execution_id,
                error,
                extra=log_fields(LogEvent.INLINE_RUN_CUT_SHORT, error=error),
            )
            return None

    # -- a run that ends without a commit ------------------------------------------------------------------

    def _abandon(self, hop: Hop) -> None:
        """Leave a node that was interrupted. If it is still due it runs again, which is not counted."""
        _ = self._cache.discard(hop.claim)  # it is resumed below in any case
        self._state.record(HistoryLine.INTERRUPTED, hop.execution_id, hop.node.id, worker_name())
        if counting.active is not None:
            counting.active.hop(hop.workflow.workflow.id, hop.node.id, HopEnd.INTERRUPTED)
        log.warning(
            "Node %s of execution %s was interrupted.",
            hop.node.id,
            hop.execution_id,
            extra=log_fields(LogEvent.NODE_INTERRUPTED),
        )
        self.resume_execution(hop.execution_id)


def _log_dropped(message: HopMessage, reason: Exception) -> None:
    if counting.active is not None:
        counting.active.hop(message.workflow, message.node_id, HopEnd.DROPPED)
    log.info(
        "Dropped the message for node %s of execution %s: %s.",
        message.node_id,
        message.execution_id,
        reason,
        extra=log_fields(LogEvent.MESSAGE_DROPPED),
    )
