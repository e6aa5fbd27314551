"""WorkflowClient: the interface with which producers deploy workflows, start executions and follow them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from workflow_engine.control.executions import ExecutionControl
from workflow_engine.control.explain.explainer import EXAMINED, Explainer
from workflow_engine.control.explain.explanation import Explanation, Overview
from workflow_engine.definition.builder import WorkflowBuilder
from workflow_engine.definition.workflow import Workflow
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.starts.given import NO_DATA, Start
from workflow_engine.errors import (
    WaitTimeout,
    WorkflowNotFound,
)
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.records import StartedExecution
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.health.state_metrics import StateMetrics
from workflow_engine.nodes.action.tasks.values import with_kombus_types
from workflow_engine.postgres.database import PooledDatabase
from workflow_engine.postgres.events import SentEvent
from workflow_engine.postgres.executions.filters import ExecutionFilter
from workflow_engine.postgres.executions.moves import ExecutionEvent
from workflow_engine.postgres.executions.queries import Execution, NodeExecution, NodeLog
from workflow_engine.postgres.retention import Purged
from workflow_engine.postgres.workflows.deployments import DeployedVersion, DeployedWorkflow, Deployment
from workflow_engine.postgres.workflows.triggers import DeployedTrigger, ScheduledTrigger
from workflow_engine.settings import Settings
from workflow_engine.validation import validate

if TYPE_CHECKING:
    from workflow_engine.postgres.caller_transaction import (
        AsyncCallersSession,
        CallersSession,
        CallersTransaction,
        CallersTransactions,
    )

EXPLAINED = 500
"""Executions that are explained for the metrics."""

LONGEST_SIGNAL_WAIT = 5.0
"""Seconds `wait` trusts Redis to wake it before it asks Postgres again."""


Started = TypeVar("Started")


class WorkflowClient:
    """Deploys workflows, starts executions and reads their state.

    A client reads the settings, imports the modules that they name and connects at the first call. So a
    module may create one while it is imported. Threads may share a client. `app` is the Celery app whose
    broker takes the messages; without one, the broker of the settings is used. Any method may raise
    `DatabaseUnavailable`, and the first one `SettingsInvalid` or `ModuleFailed`.
    """

    def __init__(
        self, settings: Settings | None = None, *, app: Any = None, engine: Engine | None = None
    ) -> None:
        self._settings = settings
        self._app = app
        self._assembled = engine
        self._assembling = threading.RLock()
        self._versions: dict[str, int] = {}
        """The versions that `deploy_and_start` has deployed, by the hash of their content."""

    @property
    def _engine(self) -> Engine:
        if self._assembled is None:
            with self._assembling:
                if self._assembled is None:
                    engine = self._assemble()
                    # A module with nodes may have used this client while it was imported.
                    self._assembled = self._assembled or engine
        return self._assembled

    def _assemble(self) -> Engine:
        return Engine.assemble(self._settings, app=self._app)

    @functools.cached_property
    def _callers_transactions(self) -> CallersTransactions:
        # A caller with a session has loaded SQLAlchemy; other callers should not have to.
        from workflow_engine.postgres.caller_transaction import CallersTransactions

        database = self._engine.database
        assert isinstance(database, PooledDatabase), "a client of another database joins in its own way"
        return CallersTransactions(database)

    def _join(self, session: CallersSession | None) -> CallersTransaction | None:
        return None if session is None else self._callers_transactions.join(session)

    @functools.cached_property
    def control(self) -> ExecutionControl:
        """What operators do to executions: `client.control.pause(execution_id, reason="…")`.

        `client.control.limits` shows and sets limits.
        """
        return ExecutionControl.of(self._engine)

    @functools.cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self._engine)

    @functools.cached_property
    def state_metrics(self) -> StateMetrics:
        """The state of the installation as metrics: `client.state_metrics.exposition()` for Prometheus."""
        engine = self._engine
        return StateMetrics(
            engine.figures,
            engine.dispatcher,
            functools.partial(engine.queue_looks.lengths, timeout=engine.settings.redis_timeout),
            engine.settings.queue,
            lambda: {group.code.value: group.count for group in self.explain_all(EXPLAINED).groups},
        )

    def deploy(self, definition: Workflow | Mapping[str, Any]) -> Deployment:
        """Make a definition the current version of its workflow. Raises `DefinitionInvalid`."""
        content = definition.to_dict() if isinstance(definition, Workflow) else definition
        return self._engine.deployments.deploy(validate(content, self._engine.registry))

    def start(
        self,
        workflow_id: str,
        data: Any = NO_DATA,
        *,
        trigger: str | None = None,
        variables: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        priority: int | None = None,
        queue: str | None = None,
        version: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        session: CallersSession | None = None,
    ) -> StartedExecution:
        """Start an execution: one transaction in Postgres and one message.

        `data` is any JSON value, including None (null), and `{}` by default; it becomes the output of the
        trigger node. `trigger` is the id of a trigger node, and may be omitted if the workflow has only one.
        `variables` add to and override those of the workflow. `priority` is 0 (first) to 9. `queue` takes
        all nodes that name none, also after a wait, a retry or a rescue; the default is that of the settings.

        If an `idempotency_key` was used before for this workflow, the execution that it started is returned,
        even if other versions have been deployed since. The data and variables must then be the same JSON
        values as in the first start.

        `metadata`, at most 16 keys and 4 KB of JSON, and `tags` are notes by which `list` finds the
        execution; no node reads them. They do not count when starts with one key are compared: those of the
        first start stay.

        With your SQLAlchemy `session` the execution is part of its transaction, and commits or rolls back
        with what you write there; the message follows the outermost commit. With a `Connection`, call
        `publish()` of the returned execution after its commit. SQLAlchemy's errors are then raised unchanged.

        Raises `WorkflowNotFound`, `TriggerDataInvalid`, `InvalidValue`, `IdempotencyConflict`,
        `SessionRefused`, and `StartRefused` for a workflow or trigger that an operator has closed. Nothing is
        stored then, and your transaction is unharmed.
        """
        transaction = self._join(session)
        given = Start(
            data,
            trigger=trigger,
            variables=variables,
            idempotency_key=idempotency_key,
            priority=priority,
            queue=queue,
            metadata=metadata,
            tags=tags,
        )
        return self._engine.starts.start(workflow_id, given, version=version, transaction=transaction)

    def start_many(
        self,
        workflow_id: str,
        starts: Iterable[Start],
        *,
        version: int | None = None,
        session: CallersSession | None = None,
    ) -> Sequence[StartedExecution]:
        """Start many executions of a workflow, and return them in the order of `starts`.

        Each is what `start` would make of it: the same checks, keys, limits and messages. All are checked
        first. If one is refused, `StartsRefused` names each refused one by its index, and nothing is started.

        Then every 500 are a statement and a transaction of its own, and their messages one round trip. So a
        process that dies, or loses Postgres, in the middle leaves whole batches, whose executions run. With
        an `idempotency_key` for each start the whole call can be repeated: those that exist are returned,
        with `is_new` false.

        With your `session` all of them are part of its transaction, as with `start`.

        Raises `StartsRefused`, `WorkflowNotFound` and `SessionRefused`.
        """
        transaction = self._join(session)
        return self._engine.starts.start_many(
            workflow_id, list(starts), version=version, transaction=transaction
        )

    def start_task(
        self,
        task: str | Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        retry: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        on_crash: Literal["retry", "fail"] | None = None,
        **options: Any,
    ) -> StartedExecution:
        """Start a Celery task, by its name or itself, as an execution of one node, without a definition.

        It has the guarantees of any node, and its value is the result. `retry`, `timeout`, `queue_timeout`
        and `on_crash` are those of the node. `options` and the errors are those of `start`. All starts of a
        task with the same options of its node are executions of one workflow, named after the task.
        """
        node = {
            "retry": retry,
            "timeout": timeout,
            "queue_timeout": queue_timeout,
            "on_crash": on_crash,
        }
        workflow = _workflow_of_task(task, {key: each for key, each in node.items() if each is not None})
        given = {"args": with_kombus_types(list(args), "args")}
        given["kwargs"] = with_kombus_types(dict(kwargs or {}), "kwargs")
        return self.deploy_and_start(workflow, given, **options)

    def deploy_and_start(
        self,
        workflow: Workflow,
        data: Any = NO_DATA,
        *,
        session: CallersSession | None = None,
        **options: Any,
    ) -> StartedExecution:
        """Start an execution of exactly this definition, which is deployed at its first start by this client.

        `options` and the errors are those of `start`. The deployment is a transaction of its own, also if
        the start is part of yours. Raises `DefinitionInvalid`.
        """
        content = workflow.content_hash()
        version = self._versions.get(content)
        if version is not None:
            with suppress(WorkflowNotFound):  # the tables have been emptied since
                return self.start(workflow.id, data, version=version, session=session, **options)
        transaction = self._join(session)
        deployment = (
            self.deploy(workflow)
            if transaction is None
            else transaction.beside(lambda: self.deploy(workflow))
        )
        self._remember(content, deployment)
        return self.start(workflow.id, data, version=deployment.version, session=session, **options)

    def _remember(self, content: str, deployment: Deployment) -> None:
        self._versions[content] = deployment.version

    async def start_async(
        self,
        workflow_id: str,
        data: Any = NO_DATA,
        *,
        session: AsyncCallersSession | None = None,
        **options: Any,
    ) -> StartedExecution:
        """Start an execution from asyncio, without blocking the event loop.

        With your `AsyncSession` the execution is part of its transaction; with an `AsyncConnection`, call
        `publish()` of the returned execution in a thread, after the commit. `options` and the errors are
        those of `start`.
        """
        start = functools.partial(self.start, workflow_id, data, **options)
        return await self._in_asyncio(start, session)

    async def start_task_async(
        self,
        task: str | Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        session: AsyncCallersSession | None = None,
        **options: Any,
    ) -> StartedExecution:
        """Start a Celery task as `start_task` does, from asyncio; `session` is that of `start_async`."""
        return await self._in_asyncio(
            functools.partial(self.start_task, task, args, kwargs, **options), session
        )

    async def deploy_and_start_async(
        self,
        workflow: Workflow,
        data: Any = NO_DATA,
        *,
        session: AsyncCallersSession | None = None,
        **options: Any,
    ) -> StartedExecution:
        """Do what `deploy_and_start` does, from asyncio; `session` is that of `start_async`."""
        start = functools.partial(self.deploy_and_start, workflow, data, **options)
        return await self._in_asyncio(start, session)

    async def start_many_async(
        self,
        workflow_id: str,
        starts: Iterable[Start],
        *,
        session: AsyncCallersSession | None = None,
        **options: Any,
    ) -> Sequence[StartedExecution]:
        """Do what `start_many` does, from asyncio; `session` is that of `start_async`."""
        start = functools.partial(self.start_many, workflow_id, starts, **options)
        return await self._in_asyncio(start, session)

    async def _in_asyncio(
        self, start: Callable[..., Started], session: AsyncCallersSession | None
    ) -> Started:
        if session is None:
            return await asyncio.to_thread(start)
        from workflow_engine.postgres.caller_transaction import within

        # Connects and imports modules at the first call.
        await asyncio.to_thread(lambda: self._callers_transactions)
        return await within(session, lambda joined: start(session=joined))

    def send_event(
        self,
        correlation_id: str | None = None,
        name: str = "",
        payload: Any = None,
        *,
        execution_id: str | None = None,
        event_id: str | None = None,
        actor: str | None = None,
    ) -> SentEvent:
        """Send an event to the nodes that wait for it: by correlation id, or in one execution.

        An event that no node waits for yet is kept for `event_retention`. With an `event_id` it is safe to
        send it again. `actor` says who sent it. The result is durable: if the broker is away, the message
        that wakes a node follows later.

        Raises `InvalidValue` and `ExecutionNotFound`; nothing is stored then.
        """
        sent = self._engine.events.send(
            name,
            payload,
            correlation_id=correlation_id,
            execution_id=None if execution_id is None else checked_id(execution_id),
            event_id=event_id,
            actor=actor,
        )
        self._engine.publisher.wake_if_possible(sent.woken)
        return sent

    def purge(self, older_than: float, *, dry_run: bool = False) -> Purged:
        """Remove executions that ended more than `older_than` seconds ago, and events kept for too long.

        Each batch is a transaction of its own; `dry_run` only counts.
        """
        retention = self._engine.retention
        return retention.count(older_than) if dry_run else retention.purge(older_than)

    def get(self, execution_id: str) -> Execution:
        """Return an execution as it is now, with its result if it completed. Raises `ExecutionNotFound`."""
        return self._with_result(self._engine.queries.get(execution_id))

    def list(
        self,
        workflow_id: str | None = None,
        statuses: Sequence[ExecutionStatus | str] = (),
        *,
        where: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        text: str | None = None,
        archived: bool = False,
        children: bool = False,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[Execution]:
        """Return executions, newest first, without results; `before` is the last id of the previous page.

        Executions that others have started are left out, unless `children` is true; the method `children`
        returns those of one. A status may be given by its name. All filters have to
        hold: `where` has values by path, such as `{"metadata.order": 7}`, `tags` must all be there, `since`
        and `until` are times of the start. `text` is found in words of the error, or is an idempotency key, a
        tag, an id or its first 8 digits or more. Finished executions of archived workflows are left out,
        unless `workflow_id` names theirs or `archived` is true. Raises `InvalidValue`.
        """
        wanted = ExecutionFilter(
            workflow_id, statuses, where or {}, tags, since, until, text=text, archived=archived
        )
        return self._engine.queries.list(wanted, children=children, limit=limit, before=before)

    def children(
        self,
        execution_id: str,
        node: str | None = None,
        statuses: Sequence[ExecutionStatus | str] = (),
        *,
        limit: int = 50,
        after: str | None = None,
        results: bool = False,
    ) -> Sequence[Execution]:
        """Return the children of an execution, in the order in which they were started.

        `node` is the node that started them; `after` is the last id of the previous page. With `results` each
        of those that completed has its result. Raises `ExecutionNotFound` and `InvalidValue`.
        """
        found = self._engine.queries.children(execution_id, node, statuses, limit=limit, after=after)
        if not found:
            self._engine.queries.get(execution_id)
        return [self._with_result(each) for each in found] if results else found

    def count(self, workflow_id: str | None = None, *, archived: bool = False) -> dict[ExecutionStatus, int]:
        """Return how many executions have each status, without children; `archived` is that of `list`."""
        return self._engine.queries.count(workflow_id, archived=archived)

    def wait(self, execution_id: str, timeout: float | None = None) -> Execution:
        """Wait until an execution has ended, `timeout` seconds at most, and return it.

        Redis only signals the end; Postgres confirms it. Raises `WaitTimeout`, `ExecutionNotFound`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._engine.cache.finished_signal(checked_id(execution_id)) as wait_for_signal:
            execution = self.get(execution_id)
            while not execution.is_finished:
                left = LONGEST_SIGNAL_WAIT if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise WaitTimeout(execution_id, timeout or 0, execution.status.value)
                wait_for_signal(min(left, LONGEST_SIGNAL_WAIT))
                execution = self._read_again(execution)
        return execution

    def journal(self, execution_id: str) -> Sequence[NodeExecution]:
        """Return what each node of an execution did, in commit order. Raises `ExecutionNotFound`."""
        rows = self._engine.queries.journal(execution_id)
        if not rows:
            self._engine.queries.get(execution_id)
        return rows

    def logs(self, execution_id: str, node: str | None = None) -> Sequence[NodeLog]:
        """Return what the attempts of an execution, or of one node, have logged, in commit order.

        Only where the workers keep it (`node_log_limit`). Raises `ExecutionNotFound`.
        """
        found = self._engine.queries.logs(execution_id, node)
        if not found:
            self._engine.queries.get(execution_id)
        return found

    def history(self, execution_id: str) -> Sequence[NodeExecution | ExecutionEvent]:
        """Return events and journal as one list, in the order of time. Raises `ExecutionNotFound`."""
        entries: list[NodeExecution | ExecutionEvent] = [
            *self.journal(execution_id),
            *self.control.audit(execution_id),
        ]
        return sorted(entries, key=lambda entry: (happened_at(entry), entry.seq or 0))

    def context(self, execution_id: str) -> ExecutionContext:
        """Return the context that an execution has built up so far. Raises `ExecutionNotFound`."""
        return self._engine.cache.load_context(checked_id(execution_id))

    def explain(self, execution_id: str) -> Explanation:
        """Explain why an execution does not move: one code, one sentence, the evidence, what helps.

        Nothing is changed, and no worker has to reply. Servers that are away are named in the explanation.
        Raises `ExecutionNotFound`.
        """
        return self._explainer.explain(execution_id)

    def explain_all(self, limit: int = EXAMINED) -> Overview:
        """Group the oldest executions that have not ended by why they do not move, `limit` at most.

        Children are left out: the explanation of their parent leads to them.
        """
        return self._explainer.explain_all(limit)

    def workflow(self, workflow_id: str, version: int | None = None) -> DeployedVersion:
        """Return a deployed version, by default the current one. Raises `WorkflowNotFound`."""
        return self._engine.deployments.version(workflow_id, version)

    def workflows(self, *, archived: bool = False) -> Sequence[DeployedWorkflow]:
        """Return the deployed workflows; with `archived`, those that are archived too."""
        return self._engine.deployments.workflows(archived=archived)

    def triggers(self, workflow_id: str | None = None) -> Sequence[DeployedTrigger]:
        """Return the triggers of one workflow, or of all that are not archived, with their states."""
        return self._engine.triggers.all(workflow_id)

    def schedules(self) -> Sequence[ScheduledTrigger]:
        """Return the scheduled triggers of all deployed workflows, with the time when each is next due."""
        return self._engine.triggers.list()

    def _with_result(self, execution: Execution) -> Execution:
        if execution.status is not ExecutionStatus.COMPLETED:
            return execution
        ends = self._ends(execution)
        return _with_result_of(execution, ends, self._engine.queries.outputs(execution.id, ends))

    def _read_again(self, before: Execution) -> Execution:
        """Return an execution as it is now, with its result if it completed; in one round trip."""
        try:
            ends = self._ends(before)
        except ValueError:  # this release cannot read the definition, of which only a result needs it
            return self.get(before.id)
        execution, outputs = self._engine.queries.get_with_outputs(before.id, ends)
        if execution.version != before.version:
            return self._with_result(execution)
        return _with_result_of(execution, ends, outputs)

    def _ends(self, execution: Execution) -> Sequence[str]:
        """Return the nodes whose outputs are the result of an execution."""
        return self._engine.workflows.get(execution.workflow_id, execution.version).graph.ends


def _with_result_of(execution: Execution, ends: Sequence[str], outputs: Mapping[str, Any]) -> Execution:
    if execution.status is not ExecutionStatus.COMPLETED:
        return execution
    result = outputs.get(ends[0]) if len(ends) == 1 else outputs
    return dataclasses.replace(execution, result=result)


def _workflow_of_task(task: str | Any, options: Mapping[str, Any]) -> Workflow:
    """Return a workflow of one task, whose id is made of its name and of its content."""
    flow = WorkflowBuilder("task")
    node = flow.celery_task(
        "task", task, args="{{ start.args }}", kwargs="{{ start.kwargs }}", serialize="kombu", **options
    )
    flow.trigger("start") >> node
    workflow, name = flow.build(), str(node.node.config["task"])
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:80]
    changes = {"id": f"task-{readable}-{workflow.content_hash()[:8]}", "name": name[:200]}
    return Workflow.from_stored(workflow.to_dict() | changes)


def happened_at(entry: NodeExecution | ExecutionEvent) -> datetime:
    """Return the time when a journal row was committed, or an event recorded."""
    if isinstance(entry, ExecutionEvent):
        return entry.created_at
    took = timedelta(milliseconds=entry.duration_ms or 0)
    return entry.completed_at or entry.started_at + took  # a node that waits has not completed
