"""The cost of watching: a worker with metrics, with traces that are not sampled, or with logs of its nodes.

Each beside a worker with none of them, at saturation, in turns. What is judged is the processor time, because
a share of a percent is lost in the noise of the time.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry import context, trace

from benchmarks.contenders import (
    Batch,
    DurableExecutions,
    hop_figure,
    in_turns,
    processor_ratios,
    ratios,
)
from benchmarks.nodes import no_ops
from benchmarks.report import Figure, Section, Spread, ratio_at_most
from benchmarks.testbed import PROCESSES, Testbed, print_step
from workflow_engine import StartedExecution, WorkflowClient
from workflow_engine.engine.assembly import Engine

NOTHING, METRICS, TRACES, LOGS = "nothing", "metrics", "traces", "logs"
NODES = 10

METRICS_LIMIT = 1.03
TRACES_LIMIT = 1.01
"""Of the processor time of a hop, relative to one that nothing watches."""

NOT_SAMPLED = trace.SpanContext(0xA11CE, 0xB0B, is_remote=False, trace_flags=trace.TraceFlags(0))
"""The context in which executions are started that no worker makes spans for."""


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    at_once: int
    repetitions: int


FULL = Size(at_once=100, repetitions=15)
QUICK = Size(at_once=10, repetitions=1)


class UnsampledClient(WorkflowClient):
    """Starts executions within a trace that is not sampled."""

    def start(self, *given: Any, **named: Any) -> StartedExecution:
        about = trace.set_span_in_context(trace.NonRecordingSpan(NOT_SAMPLED))
        token = context.attach(about)
        try:
            return super().start(*given, **named)
        finally:
            context.detach(token)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure a hop with each, beside one without any."""
    size = QUICK if quick else FULL
    tracing = testbed.settings.model_copy(update={"tracing": True})
    contenders = [
        _watched(testbed, NOTHING, {}),
        _watched(testbed, METRICS, {"WORKFLOW_ENGINE_METRICS_PORT": str(_free_port())}),
        _watched(
            testbed,
            TRACES,
            {"WORKFLOW_ENGINE_TRACING": "true"},
            UnsampledClient(engine=Engine.assemble(tracing)),
        ),
        _watched(testbed, LOGS, {"WORKFLOW_ENGINE_NODE_LOG_LIMIT": "16384"}),
    ]
    print_step("without telemetry, with metrics, with traces that are not sampled, with logs of nodes")
    without, *watched = in_turns(contenders, size.at_once, NODES, size.repetitions)
    testbed.stop_workers(*map(_worker_name, (NOTHING, METRICS, TRACES, LOGS)))
    return Section(list(_figures(without, *watched)), _method(size))


def _figures(
    without: Sequence[Batch], metrics: Sequence[Batch], traces: Sequence[Batch], logs: Sequence[Batch]
) -> Iterator[Figure]:
    yield hop_figure("time per hop without telemetry", without)
    spent = Spread.of([1000 * batch.processor_seconds_per_hop for batch in without])
    yield Figure("processor time of 1,000 hops without telemetry", spent.text("s"))
    yield ratio_at_most("- with metrics, relative to that", _spent(metrics, without), METRICS_LIMIT)
    yield ratio_at_most("- with traces that are not sampled", _spent(traces, without), TRACES_LIMIT)
    yield Figure("- with logs of nodes, which log nothing", _spent(logs, without).text())
    for name, batches in ((METRICS, metrics), (TRACES, traces), (LOGS, logs)):
        ratio = Spread.of(ratios(batches, without))
        yield Figure(f"time per hop with {name}, relative to that without", ratio.text())


def _spent(ours: Sequence[Batch], theirs: Sequence[Batch]) -> Spread:
    return Spread.of(processor_ratios(ours, theirs))


def _worker_name(what: str) -> str:
    return f"with-{what}"


def _watched(
    testbed: Testbed, what: str, environment: Mapping[str, str], client: WorkflowClient | None = None
) -> DurableExecutions:
    name = _worker_name(what)
    # A queue of its own keeps its executions on its worker.
    testbed.client.deploy(no_ops(name, NODES, queue=name))
    pids = testbed.start_workers(name, options=["--queues", name], environment=environment)
    return DurableExecutions(testbed, pids, name, client)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _method(size: Size) -> str:
    return (
        f"One worker of {PROCESSES} processes without telemetry, and one each that serves metrics, that "
        "traces executions which their start has not sampled, and that keeps 16 KB of what nodes log. Each "
        f"runs {size.at_once} executions of {NODES} nodes that do nothing at once, in turns, "
        f"{size.repetitions} times after a warm-up. Processor time is of the worker, Redis and Postgres. "
        "Ratios are of the batches of one turn: the median, with the least and the greatest in brackets. "
        "Nothing scrapes the metrics."
    )
