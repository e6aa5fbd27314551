"""The parts of the engine, put together for one process."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from workflow_engine.context_cache import ExecutionContextCache
from workflow_engine.database import connect_engine
from workflow_engine.deployments import Deployments
from workflow_engine.dispatch import CeleryDispatcher, Dispatcher, producer_app
from workflow_engine.enqueue import Enqueuer
from workflow_engine.entrance import Entrance
from workflow_engine.execution_queries import ExecutionQueries
from workflow_engine.execution_state import ExecutionStateService
from workflow_engine.executor import WorkflowExecutor
from workflow_engine.lock import DistributedLockService
from workflow_engine.lock_servers import connect_lock_servers
from workflow_engine.node_types import NodeRegistry
from workflow_engine.nodes import load_node_types
from workflow_engine.overdue import Overdue
from workflow_engine.plan import Plans
from workflow_engine.redis_connection import connect_redis
from workflow_engine.running_nodes import RunningNodes
from workflow_engine.schedules import Schedules
from workflow_engine.settings import Settings, get_settings
from workflow_engine.stalled import Stalled
from workflow_engine.turns import Turns
from workflow_engine.waits import Waits


@dataclass(frozen=True)
class Engine:
    """Everything a process needs to start or run executions; nothing is connected until it is used."""

    settings: Settings
    registry: NodeRegistry
    state: ExecutionStateService
    queries: ExecutionQueries
    deployments: Deployments
    cache: ExecutionContextCache
    locks: DistributedLockService
    plans: Plans
    dispatcher: Dispatcher
    enqueuer: Enqueuer
    running_nodes: RunningNodes
    waits: Waits
    overdue: Overdue
    schedules: Schedules
    stalled: Stalled
    turns: Turns
    executor: WorkflowExecutor

    @classmethod
    def assemble(
        cls, settings: Settings | None = None, *, app: Any = None, dispatcher: Dispatcher | None = None
    ) -> Engine:
        """Put the parts together.

        `app` is the Celery app whose broker takes the messages; without one, the broker of the settings.
        """
        settings = settings or get_settings()
        registry = load_node_types(settings.imports)
        database, redis = connect_engine(settings), connect_redis(settings)
        state = ExecutionStateService(database, settings)
        lock_servers = connect_lock_servers(redis, settings)
        cache = ExecutionContextCache(redis, lock_servers, state, settings)
        locks = DistributedLockService(redis, lock_servers, settings)
        waits = Waits(database, settings)
        plans = Plans(state.load_definition, registry)
        dispatcher = dispatcher or CeleryDispatcher(app or producer_app(settings), settings.redis_url)
        enqueuer = Enqueuer(state, cache, dispatcher, plans, waits, settings)
        entrance = Entrance(state, cache, locks, plans, waits, enqueuer)
        running_nodes = RunningNodes(redis, settings)
        return cls(
            settings=settings,
            registry=registry,
            state=state,
            queries=ExecutionQueries(database, settings),
            deployments=Deployments(database, settings),
            cache=cache,
            locks=locks,
            plans=plans,
            dispatcher=dispatcher,
            enqueuer=enqueuer,
            running_nodes=running_nodes,
            waits=waits,
            overdue=Overdue(database, settings),
            schedules=Schedules(database, settings),
            stalled=Stalled(database, settings),
            turns=Turns(redis, settings),
            executor=WorkflowExecutor(
                state, cache, locks, plans, entrance, running_nodes, enqueuer, settings
            ),
        )


@functools.cache
def worker_engine(app: Any) -> Engine:
    """The engine of this worker, made at the first node; a forked process connects anew by itself."""
    return Engine.assemble(app=app)
