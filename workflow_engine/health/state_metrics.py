"""The state of an installation as metrics: what Postgres holds, what is late, and how long the queues are.

Nothing is counted or kept for them. They are read when they are asked for, by a few bounded statements, so it
does not matter which process is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from workflow_engine.broker.dispatcher import Dispatcher
from workflow_engine.errors import BrokerUnavailable, DatabaseOutdated, DatabaseUnavailable
from workflow_engine.postgres.executions.figures import ActiveQueue, ExecutionFigures, Figures
from workflow_engine.telemetry.exposition import Gauge, GaugeCollector, exposition

Codes = Callable[[], Mapping[str, int]]
"""Counts the oldest executions that have not ended by why they stand where they are: `explain`'s codes."""

QueueLengths = Callable[[Sequence[str]], Mapping[str, int]]
"""Returns the messages in each of these queues. Raises `BrokerUnavailable`."""


class StateMetrics:
    """The metrics of the state. Methods raise `ExtraMissing` if prometheus-client is not installed."""

    def __init__(
        self,
        figures: ExecutionFigures,
        dispatcher: Dispatcher,
        lengths: QueueLengths,
        queue: str,
        codes: Codes,
    ) -> None:
        self._figures = figures
        self._dispatcher = dispatcher
        self._lengths = lengths
        self._queue = queue
        self._codes = codes

    def exposition(self) -> bytes:
        """Return the metrics of this moment as the text that Prometheus reads.

        What cannot be read is left out, and `workflow_engine_up` says of which server.
        """
        return exposition(self.collector())

    def collector(self) -> GaugeCollector:
        """Return what reads the metrics at every scrape."""
        return GaugeCollector(self._gauges)

    def _gauges(self) -> Iterator[Gauge]:
        up = {"postgres": 0, "broker": 0}
        figures: Figures | None = None
        with suppress(DatabaseUnavailable, DatabaseOutdated):
            figures = self._figures.read()
            up["postgres"] = 1
            yield from _of_postgres(figures)
            yield Gauge(
                "workflow_engine_executions_explained",
                "Of the oldest executions that have not ended: how many stand where they do for this reason.",
                ("code",),
                {(code,): count for code, count in self._codes().items()},
            )
        with suppress(BrokerUnavailable):
            yield from self._of_broker(figures.queues if figures is not None else ())
            up["broker"] = 1
        yield Gauge(
            "workflow_engine_up",
            "Whether the server has replied to the questions behind these metrics.",
            ("server",),
            {(server,): is_up for server, is_up in up.items()},
        )

    def _of_broker(self, active: Sequence[ActiveQueue]) -> Iterator[Gauge]:
        lengths = self._lengths(sorted({self._queue, *(queue.name for queue in active)}))
        now = datetime.now(UTC)
        ages = {queue.name: age for queue in active if (age := self._age_of(queue, now)) is not None}
        yield Gauge(
            "workflow_engine_queue_messages",
            "Messages in a queue that no worker has taken.",
            ("queue",),
            {(queue,): length for queue, length in lengths.items()},
        )
        yield Gauge(
            "workflow_engine_queue_oldest_seconds",
            "Time since the commit behind the oldest message of a queue; only where the broker is Redis.",
            ("queue",),
            {(queue,): age for queue, age in ages.items()},
        )

    def _age_of(self, queue: ActiveQueue, now: datetime) -> float | None:
        fronts = [self._dispatcher.oldest(queue.name, priority) for priority in queue.priorities]
        times = [front for front in fronts if isinstance(front, datetime)]
        return max(0.0, (now - min(times)).total_seconds()) if times else None


def _of_postgres(figures: Figures) -> Iterator[Gauge]:
    yield Gauge(
        "workflow_engine_executions",
        "Executions that have not ended, by status, without children.",
        ("status",),
        {(status.value,): count for status, count in figures.statuses.items()},
    )
    for name, late, what in (
        ("waits", figures.waits, "Waits that are over and whose nodes have not been enqueued"),
        ("schedules", figures.schedules, "Scheduled triggers that are due and have not started"),
    ):
        yield Gauge(f"workflow_engine_{name}_due", f"{what}.", (), {(): late.count})
        yield Gauge(
            f"workflow_engine_{name}_lag_seconds",
            f"{what}: seconds since the first of them became due.",
            (),
            {(): late.seconds},
        )
    yield Gauge(
        "workflow_engine_limited",
        "Executions and nodes that stand in line for a slot of a limit.",
        (),
        {(): figures.limited.count},
    )
    yield Gauge(
        "workflow_engine_limited_oldest_seconds",
        "Time for which the first of those that stand in line for a slot of a limit does so.",
        (),
        {(): figures.limited.seconds},
    )
    yield Gauge(
        "workflow_engine_executions_active",
        "Executions of which a node is due or running, by the queue of its messages, children included.",
        ("queue",),
        {(queue.name,): queue.executions for queue in figures.queues},
    )
    yield Gauge(
        "workflow_engine_oldest_unserved_seconds",
        "Time since the active execution that has not moved for longest did so; its node may be running.",
        ("queue",),
        {(queue.name,): queue.still_for for queue in figures.queues},
    )
