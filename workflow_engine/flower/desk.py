"""The engine as the pages use it: assembled when the first page is asked for, and called in threads.

Tornado has one thread for all its requests, which no query may hold up.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from workflow_engine.broker.inspection import WorkerReport, ask_workers
from workflow_engine.client import WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.lookups.statistics import NodeStatistics, Statistics
from workflow_engine.postgres.lookups.steps import ExecutionSteps
from workflow_engine.settings import Settings, get_settings

THREADS = 4
"""Requests that may ask the servers at the same time."""

REPORTS_LAST, FIGURES_LAST = 10.0, 3.0
"""Seconds for which the reports of workers, and the figures of nodes, are taken for the present."""

REPORT_TIMEOUT = 1.0

T = TypeVar("T")


class Recent:
    """What was found within the last `seconds`, so that several browsers cost no more than one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._found: dict[Hashable, tuple[float, Any]] = {}

    def get(self, about: Hashable, find: Callable[[], T]) -> T:
        """Return what was found about something; call `find` if that is too long ago, once at a time."""
        with self._lock:
            oldest = time.monotonic() - self._seconds
            self._found = {each: found for each, found in self._found.items() if found[0] > oldest}
            if about not in self._found:
                self._found[about] = time.monotonic(), find()
            result: T = self._found[about][1]
            return result


class Desk:
    """What the pages of one Flower share. `app` is Flower's Celery app."""

    def __init__(self, settings: Settings | None = None, engine: Engine | None = None) -> None:
        self._given_settings = settings
        self._engine = engine
        self._assembling = threading.Lock()
        self._reports = Recent(REPORTS_LAST)
        self._figures = Recent(FIGURES_LAST)

    @functools.cached_property
    def threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="workflow-pages")

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings, without modules to import: pages need no node's code. Raises `SettingsInvalid`."""
        settings = self._given_settings or get_settings()
        return settings.model_copy(update={"imports": (), "database_pool_size": THREADS})

    def engine(self, app: Any) -> Engine:
        """Return the engine, with the broker of this Celery app."""
        with self._assembling:
            if self._engine is None:
                self._engine = Engine.assemble(self.settings, app=app)
        return self._engine

    async def ask(self, app: Any, question: Callable[[Answers], T]) -> T:
        """Call a function with the engine's services in a thread, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(
            self.threads, lambda: question(Answers(self, self.engine(app), app))
        )

    def reports(self, app: Any) -> list[WorkerReport]:
        """Return what the workers reported within the last seconds. Raises `BrokerUnavailable`."""
        return self._reports.get("workers", lambda: ask_workers(self.settings, REPORT_TIMEOUT, app))

    def figures(self, engine: Engine, hours: int, workflow_id: str | None) -> NodeStatistics:
        """Return the figures of nodes of executions started within so many hours, seconds old at most."""
        since = datetime.now(UTC) - timedelta(hours=hours)
        nodes = Statistics(engine.database).nodes
        return self._figures.get((hours, workflow_id), lambda: nodes(since, workflow_id))


class Answers:
    """The engine's services for one request; to be used in a thread."""

    def __init__(self, desk: Desk, engine: Engine, app: Any) -> None:
        self._desk = desk
        self._app = app
        self.engine = engine
        self.client = WorkflowClient(engine=engine)
        self.steps = ExecutionSteps(engine.database)
        self.statistics = Statistics(engine.database)

    def reports(self) -> list[WorkerReport]:
        """Return what the workers report. Raises `BrokerUnavailable`."""
        return self._desk.reports(self._app)

    def figures(self, hours: int, workflow_id: str | None) -> NodeStatistics:
        """Return the figures of nodes of executions started within so many hours, seconds old at most."""
        return self._desk.figures(self.engine, hours, workflow_id)
