"""Requests of `action/api-call`, beside a function that sends the same ones with the same client.

The service takes 100 ms for each response and runs in a process of its own. What is measured is the cost of
the node: checked addresses, bounded bodies, one deadline.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import Batch, DurableExecutions, in_turns, processor_ratios, ratios
from benchmarks.nodes import in_line
from benchmarks.report import Figure, Section, Spread, ratio_at_least, ratio_at_most
from benchmarks.testbed import BenchmarkFailed, Testbed, print_step
from workflow_engine import ExecutionContext, Workflow, WorkflowBuilder
from workflow_engine.nodes.action.api_call import NODE_TYPE
from workflow_engine.settings import ENVIRONMENT_PREFIX

IDEAL_LIMIT = 0.9
"""The share of the ideal throughput."""

COST_LIMIT = 1.2
"""The processor time of the node, relative to that of the function."""

WAIT = 0.1
"""Seconds that the service takes."""

THREADS = 32
EXECUTIONS = 64


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    calls: int
    nodes: int
    repetitions: int


FULL = Size(calls=1000, nodes=10, repetitions=5)
QUICK = Size(calls=320, nodes=2, repetitions=1)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure the throughput of calls relative to the ideal, and their cost beside a function's."""
    size = QUICK if quick else FULL
    with _service() as url:
        print_step(f"{size.calls} calls on {THREADS} threads")
        _in_threads(url, THREADS)  # opens the connections
        bare = [size.calls * WAIT / THREADS / _in_threads(url, size.calls) for _ in range(size.repetitions)]
        print_step(f"{EXECUTIONS} executions of {size.nodes} nodes: the node, and a function")
        node, function = _on_a_worker(testbed, url, size)
    return Section(_figures(bare, node, function, size), _method(size))


def _in_threads(url: str, calls: int) -> float:
    """Return the seconds that this many calls of the node take on the threads."""
    context = ExecutionContext("benchmark", "calls", "", "begin", "call", {})

    def call(_: int) -> str:
        return NODE_TYPE.executor.execute("call", _config(url), context).kind

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(time.sleep, [0.05] * THREADS))  # starts them all
        begin = time.perf_counter()
        kinds = set(threads.map(call, range(calls)))
        seconds = time.perf_counter() - begin
    if kinds != {"success"}:
        raise BenchmarkFailed(f"calls of the node ended as {', '.join(sorted(kinds))}")
    return seconds


def _on_a_worker(testbed: Testbed, url: str, size: Size) -> list[list[Batch]]:
    queue = "calls"
    by_function = in_line("by-function", size.nodes, "benchmarks.request", {"url": url}, queue=queue)
    for workflow in (_by_node("by-node", size.nodes, url, queue), by_function):
        testbed.client.deploy(workflow)
    pids = testbed.start_workers(
        queue,
        concurrency=THREADS,
        options=["--pool", "threads", "--queues", queue],
        environment={f"{ENVIRONMENT_PREFIX}DATABASE_POOL_SIZE": str(THREADS)},
    )
    contenders = [DurableExecutions(testbed, pids, name) for name in ("by-node", "by-function")]
    batches = in_turns(contenders, EXECUTIONS, size.nodes, size.repetitions)
    testbed.stop_workers(queue)
    return batches


def _by_node(workflow_id: str, nodes: int, url: str, queue: str) -> Workflow:
    flow = WorkflowBuilder(workflow_id)
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        last = last >> flow.node(f"step{number}", "action/api-call", _config(url), queue=queue)
    return flow.build()


def _config(url: str) -> dict[str, Any]:
    return {"url": url, "allowPrivate": True, "headers": {"Accept": "application/json"}}


def _figures(
    bare: Sequence[float], node: Sequence[Batch], function: Sequence[Batch], size: Size
) -> list[Figure]:
    def of_the_ideal(batches: Sequence[Batch]) -> str:
        ideal = EXECUTIONS * size.nodes * WAIT / THREADS
        return Spread.of([ideal / batch.seconds for batch in batches]).text()

    def processor(batches: Sequence[Batch]) -> str:
        return Spread.of([1000 * batch.processor_seconds_per_hop for batch in batches]).text("s")

    return [
        ratio_at_least(
            f"{size.calls:,} calls of 100 ms on {THREADS} threads, relative to the ideal",
            Spread.of(bare),
            IDEAL_LIMIT,
        ),
        Figure(
            f"nodes on a worker of {THREADS} threads: throughput, relative to the ideal", of_the_ideal(node)
        ),
        Figure("- a function with the same client", of_the_ideal(function)),
        Figure("- ratio of the time per hop", Spread.of(ratios(node, function)).text()),
        Figure("- processor time of 1,000 hops, servers included", processor(node)),
        Figure("- that of the function", processor(function)),
        ratio_at_most(
            "- ratio of the processor time", Spread.of(processor_ratios(node, function)), COST_LIMIT
        ),
    ]


def _method(size: Size) -> str:
    return (
        "A service in a process of its own takes 100 ms for each response, 100 bytes of JSON. First "
        f"{size.calls:,} calls of the node in one process on {THREADS} threads, {size.repetitions} times, "
        f"with connections that are open. Then {EXECUTIONS} executions at once of {size.nodes} nodes one "
        f"after another, on one worker with {THREADS} threads: nodes of `action/api-call`, and nodes that "
        "call a function, which sends the same request with an httpx2.Client, alternating, "
        f"{size.repetitions} times after a warm-up. Figures are medians, with the least and the greatest in "
        "brackets."
    )


# -- the service -------------------------------------------------------------------------------------------


@contextmanager
def _service() -> Iterator[str]:
    """Start the service; the value is its URL."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "benchmarks.service", str(WAIT)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not (url := process.stdout.readline().strip()):
                raise BenchmarkFailed("the service did not start")
            yield url
        finally:
            process.kill()
