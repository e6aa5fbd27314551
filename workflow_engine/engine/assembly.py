"""The parts of the engine, put together for one process."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from workflow_engine.broker.dispatcher import CeleryDispatcher, Dispatcher, producer_app
from workflow_engine.broker.queue_looks import QueueLooks
from workflow_engine.broker.tasks import Tasks
from workflow_engine.engine.context_cache import ExecutionContextCache
from workflow_engine.engine.executor import WorkflowExecutor
from workflow_engine.engine.failure_workflows import FailureWorkflows
from workflow_engine.engine.observation.spans import Spans
from workflow_engine.engine.publisher import Publisher
from workflow_engine.engine.starts.starting import Starts
from workflow_engine.engine.steps.attempts import Attempts
from workflow_engine.engine.stores import Stores
from workflow_engine.nodes.loading import load_node_types
from workflow_engine.nodes.registry import NodeRegistry
from workflow_engine.postgres.database import Database, PooledDatabase
from workflow_engine.postgres.due_times import DueTimes
from workflow_engine.postgres.events import Events
from workflow_engine.postgres.executions.children import Children
from workflow_engine.postgres.executions.figures import ExecutionFigures
from workflow_engine.postgres.executions.moves import OperatorMoves
from workflow_engine.postgres.executions.parts import Parts
from workflow_engine.postgres.executions.queries import ExecutionQueries
from workflow_engine.postgres.executions.queue_deadlines import QueueDeadlines
from workflow_engine.postgres.executions.stalled import Stalled
from workflow_engine.postgres.executions.state import ExecutionStateService
from workflow_engine.postgres.executions.timeouts import ExecutionTimeouts
from workflow_engine.postgres.limits import Limits
from workflow_engine.postgres.retention import Retention
from workflow_engine.postgres.waits import Waits
from workflow_engine.postgres.workflows.deployments import Deployments
from workflow_engine.postgres.workflows.triggers import Triggers
from workflow_engine.redis.client import connect_redis
from workflow_engine.redis.lock import DistributedLockService
from workflow_engine.redis.lock_servers import connect_lock_servers
from workflow_engine.redis.presence import Introduction, Presence
from workflow_engine.redis.running_nodes import RunningNodes
from workflow_engine.redis.upkeep.data_age import DataAge
from workflow_engine.redis.upkeep.periodic_lease import PeriodicLease
from workflow_engine.runner.compiled import CompiledWorkflows
from workflow_engine.settings import Settings, get_settings
from workflow_engine.telemetry.tracing import Tracing


@dataclass(frozen=True)
class Engine:
    """Everything a process needs to start or run executions; it connects to a server at the first use."""

    settings: Settings
    registry: NodeRegistry
    tasks: Tasks
    database: Database
    state: ExecutionStateService
    moves: OperatorMoves
    queries: ExecutionQueries
    deployments: Deployments
    events: Events
    cache: ExecutionContextCache
    locks: DistributedLockService
    workflows: CompiledWorkflows
    dispatcher: Dispatcher
    queue_looks: QueueLooks
    publisher: Publisher
    running_nodes: RunningNodes
    waits: Waits
    children: Children
    limits: Limits
    queue_deadlines: QueueDeadlines
    timeouts: ExecutionTimeouts
    triggers: Triggers
    due_times: DueTimes
    stalled: Stalled
    retention: Retention
    figures: ExecutionFigures
    leases: PeriodicLease
    data_age: DataAge
    presence: Presence
    failure_workflows: FailureWorkflows
    executor: WorkflowExecutor
    starts: Starts

    @property
    def code(self) -> frozenset[str]:
        """The names of all code that a node may need and that is here: node types, functions and tasks."""
        return self.registry.names | self.tasks.names

    @classmethod
    def assemble(
        cls,
        settings: Settings | None = None,
        *,
        app: Any = None,
        dispatcher: Dispatcher | None = None,
        database: Database | None = None,
    ) -> Engine:
        """Build an engine from the settings.

        `app` is the Celery app whose broker takes the messages; None stands for the broker of the settings.
        `database` is the one of the settings in other hands, such as those of a web framework.
        """
        settings = settings or get_settings()
        registry = load_node_types(settings.imports)
        database = database or PooledDatabase(settings)
        redis = connect_redis(settings, introduce=Introduction(settings))
        lease, retention = settings.claim_lease, settings.event_retention
        state = ExecutionStateService(database, claim_lease=lease, event_retention=retention)
        lock_servers = connect_lock_servers(redis, settings)
        locks = DistributedLockService(redis, lock_servers, settings)
        waits = Waits(database, claim_lease=lease, unknown_type_timeout=settings.unknown_type_timeout)
        cache = ExecutionContextCache(redis, lock_servers, locks, state, settings)
        children = Children(database, claim_lease=lease)
        deployments = Deployments(database, queue=settings.queue)
        limits = Limits(database, claim_lease=lease)
        queue_deadlines = QueueDeadlines(database)
        stores = Stores(
            state, waits, cache, locks, children, deployments, limits, Parts(database), queue_deadlines
        )
        tasks = Tasks(app)
        workflows = CompiledWorkflows(state.load_definition, registry, tasks.route)
        app = app or producer_app(settings)
        dispatcher = dispatcher or CeleryDispatcher(app, settings.redis_url, redis)
        queue_looks = QueueLooks(app)
        publisher = Publisher(stores, workflows, dispatcher, settings)
        running_nodes = RunningNodes(redis, settings)
        executor = WorkflowExecutor(
            stores,
            workflows,
            Attempts(stores, workflows, running_nodes, settings),
            running_nodes,
            publisher,
            settings,
            Spans(Tracing()) if settings.tracing else None,
        )
        return cls(
            settings=settings,
            registry=registry,
            tasks=tasks,
            database=database,
            state=state,
            moves=OperatorMoves(database, claim_lease=lease, event_retention=retention),
            queries=ExecutionQueries(database),
            deployments=deployments,
            events=Events(
                database, claim_lease=lease, event_retention=retention, payload_limit=settings.output_limit
            ),
            cache=cache,
            locks=locks,
            workflows=workflows,
            dispatcher=dispatcher,
            queue_looks=queue_looks,
            publisher=publisher,
            running_nodes=running_nodes,
            waits=waits,
            children=children,
            limits=limits,
            queue_deadlines=queue_deadlines,
            timeouts=ExecutionTimeouts(database),
            triggers=Triggers(database),
            due_times=DueTimes(database),
            stalled=Stalled(database, node_priority=settings.node_priority, stall_after=settings.stall_after),
            retention=Retention(database, event_retention=retention),
            figures=ExecutionFigures(database, node_priority=settings.node_priority),
            leases=PeriodicLease(redis, settings),
            data_age=DataAge(redis, settings),
            presence=Presence(redis, settings),
            failure_workflows=FailureWorkflows(stores, workflows, settings),
            executor=executor,
            starts=Starts(stores, workflows, executor, settings),
        )


@functools.cache
def worker_engine(app: Any) -> Engine:
    """Return the engine of this worker, built at the first call; a forked process reconnects by itself."""
    return Engine.assemble(app=app)
