"""`run_workflows()`: runs in a test what was started in it, without a worker, a broker or Redis.

    class OrderTest(TestCase):
        def test_an_order_is_charged(self):
            client().deploy(fulfilment)
            place_order("Ada")  # starts an execution in transaction.atomic()
            [execution] = run_workflows()
            self.assertEqual(execution.result, {"receipt": "r-1"})

The executor is the one of the workers, on Django's connection: inside the transaction of a `TestCase`, which
rolls everything back. Only what is in Redis elsewhere is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from datetime import datetime

from django.db import connections, transaction, utils

from workflow_engine.broker.celery_app import load_tasks
from workflow_engine.broker.dispatcher import Backlog, Dispatcher
from workflow_engine.django import client
from workflow_engine.django.configuration import celery_app, database_alias
from workflow_engine.django.without_redis import NoContexts, NoLocks, NoSignals
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.executor import WorkflowExecutor
from workflow_engine.engine.hop import Hop
from workflow_engine.engine.publisher import Publisher
from workflow_engine.engine.steps.attempts import Attempts
from workflow_engine.engine.stores import Stores
from workflow_engine.execution.messages import Dispatch, QueuedMessage
from workflow_engine.postgres.executions.parts import Parts
from workflow_engine.postgres.executions.queries import Execution
from workflow_engine.runner.node_run import Outcome

UNFINISHED = """
SELECT e.id::text, e.seq, e.status FROM {s}.executions e
WHERE e.status IN ('PENDING', 'RUNNING', 'WAITING') ORDER BY e.id
"""

END_DELAYS = """
UPDATE {s}.execution_wait_states SET resume_at = now() WHERE status = 'WAITING' AND resume_at > now()
"""


def run_workflows(*, skip_delays: bool = False) -> list[Execution]:
    """Run all executions until none of them can go on; return those that had not ended before, and children.

    They are in the order of their starts, with their results. An execution that waits for an event, a later
    time or a retry is WAITING; send the event, or call with `skip_delays`, with which delays and the pauses
    before retries are over at once.

    Nodes run here, one after the other, in the transaction of the test. One that makes a mistake in the
    database fails, and what it had written is rolled back. A node whose code is not here fails.
    """
    project = client()
    bench = _Bench(project.assembled)
    standing = bench.unfinished()
    known = dict.fromkeys(standing)
    while True:
        if skip_delays:
            project.assembled.database.rows(END_DELAYS)
        bench.run(list(standing))
        project.control.descendants.see_to_due()
        now = bench.unfinished()
        known |= dict.fromkeys(now)
        if now == standing:
            break
        standing = now
    return [project.get(execution_id) for execution_id in sorted(known)]


class _Line(Dispatcher):
    """The messages of a test, in the order in which they were sent."""

    def __init__(self) -> None:
        self.messages: deque[Dispatch] = deque()

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        self.messages.extend(dispatches)

    def queued(self, dispatch: Dispatch) -> QueuedMessage | None:
        return None

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        return Backlog.NONE

    def executions_in(self, queue: str, priority: int) -> Collection[str] | None:
        return None

    def taken(self) -> Collection[str]:
        return ()


class _Bench:
    """One worker in this thread."""

    def __init__(self, engine: Engine) -> None:
        if (app := celery_app()) is not None:
            load_tasks(app)
        settings = engine.settings.model_copy(update={"unknown_type_timeout": 0})
        signals = NoSignals()
        stores = Stores(
            engine.state,
            engine.waits,
            NoContexts(engine.state),
            NoLocks(),
            engine.children,
            engine.deployments,
            engine.limits,
            Parts(engine.database),
            engine.queue_deadlines,
        )
        self._engine = engine
        self._line = _Line()
        self._publisher = Publisher(stores, engine.workflows, self._line, settings)
        attempts = _AttemptsInSavepoints(stores, engine.workflows, signals, settings)
        self._executor = WorkflowExecutor(
            stores, engine.workflows, attempts, signals, self._publisher, settings
        )

    def unfinished(self) -> dict[str, tuple[int, str]]:
        """Return the executions that have not ended, each with its seq and status."""
        return {row[0]: (row[1], row[2]) for row in self._engine.database.rows(UNFINISHED)}

    def run(self, execution_ids: Sequence[str]) -> None:
        """Run what is due of these executions, and all that follows from it."""
        self._publisher.wake(self._engine.waits.claim_due(known=self._engine.code))
        for execution_id in execution_ids:
            self._executor.resume_execution(execution_id)
        while self._line.messages:
            self._executor.continue_execution(self._line.messages.popleft().message)


class _AttemptsInSavepoints(Attempts):
    """Runs each node in a savepoint: its mistake in the database does not end the test's transaction."""

    def run(self, hop: Hop) -> Outcome:
        connection = connections[database_alias()]
        if not connection.in_atomic_block:
            return super().run(hop)
        savepoint = transaction.savepoint(using=connection.alias)
        outcome = super().run(hop)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            transaction.savepoint_commit(savepoint, using=connection.alias)
        except utils.DatabaseError:
            transaction.savepoint_rollback(savepoint, using=connection.alias)
        return outcome
