"""DjangoClient: a `WorkflowClient` on Django's own connection.

What it writes inside `transaction.atomic()` commits or rolls back with the caller's rows, and its messages
follow the commit by `transaction.on_commit`. So does what a test writes in the transaction of a `TestCase`,
which never commits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from json import JSONEncoder
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from workflow_engine.broker.dispatcher import Backlog, CeleryDispatcher, Dispatcher, producer_app
from workflow_engine.client import Started, WorkflowClient
from workflow_engine.definition.graph import Graph
from workflow_engine.django.configuration import celery_app, database_alias, encoder
from workflow_engine.django.database import DjangoDatabase
from workflow_engine.django.values import encoded, refuse_models
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.starts.given import NO_DATA, Start
from workflow_engine.errors import (
    CacheUnavailable,
    InvalidValue,
    SessionRefused,
    StartsRefused,
    WorkflowEngineError,
)
from workflow_engine.execution.messages import Dispatch, QueuedMessage
from workflow_engine.postgres.caller_transaction import Publish, publish_committed, publish_within_bounds
from workflow_engine.presentation.execution_view import Run, view_execution
from workflow_engine.presentation.graph_drawing import GraphDrawing, draw_graph
from workflow_engine.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflow_engine.definition.workflow import Workflow
    from workflow_engine.execution.records import StartedExecution
    from workflow_engine.postgres.events import SentEvent
    from workflow_engine.postgres.workflows.deployments import Deployment


@dataclass(frozen=True)
class AtomicBlock:
    """The transaction that `transaction.atomic()` has opened in the database of the engine's tables."""

    alias: str
    statements: None = None

    def beside(self, call: Callable[[], Started]) -> Started:
        return call()

    def after_commit(self, execution_id: str, publish: Publish) -> None:
        """Call `publish` after the outermost commit; never, if a savepoint around the start rolls back."""
        call = partial(publish_committed, execution_id, publish)
        transaction.on_commit(call, using=self.alias, robust=True)


class AfterCommit(Dispatcher):
    """Publishes when the open transaction has committed; without one, at once.

    A broker that does not reply delays the caller for a bounded time, and costs it no error: what could not
    be published is rescued.
    """

    def __init__(self, dispatcher: Dispatcher, alias: str) -> None:
        self._dispatcher = dispatcher
        self._alias = alias

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        if not dispatches:
            return
        call = partial(
            publish_within_bounds,
            dispatches[0].message.execution_id,
            partial(self._dispatcher.publish, dispatches),
        )
        once_committed(self._alias, call)

    def queued(self, dispatch: Dispatch) -> QueuedMessage | None:
        return self._dispatcher.queued(dispatch)

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        return self._dispatcher.oldest(queue, priority)

    def executions_in(self, queue: str, priority: int) -> Collection[str] | None:
        return self._dispatcher.executions_in(queue, priority)

    def taken(self) -> Collection[str] | None:
        return self._dispatcher.taken()


class DjangoClient(WorkflowClient):
    """Deploys workflows, starts executions and reads their state, all on Django's connection."""

    def __init__(self) -> None:
        super().__init__()
        self._alias = database_alias()
        self._encoder: JSONEncoder | None = encoder()

    def start(self, workflow_id: str, data: Any = NO_DATA, **options: Any) -> StartedExecution:
        """Start an execution, as part of the open `transaction.atomic()`; without one it commits by itself.

        The message follows the outermost commit. Options and errors are those of `WorkflowClient.start`,
        except `session`. Raises `SessionRefused` if a transaction is open, but in another database than that
        of the engine's tables, or if autocommit is off.
        """
        if data is not NO_DATA:
            data = self._as_json(data, "data")
        if options.get("variables"):
            options["variables"] = self._as_json(options["variables"], "variables")
        with _models_refused(data=data, variables=options.get("variables")):
            return super().start(workflow_id, data, **options)

    def start_many(
        self, workflow_id: str, starts: Iterable[Start], **options: Any
    ) -> Sequence[StartedExecution]:
        """Start many executions, as part of the open `transaction.atomic()`.

        As `WorkflowClient.start_many`, except `session`.
        """
        given = [self._start_as_json(each) for each in starts]
        try:
            return super().start_many(workflow_id, given, **options)
        except StartsRefused as refused:
            advised = {index: _advice(given[index], error) for index, error in refused.refusals.items()}
            raise StartsRefused(workflow_id, len(given), advised, refused.started) from refused

    def _start_as_json(self, start: Start) -> Start:
        data = start.data if start.data is NO_DATA else self._as_json(start.data, "data")
        variables = start.variables and self._as_json(start.variables, "variables")
        return replace(start, data=data, variables=variables)

    def start_task(
        self, task: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> StartedExecution:
        with _models_refused(args=args, kwargs=kwargs):
            return super().start_task(task, args, kwargs, **options)

    def send_event(
        self, correlation_id: str | None = None, name: str = "", payload: Any = None, **options: Any
    ) -> SentEvent:
        """Send an event, as part of the open `transaction.atomic()`. As `WorkflowClient.send_event`."""
        with _models_refused(payload=payload):
            return super().send_event(correlation_id, name, self._as_json(payload, "payload"), **options)

    def deploy(self, definition: Workflow | Mapping[str, Any]) -> Deployment:
        """Make a definition the current version, as part of the open transaction if there is one."""
        deployment = super().deploy(definition)
        forget = partial(self._engine.workflows.set_provisional, deployment.workflow_id, deployment.version)
        if deployment.is_new and connections[self._alias].in_atomic_block:
            forget()
            once_committed(self._alias, partial(forget, provisional=False))
        return deployment

    @property
    def assembled(self) -> Engine:
        """The engine's parts on Django's connection, for this package."""
        return self._engine

    def draw(self, execution_id: str) -> GraphDrawing:
        """Return the drawing of an execution's graph, with the state of each node.

        Raises `ExecutionNotFound`.
        """
        engine, execution = self._engine, self.get(execution_id)
        workflow = engine.workflows.get(execution.workflow_id, execution.version).workflow
        runs: list[Run] = []
        with suppress(CacheUnavailable):  # then nodes that run look as if they were in line
            runs = [Run(holder) for holder in engine.locks.holders(execution_id)]
        view = view_execution(
            execution,
            workflow,
            engine.state.load_snapshot(execution_id, with_outputs=False),
            engine.queries.journal(execution_id, with_values=False),
            runs,
            engine.queries.child_counts(execution_id),
        )
        return draw_graph(Graph.of(workflow), view.nodes, view.places)

    def _remember(self, content: str, deployment: Deployment) -> None:
        once_committed(self._alias, partial(super()._remember, content, deployment))

    def _assemble(self) -> Engine:
        settings, app = get_settings(), celery_app()
        dispatcher = CeleryDispatcher(app or producer_app(settings), settings.redis_url)
        return Engine.assemble(
            settings,
            app=app,
            dispatcher=AfterCommit(dispatcher, self._alias),
            database=DjangoDatabase(self._alias, settings.quoted_schema),
        )

    def _join(self, session: Any) -> AtomicBlock | None:
        if session is not None:
            raise SessionRefused(
                f"leave `session` out: with Django, a start in transaction.atomic(using={self._alias!r}) is "
                "part of that transaction"
            )
        return open_block(self._alias)

    async def _in_asyncio(self, start: Callable[..., Started], session: Any) -> Started:
        # In the one thread that has Django's connection.
        return await sync_to_async(start)(session=session)

    def _as_json(self, value: Any, path: str) -> Any:
        return value if self._encoder is None else encoded(value, self._encoder, path)


def once_committed(alias: str, call: Callable[[], object]) -> None:
    """Call after the commit of the open transaction; without one, at once.

    Inside a `TestCase` nothing commits, so it is not called, even if the test executes the callbacks.
    """
    connection = connections[alias]

    def unless_in_a_test() -> None:
        if not connection.in_atomic_block:
            call()

    transaction.on_commit(unless_in_a_test, using=alias, robust=True)


def open_block(alias: str) -> AtomicBlock | None:
    """Return the transaction that is open in the engine's database, None if none is open anywhere.

    Raises `SessionRefused` if the caller could take another one for it.
    """
    if connections[alias].in_atomic_block:
        return AtomicBlock(alias)
    elsewhere = [each.alias for each in connections.all(initialized_only=True) if each.in_atomic_block]
    if elsewhere:
        raise SessionRefused(
            f"transaction.atomic(using={elsewhere[0]!r}) is open, and the engine's tables are in {alias!r}: "
            f"they cannot commit together; start in transaction.atomic(using={alias!r}), or after the commit "
            f"by transaction.on_commit(…, using={elsewhere[0]!r})"
        )
    if not connections[alias].get_autocommit():
        raise SessionRefused(
            f"autocommit is off for the database {alias!r}, where Django does not report the commit; start "
            "in transaction.atomic()"
        )
    return None


@contextmanager
def _models_refused(**given: Any) -> Iterator[None]:
    """Advise what to give in place of a model instance, if a value was refused because of one."""
    try:
        yield
    except InvalidValue as refusal:
        for path, value in given.items():
            try:
                refuse_models(value, path)
            except InvalidValue as advice:
                raise advice from refusal
        raise


def _advice(start: Start, refusal: WorkflowEngineError) -> WorkflowEngineError:
    """Return what to give in place of a model instance, if a start was refused because of one."""
    try:
        with _models_refused(data=start.data, variables=start.variables):
            raise refusal
    except WorkflowEngineError as advice:
        return advice
