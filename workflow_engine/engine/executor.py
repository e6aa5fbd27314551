"""WorkflowExecutor: one hop of an execution, from a message to the next message.

A hop is five steps: enter (lock and read), run, commit, leave (write and unlock), enqueue. Postgres
decides in the third; the others can fail or be repeated at any point without losing or doubling a result.

In a workflow with `hops: inline` the worker runs and commits further nodes before it leaves, for a slice of
time. Each has its own journal row and its own check of the fence; the slice saves everything else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from workflow_engine.engine.admission import Admission, NotAdmitted, Overtaken
from workflow_engine.engine.attempts import Attempts
from workflow_engine.engine.children import REFUSED
from workflow_engine.engine.failure_workflows import FailureWorkflows
from workflow_engine.engine.hop import Committed, Hop, HopAhead, worker_name
from workflow_engine.engine.hop_report import INTERRUPTED, HopEnd, HopReport, dropped
from workflow_engine.engine.inline import Slice
from workflow_engine.engine.observation.counts import count_commit
from workflow_engine.engine.observation.spans import Spans
from workflow_engine.engine.publisher import PUBLISH_TIMEOUT, Publisher
from workflow_engine.engine.resumption import Resumption
from workflow_engine.engine.siblings import Siblings
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import (
    BackingServiceUnavailable,
    CacheUnavailable,
    ChildrenRefused,
    DatabaseOutdated,
    ExecutionNotFound,
    InvalidValue,
    Requeue,
)
from workflow_engine.execution.messages import HopMessage, LookAhead, QueuedMessage, sees_nothing
from workflow_engine.execution.records import (
    CommitResult,
    Crashes,
    FailureStart,
    NewExecution,
    StartedExecution,
)
from workflow_engine.execution.states import ExecutionStatus, HistoryLine
from workflow_engine.execution.walk import Walk
from workflow_engine.nodes.results import NodeError, failure_of
from workflow_engine.outages import retry_unavailable
from workflow_engine.redis.contexts import Leaving, SentAhead
from workflow_engine.redis.results import LeaveResult
from workflow_engine.redis.running_nodes import RunningNodes
from workflow_engine.runner.compiled import CompiledWorkflows
from workflow_engine.runner.interruption import NodeInterrupted
from workflow_engine.runner.node_run import Outcome
from workflow_engine.settings import Settings
from workflow_engine.telemetry import counting
from workflow_engine.telemetry.log_events import LogEvent, log_fields
from workflow_engine.telemetry.tracing import is_sampled

if TYPE_CHECKING:
    from workflow_engine.postgres.caller_transaction import CallersTransaction  # brings SQLAlchemy

log = logging.getLogger(__name__)


class WorkflowExecutor:
    """Runs executions node by node. One instance serves a process.

    It holds no state of an execution but for a node that was left ahead of the reply of Redis.
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
        self._queue_deadlines = stores.queue_deadlines
        self._workflows = workflows
        self._resumption = Resumption(stores, workflows, publisher, settings)
        self._admission = Admission(stores, workflows, self._resumption)
        self._siblings = Siblings(stores, running_nodes, publisher, self._resumption, settings)
        self._failure_workflows = FailureWorkflows(stores, workflows, settings)
        self._attempts = attempts
        self._publisher = publisher
        self._settings = settings
        self._spans = spans
        self._ahead: HopAhead | None = None

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

        `traceparent` is the trace context of what led to the message. If `look_ahead` returns a message, its
        node may be entered in the round trip that leaves this one. Both replies are read when that message
        is served; if it is not served after all, `settle` has to be called.
        """
        with message.log_context():
            return self._hop(message, task_id, self._attempts.run, traceparent, look_ahead)

    def settle(self) -> None:
        """Finish leaving the last node, and release the next one, whose message will not be served here."""
        if (ahead := self._settled()) is not None:
            self._resumption.release(ahead.sent.entry.claim)

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

    # -- one hop: 1 enter (`Admission`), 2 run (`Attempts`), and the three steps below ---------------------

    def _hop(
        self,
        message: HopMessage,
        task_id: str,
        run: Callable[[Hop], Outcome],
        traceparent: str | None = None,
        look_ahead: LookAhead = sees_nothing,
    ) -> HopReport:
        slice_ = Slice(self._locks)
        try:
            hop = self._admission.admit(message, task_id, self._sent_for(message, task_id))
            if traceparent is not None and is_sampled(traceparent):
                hop = replace(hop, cause=traceparent)
            with self._resumption.release_on_error(hop.claim):
                done = self._run_until_committed(hop, run, slice_)
            report = done.report if done is not None else INTERRUPTED
            while done is not None and (following := slice_.following(done)) is not None:
                self._publisher.follow_up(done.result.follow_ups)
                done = self._walk_on(done, following, slice_)
                report = report.followed_by(done.report) if done is not None else report
            if done is not None and not self._left_ahead(done, look_ahead):
                self._leave_and_enqueue(done)
            if done is not None and done.result.follow_ups is not None:
                report = replace(report, restarting=done.result.follow_ups.restarting)
            return report
        except (NotAdmitted, ExecutionNotFound) as reason:
            _log_dropped(message, reason)
            return dropped(reason)
        except (BackingServiceUnavailable, DatabaseOutdated) as error:
            raise Requeue(str(error)) from error

    def _run_until_committed(
        self, hop: Hop, run: Callable[[Hop], Outcome], slice_: Slice
    ) -> Committed | None:
        """Run a node and, if it is pure, those up to the next one that is not, and commit them together."""
        done = self._run_and_commit(hop, run, slice_)
        while done is not None and done.followed_by is not None:
            with done.followed_by.log_context():
                done = self._run_and_commit(done.followed_by, self._attempts.run, slice_)
        return done

    def _run_and_commit(self, hop: Hop, run: Callable[[Hop], Outcome], slice_: Slice) -> Committed | None:
        """Run a node and commit its outcome, unless it is pure and another follows before the commit.

        Return None if it was interrupted, and its execution left. Any other end without a commit is counted,
        unless the message is requeued or the whole process exits, which its parent counts.
        """
        try:
            if self._spans is None:
                done = self._commit_or_put_off(hop, run(hop), slice_)
            else:
                done = self._spans.attempt(hop, lambda hop: self._commit_or_put_off(hop, run(hop), slice_))
            if done.followed_by is None:
                self._count(done, slice_)
            return done
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
            self._count_crash(hop, error)
            raise
        finally:
            self._attempts.finished(hop)

    def _leave_and_enqueue(self, done: Committed) -> None:
        with done.hop.log_context():
            left = self._leave(done)
            self._enqueue(done, left)

    def _walk_on(self, done: Committed, following: Hop, slice_: Slice) -> Committed | None:
        """Run and commit the next node; any error ends the slice where it is."""
        try:
            with following.log_context():
                return self._run_until_committed(following, self._attempts.run, slice_)
        except BaseException as error:
            # The next node gets a message of its own. The one that began the slice must not come again.
            with suppress(CacheUnavailable):
                self._leave_and_enqueue(done)
            if not isinstance(error, Requeue | BackingServiceUnavailable | DatabaseOutdated):
                raise
            log.warning(
                "Stopped walking execution %s inline; its next node is enqueued: %s",
                following.execution_id,
                error,
                extra=log_fields(LogEvent.INLINE_RUN_CUT_SHORT, error=error),
            )
            return None

    # -- 3 commit: the journal decides --------------------------------------------------------------------

    def _commit_or_put_off(self, hop: Hop, outcome: Outcome, slice_: Slice) -> Committed:
        return slice_.put_off(hop, outcome) or self._commit(hop, outcome, slice_.uncommitted)

    def _commit(self, hop: Hop, outcome: Outcome, before: Sequence[Committed] = ()) -> Committed:
        """Commit the outcome, retrying while Postgres is away; the node fails for content that it refuses.

        `before` are the pure nodes whose rows are committed together with its own.
        """
        try:
            return self._offer(hop, outcome)
        except InvalidValue as refusal:
            if before:
                return self._commit_one_by_one(before, hop, outcome)
            name = REFUSED if isinstance(refusal, ChildrenRefused) else type(refusal).__name__
            return self._offer(hop, hop.failure_outcome(NodeError(name, str(refusal))))

    def _commit_one_by_one(self, before: Sequence[Committed], hop: Hop, outcome: Outcome) -> Committed:
        """Commit each of these nodes alone, up to the one whose content Postgres refuses, which fails."""
        for each in before:
            done = self._commit(replace(each.hop, uncommitted=()), each.outcome)
            if done.outcome is not each.outcome or not done.result.accepted:
                return done
        return self._commit(replace(hop, uncommitted=()), outcome)

    def _offer(self, hop: Hop, outcome: Outcome) -> Committed:
        """Offer the outcome, again on top of what siblings have committed if it depends on that."""
        while True:
            walk, step = hop.walk_after(outcome)
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
            hop = hop.caught_up(result) if result.missed else hop
            if result.accepted:
                walk, step = hop.walk_after(outcome)
                if late := hop.queue_timeouts_after(walk).items() - commit.queue_timeouts.items():
                    self._begin_queue_time(hop, dict(late))
                return Committed(hop, outcome, walk, self._settle(hop, walk, result), step.cancelled)
            if not result.is_behind or not hop.is_due:
                return Committed(hop, outcome, walk, result)

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

    # -- 4 leave: write and unlock, and send what is due if one call can do both ---------------------------

    def _leave(self, done: Committed) -> LeaveResult:
        hop = done.hop
        try:
            # Until the lock has expired by itself: a message that meets it held would be dropped.
            return retry_unavailable(
                lambda: self._leave_cache(done),
                self._settings.lock_expiry,
                f"unlock execution {hop.execution_id}",
            )
        except CacheUnavailable as error:
            log.warning(
                "Execution %s was committed, but its context was not cached; its lock will expire: %s",
                hop.execution_id,
                error,
                extra=log_fields(LogEvent.CONTEXT_NOT_CACHED, error=error),
            )
            return LeaveResult(was_updated=False, was_contended=True)

    def _leave_cache(self, done: Committed) -> LeaveResult:
        hop, result = done.hop, done.result
        if done.cancelled and hop.is_shared:
            self._siblings.interrupt(hop.execution_id, done.cancelled)
        if result.accepted and result.status.is_finished:
            unlocked = self._cache.finish(hop.claim, result.status.value)
            return LeaveResult(was_updated=False, was_contended=unlocked.was_contended)
        if result.accepted and done.goes_on and hop.node.id not in hop.cached.crashes:
            unlocked = self._locks.release_lock(hop.claim)  # the context is as it was entered
            return LeaveResult(was_updated=True, was_contended=unlocked.was_contended)
        if result.accepted and result.status is not ExecutionStatus.PAUSED and not done.goes_on:
            changed = hop.changed_fields(done.outcome, done.walk, result)
            messages = self._messages_sent_on_leaving(done)
            if hop.is_shared:
                return self._siblings.leave(done, changed, messages)
            message = messages[0] if messages else None
            return self._cache.update_context(hop.claim, hop.cached.stored_seq, result.seq, changed, message)
        unlocked = self._cache.discard(hop.claim)
        return LeaveResult(was_updated=False, was_contended=unlocked.was_contended)

    def _messages_sent_on_leaving(self, done: Committed) -> list[QueuedMessage]:
        """Return the messages that the call which leaves can send; none if it cannot send all of them."""
        messages = [self._publisher.queued(done.envelope, node_id) for node_id in done.to_send]
        sendable = [message for message in messages if message is not None]
        return sendable if len(sendable) == len(messages) else []

    # -- 4 and 1 in one round trip, if the next message is in the pipe -----------------------------------

    def _left_ahead(self, done: Committed, look_ahead: LookAhead) -> bool:
        """Leave a node and enter that of the next message, unless this takes more than one call."""
        if not done.is_left_by_one_call or (following := look_ahead()) is None:
            return False
        entry, leaving = self._admission.entry(*following), self._leaving(done)
        if entry is None or leaving is None:
            return False
        with suppress(CacheUnavailable):  # it is left again, by a call of its own
            if (sent := self._cache.leave_and_enter(leaving, entry)) is not None:
                self._ahead = HopAhead(done, following, sent)
        return self._ahead is not None

    def _leaving(self, done: Committed) -> Leaving | None:
        """Return the call that leaves a node; None unless it sends all that is due."""
        hop, result = done.hop, done.result
        if result.status.is_finished:
            return self._cache.finishing(hop.claim, result.status.value)
        messages = self._messages_sent_on_leaving(done)
        if len(messages) != 1:
            return None
        changed = hop.changed_fields(done.outcome, done.walk, result)
        return self._cache.updating(hop.claim, hop.cached.stored_seq, result.seq, changed, messages[0])

    def _sent_for(self, message: HopMessage, task_id: str) -> SentAhead | None:
        """Return the call that has entered the node of a message, once the node before it is left."""
        if (ahead := self._settled()) is None:
            return None
        if ahead.next == (message, task_id):
            return ahead.sent
        self._resumption.release(ahead.sent.entry.claim)
        return None

    def _settled(self) -> HopAhead | None:
        """Read the reply for the node that was left ahead, and do what follows from it."""
        if (ahead := self._ahead) is None:
            return None
        self._ahead, done = None, ahead.done
        with done.hop.log_context():
            try:
                left = self._cache.left(ahead.sent)
            except CacheUnavailable:
                left = self._leave(done)
            self._enqueue(done, left)
        return ahead

    # -- 5 enqueue: what is due next and was not sent on leaving -------------------------------------------

    def _enqueue(self, done: Committed, left: LeaveResult) -> None:
        hop, result = done.hop, done.result
        execution_id = hop.execution_id
        if not result.accepted:
            log.warning(
                "The result of node %s of execution %s was refused: the execution has moved on without it.",
                hop.node.id,
                execution_id,
                extra=log_fields(LogEvent.COMMIT_REFUSED),
            )
            self.resume_execution(execution_id)
            return
        if result.follow_ups is not None:
            self._publisher.follow_up(result.follow_ups)
        if result.status in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING):
            due = [] if left.has_sent else done.to_send
            woken = self._publisher.woken(execution_id) if done.has_to_wake(left) else []
            self._publisher.publish(done.envelope, [*due, *woken], PUBLISH_TIMEOUT)
            if done.goes_on and hop.is_shared and left.was_contended:
                self.resume_execution(execution_id)  # a sibling may have found all places taken
            elif hop.is_shared:
                self._siblings.enqueue(done, left)
        elif result.status is ExecutionStatus.PAUSED and left.was_contended:
            self.resume_execution(execution_id)  # it may have been resumed while we held the lock

    def _count(self, done: Committed, slice_: Slice) -> None:
        """Add to the worker's counts what was committed, where they are kept."""
        before = slice_.take_uncommitted()
        if counting.active is None:
            return
        for each in takewhile(lambda each: each.hop.token != done.hop.token, before):
            result = replace(each.result, accepted=done.result.accepted)
            count_commit(counting.active, replace(each, result=result))
        count_commit(counting.active, done)

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

    def _count_crash(self, hop: Hop, error: BaseException) -> None:
        told = failure_of(error).error
        what = f"with {told.type}: {told.message}" if told is not None else ""
        with suppress(BackingServiceUnavailable):
            self._state.count_crash(hop.execution_id, hop.node.id, hop.committed_seq, what)
            self._cache.remove_from_cache(hop.execution_id)  # it lacks this crash


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
