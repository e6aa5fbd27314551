"""The engine as the pages use it: assembled when the first page is asked for, and called in threads.

Tornado has one thread for all its requests, which no query may hold up.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from workflow_engine.broker.inspection import WorkerReport, ask_workers
from workflow_engine.client import WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.lookups.statistics import Statistics
from workflow_engine.postgres.lookups.steps import ExecutionSteps
from workflow_engine.settings import Settings, get_settings

THREADS = 4
"""Requests that may ask the servers at the same time."""

REPORTS_LAST = 10.0
"""Seconds for which the reports of workers are taken for the present."""

REPORT_TIMEOUT = 1.0

T = TypeVar("T")


class Desk:
    """What the pages of one Flower share. `app` is Flower's Celery app."""

    def __init__(self, settings: Settings | None = None, engine: Engine | None = None) -> None:
        self._given_settings = settings
        self._engine = engine
        self._assembling = threading.Lock()
        self._asking_workers = threading.Lock()
        self._reports: tuple[float, list[WorkerReport]] | None = None

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
        with self._asking_workers:
            if self._reports is None or time.monotonic() - self._reports[0] > REPORTS_LAST:
                self._reports = time.monotonic(), ask_workers(self.settings, REPORT_TIMEOUT, app)
            return self._reports[1]


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
