"""An engine in this process, whose calls are measured one by one.

It keeps its messages, so that this process runs the hops. Pages touched are counted by Postgres.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from workflow_engine import WorkflowClient
from workflow_engine.broker.dispatcher import Backlog
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import Dispatch, HopMessage
from workflow_engine.settings import Settings

CALLS = 20

# The session's own counts reach the views when this statement ends.
FLUSH = "SELECT pg_stat_force_next_flush()"
PAGES = """
SELECT sum(coalesce(heap_blks_read, 0) + coalesce(heap_blks_hit, 0) + coalesce(idx_blks_read, 0)
    + coalesce(idx_blks_hit, 0) + coalesce(toast_blks_read, 0) + coalesce(toast_blks_hit, 0)
    + coalesce(tidx_blks_read, 0) + coalesce(tidx_blks_hit, 0))::bigint
FROM pg_statio_user_tables
"""


@dataclass(frozen=True)
class Cost:
    """The cost of one call: pages of tables and indexes that it read, and seconds."""

    pages: float
    seconds: float

    def text(self) -> str:
        return f"{self.pages:,.0f} pages, {1000 * self.seconds:,.1f} ms"


class KeptMessages:
    """A dispatcher that keeps messages in memory, for this process to run."""

    def __init__(self) -> None:
        self.queue: deque[HopMessage] = deque()

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        self.queue.extend(dispatch.message for dispatch in dispatches)

    def queued(self, dispatch: Dispatch) -> None:
        """Return None: the queue is not in Redis."""

    def taken(self) -> tuple[str, ...]:
        """Return nothing: no worker takes a message."""
        return ()

    def executions_in(self, queue: str, priority: int) -> None:
        """Return None: no worker takes a message."""

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        return Backlog.UNKNOWN


class Watched:
    """An engine in this process, whose calls are measured."""

    def __init__(self, settings: Settings) -> None:
        self.messages = KeptMessages()
        self.engine = Engine.assemble(settings, dispatcher=self.messages)
        self.client = WorkflowClient(engine=self.engine)

    def value(self, statement: str) -> int:
        ((found,),) = self.engine.database.rows(statement)
        return int(found)

    def cost(self, call: Callable[[], object], times: int = CALLS) -> Cost:
        """Measure one of several calls; pages are their mean, seconds their median."""
        call()
        before = self._pages()
        seconds = []
        for _ in range(times):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
        return Cost((self._pages() - before) / times, statistics.median(seconds))

    def _pages(self) -> int:
        self.engine.database.rows(FLUSH)
        return self.value(PAGES)

    def walk(self) -> None:
        """Run hops until none is due."""
        while self.messages.queue:
            self.hop()

    def hop(self) -> None:
        self.engine.executor.continue_execution(self.messages.queue.popleft())
