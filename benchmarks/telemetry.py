"""The cost of watching: a worker with metrics, with traces that are not sampled, or with logs of its nodes.

Each beside a worker with none of them, at saturation. A share of a percent is lost in the noise of a time. So
what is judged is processor time, by the median of many pairs with its interval, and the Python calls of a
hop, which are exact. What limits cost that a workflow does not use is counted as well.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry import context, trace

from benchmarks import python_calls
from benchmarks.contenders import Batch, Contender, DurableExecutions, hop_figure
from benchmarks.nodes import no_ops
from benchmarks.python_calls import Calls
from benchmarks.report import Estimate, Figure, Section, Spread, estimate_at_most, exactly
from benchmarks.testbed import PROCESSES, Testbed, print_step
from benchmarks.watched import Watched
from workflow_engine import StartedExecution, Workflow, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.settings import ENVIRONMENT_PREFIX

NOTHING, METRICS, TRACES, LOGS = "nothing", "metrics", "traces", "logs"
NODES = 10

METRICS_LIMIT = 1.03
TRACES_LIMIT = 1.01
"""Of the processor time of a hop, and of its Python calls, relative to one that nothing watches."""

NOT_SAMPLED = trace.SpanContext(0xA11CE, 0xB0B, is_remote=False, trace_flags=trace.TraceFlags(0))
"""The context in which executions are started that no worker makes spans for."""

LIMITS = [{"key": "bank", "concurrency": 1}]


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    at_once: int
    turns: int
    """Each is a batch of every worker there and another on the way back."""
    counted: int
    """Executions of which the Python calls are counted."""


FULL = Size(at_once=30, turns=80, counted=60)
QUICK = Size(at_once=10, turns=1, counted=10)

Turn = tuple[Batch, Batch]
"""The two batches of one worker; what grows steadily meanwhile is the same for all workers."""


class UnsampledClient(WorkflowClient):
    """Starts executions within a trace that is not sampled."""

    def start(self, *given: Any, **named: Any) -> StartedExecution:
        about = trace.set_span_in_context(trace.NonRecordingSpan(NOT_SAMPLED))
        token = context.attach(about)
        try:
            return super().start(*given, **named)
        finally:
            context.detach(token)


@dataclass(frozen=True)
class Watching:
    """What a worker does beside its work, and the environment that makes it do so."""

    what: str
    environment: Mapping[str, str]

    @classmethod
    def all(cls) -> list[Watching]:
        """Return all kinds, the one that is none first."""
        return [
            cls(NOTHING, {}),
            cls(METRICS, {f"{ENVIRONMENT_PREFIX}METRICS_PORT": str(_free_port())}),
            cls(TRACES, {f"{ENVIRONMENT_PREFIX}TRACING": "true"}),
            cls(LOGS, {f"{ENVIRONMENT_PREFIX}NODE_LOG_LIMIT": "16384"}),
        ]

    def begun(
        self, testbed: Testbed, name: str, further: Mapping[str, str] | None = None
    ) -> DurableExecutions:
        """Start a worker of this name."""
        # A queue of its own keeps its executions on its worker.
        testbed.client.deploy(no_ops(name, NODES, queue=name))
        environment = {**self.environment, **(further or {})}
        pids = testbed.start_workers(name, options=["--queues", name], environment=environment)
        client = testbed.client
        if self.what == TRACES:
            traced = testbed.settings.model_copy(update={"tracing": True})
            client = UnsampledClient(engine=Engine.assemble(traced))
        return DurableExecutions(testbed, pids, name, client)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure a hop with each, beside one without any."""
    size = QUICK if quick else FULL
    print_step("calls of servers without limits, and beside a workflow that has some")
    servers = _calls_of_servers(testbed)
    print_step("Python calls without telemetry, with metrics, with traces, with logs")
    calls = [_python_calls(testbed, each, size) for each in Watching.all()]
    print_step("processor time with each of them")
    names = {f"with-{each.what}": each for each in Watching.all()}
    turns = _there_and_back([each.begun(testbed, name) for name, each in names.items()], size)
    testbed.stop_workers(*names)
    return Section([*_of_time(*turns), *_of_python(*calls), *_of_limits(calls[0], *servers)], _method(size))


# -- processor time ----------------------------------------------------------------------------------------


def _there_and_back(contenders: Sequence[Contender], size: Size) -> list[list[Turn]]:
    """Return the turns of each contender, after a batch that only warms up caches and connections."""

    def batches(order: Sequence[Contender]) -> list[Batch]:
        return [contender.run(size.at_once, NODES) for contender in order]

    batches(contenders)
    turns = []
    for _ in range(size.turns):
        there, back = batches(contenders), batches(contenders[::-1])
        turns.append(list(zip(there, back[::-1], strict=True)))
    return [list(of_one) for of_one in zip(*turns, strict=True)]


def _of_time(
    without: Sequence[Turn], metrics: Sequence[Turn], traces: Sequence[Turn], logs: Sequence[Turn]
) -> Iterator[Figure]:
    yield hop_figure("time per hop without telemetry", [batch for turn in without for batch in turn])
    spent = Spread.of([1000 * batch.processor_seconds_per_hop for turn in without for batch in turn])
    yield Figure("processor time of 1,000 hops without telemetry", spent.text("s"))
    yield estimate_at_most("- with metrics, relative to that", _ratio(metrics, without), METRICS_LIMIT)
    yield estimate_at_most("- with traces that are not sampled", _ratio(traces, without), TRACES_LIMIT)
    yield Figure("- with logs of nodes, which log nothing", _ratio(logs, without).text())


def _ratio(ours: Sequence[Turn], theirs: Sequence[Turn]) -> Estimate:
    return Estimate.of([_spent(a) / _spent(b) for a, b in zip(ours, theirs, strict=True)])


def _spent(turn: Turn) -> float:
    return sum(batch.processor_seconds_per_hop for batch in turn)


# -- Python calls ------------------------------------------------------------------------------------------


def _python_calls(testbed: Testbed, watching: Watching, size: Size) -> Calls:
    name = f"counted-{watching.what}"
    folder = testbed.scratch_file(name)
    folder.mkdir()
    counting = {
        f"{ENVIRONMENT_PREFIX}IMPORTS": f"benchmarks.nodes,{python_calls.__name__}",
        # Or what a hop calls depends on which comes first, its next message or the reply to its commit.
        f"{ENVIRONMENT_PREFIX}CELERY_INTERNALS": "false",
        python_calls.FOLDER_VARIABLE: str(folder),
    }
    watching.begun(testbed, name, counting).run(size.counted, NODES)
    testbed.stop_workers(name)
    return python_calls.of_median_hop(folder)


def _of_python(without: Calls, metrics: Calls, traces: Calls, logs: Calls) -> Iterator[Figure]:
    yield Figure("Python calls of a hop in the pool without telemetry", f"{without.all:,}")
    for name, calls, limit in (
        ("- with metrics, relative to that", metrics, METRICS_LIMIT),
        ("- with traces that are not sampled", traces, TRACES_LIMIT),
        ("- with logs of nodes, which log nothing", logs, 0),
    ):
        ratio = calls.all / without.all
        target = (f"at most {limit:g}", ratio <= limit) if limit else ()
        yield Figure(name, f"{ratio:.3f} ({calls.all - without.all:+d})", *target)


# -- limits that are not used ------------------------------------------------------------------------------


def _calls_of_servers(testbed: Testbed) -> tuple[int, int]:
    """Return the calls of Redis and Postgres of an execution, and of one beside a workflow with limits."""
    watched = Watched(testbed.settings)
    watched.client.deploy(no_ops("without-limits", NODES))
    _calls_of_walk(testbed, watched)  # opens connections, and compiles the workflow
    before = _calls_of_walk(testbed, watched)
    watched.client.deploy(_limited())
    for _ in range(2):  # one holds the slot, the other stands in line for it
        watched.client.start("limited")
    watched.messages.queue.clear()
    return before, _calls_of_walk(testbed, watched)


def _limited() -> Workflow:
    flow = WorkflowBuilder("limited", limits=LIMITS)
    flow.trigger("begin") >> flow.python("work", "benchmarks.no_op", limits=LIMITS)
    return flow.build()


def _calls_of_walk(testbed: Testbed, watched: Watched) -> int:
    """Return the scripts that Redis is asked to run and the transactions of Postgres, for one execution."""

    def calls() -> int:
        scripts: Mapping[str, Any] = testbed.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})
        watched.engine.database.rows("SELECT pg_stat_force_next_flush()")
        transactions = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        return int(scripts["calls"]) + watched.value(transactions)

    watched.client.start("without-limits")
    before = calls()
    watched.walk()
    return calls() - before


def _of_limits(without: Calls, alone: int, beside: int) -> Iterator[Figure]:
    yield exactly("- of the code for limits, which the workflow does not use", without.of_limits, 0)
    yield Figure(f"calls of Redis and Postgres of {NODES} hops without limits", f"{alone:,}")
    yield exactly("- beside a workflow that has limits", beside, alone)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _method(size: Size) -> str:
    return (
        f"One worker of {PROCESSES} processes without telemetry, and one each that serves metrics, that "
        "traces executions which their start has not sampled, and that keeps 16 KB of what nodes log. Each "
        f"runs {size.at_once} executions of {NODES} nodes that do nothing at once, in turns, from the first "
        f"worker to the last and back, {size.turns} times after a warm-up. Processor time is of the worker, "
        "Redis and Postgres. A ratio is the median of those of the turns, each of two batches of both "
        "workers, with the interval that has the true one in 95 of 100 runs, by order statistics. Where the "
        "limit is inside, the two are not told apart. Nothing scrapes the metrics. Python calls are those of "
        "the median hop in a process of the pool, Celery's included, with CELERY_INTERNALS=false, so that no "
        "hop overlaps with another. Calls of servers are the scripts of Redis and the transactions of "
        "Postgres, in a process that runs the hops itself."
    )
