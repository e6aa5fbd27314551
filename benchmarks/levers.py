"""The gain of each lever alone: a worker with all of them, and one without each, at saturation, alternating.

Most of them save processor time; others only the time in which a process waits for its next node.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contenders import DurableExecutions, in_turns, processor_ratios, ratios
from benchmarks.nodes import no_ops
from benchmarks.report import Comparison, Section, Spread
from benchmarks.testbed import PROCESSES, WORKER, Testbed, print_step
from benchmarks.without import LEVERS, Lever

WITH = "with-all-levers"
NODES = 10


@dataclass(frozen=True)
class Size:
    """The numbers of a run; `levers` is how many of the table are tried."""

    at_once: int
    repetitions: int
    levers: int


FULL = Size(at_once=100, repetitions=7, levers=len(LEVERS))
QUICK = Size(at_once=10, repetitions=1, levers=1)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure the processor time and the time of a hop without each lever, beside those with all of them."""
    size = QUICK if quick else FULL
    levers = dict(list(LEVERS.items())[: size.levers])
    testbed.client.deploy(no_ops(WITH, NODES))
    pids = testbed.start_workers(WORKER)
    contenders = [DurableExecutions(testbed, pids, WITH)]
    contenders += [_without(testbed, name, lever) for name, lever in levers.items()]
    print_step(f"with all levers, and without each of {len(levers)}")
    everything, *without = in_turns(contenders, size.at_once, NODES, size.repetitions)
    testbed.stop_workers(WORKER, *map(_worker_name, levers))
    used = Spread.of([1000 * batch.processor_seconds_per_hop for batch in everything])
    took = Spread.of([batch.seconds_per_hop for batch in everything])
    rows: list[tuple[str, ...]] = [("1,000 hops, with all levers", used.text("s"), took.text("s", 1000))]
    for lever, batches in zip(levers.values(), without, strict=True):
        changes = processor_ratios(batches, everything), ratios(batches, everything)
        rows.append((f"- with {lever.name}", *(Spread.of(change).as_change() for change in changes)))
    return Comparison((), _method(size), columns=("processor time", "time"), rows=rows)


def _worker_name(lever: str) -> str:
    return f"without-{lever.replace('_', '-')}"


def _without(testbed: Testbed, lever: str, details: Lever) -> DurableExecutions:
    name = _worker_name(lever)
    # A queue of its own keeps its executions on its worker.
    testbed.client.deploy(no_ops(name, NODES, queue=name))
    options = ["--queues", name, *details.options]
    pids = testbed.start_workers(name, app=f"benchmarks.without:{lever}", options=options)
    return DurableExecutions(testbed, pids, name)


def _method(size: Size) -> str:
    return (
        f"One worker of {PROCESSES} processes with everything, and one for each lever that does without it. "
        f"Each runs {size.at_once} executions of {NODES} nodes that do nothing at once, alternating, "
        f"{size.repetitions} times after a warm-up. Processor time is that of the worker, Redis and "
        "Postgres. Each row is the change of both, run by run: the median, with the least and the greatest "
        "in brackets."
    )
