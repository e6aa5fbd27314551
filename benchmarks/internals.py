"""The gain from private parts of Celery and kombu: a worker with them and one without, alternating."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import Batch, Contender, DurableExecutions, in_turns, processor_ratios, ratios
from benchmarks.nodes import in_line
from benchmarks.report import Comparison, Section, Spread
from benchmarks.testbed import PROCESSES, WORKER, Testbed, print_step
from workflow_engine.settings import ENVIRONMENT_PREFIX

WITHOUT = "without-internals"
"""The worker without them, and its queue."""
SWITCHED_OFF = {f"{ENVIRONMENT_PREFIX}CELERY_INTERNALS": "false"}

NODES = 10


@dataclass(frozen=True)
class Kind:
    """What the nodes of an execution do."""

    id: str
    title: str
    function: str
    arguments: Mapping[str, Any]


KINDS = (
    Kind("nothing", "nodes that do nothing", "benchmarks.no_op", {}),
    Kind("a-while", "nodes that wait 10 ms", "benchmarks.outside", {"seconds": 0.01}),
)


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    at_once: int
    repetitions: int


FULL = Size(at_once=200, repetitions=7)
QUICK = Size(at_once=10, repetitions=1)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure hops with private parts and without, and by how much the two differ."""
    size = QUICK if quick else FULL
    used = testbed.start_workers(WORKER)
    without = testbed.start_workers(WITHOUT, options=["--queues", WITHOUT], environment=SWITCHED_OFF)
    contenders: list[Contender] = []
    for kind in KINDS:
        contenders.append(_contender(testbed, kind, used, testbed.settings.queue))
        contenders.append(_contender(testbed, kind, without, WITHOUT))
    print_step("with private parts of Celery and kombu, and without")
    batches = iter(in_turns(contenders, size.at_once, NODES, size.repetitions))
    rows = [(kind.title, *_cells(next(batches), next(batches))) for kind in KINDS]
    testbed.stop_workers(WORKER, WITHOUT)
    columns = ("time per hop with them", "without", "hops per second", "processor time")
    return Comparison((), _method(size), columns=columns, rows=rows)


def _contender(testbed: Testbed, kind: Kind, pids: Mapping[str, int], queue: str) -> Contender:
    workflow = in_line(f"{kind.id}-{queue}", NODES, kind.function, dict(kind.arguments), queue=queue)
    testbed.client.deploy(workflow)
    return DurableExecutions(testbed, pids, workflow.id)


def _cells(used: Sequence[Batch], without: Sequence[Batch]) -> Iterator[str]:
    for batches in (used, without):
        yield Spread.of([batch.seconds_per_hop for batch in batches]).text("ms", 1000)
    yield Spread.of(ratios(without, used)).as_change()
    yield Spread.of(processor_ratios(used, without)).as_change()


def _method(size: Size) -> str:
    return (
        f"Two workers of {PROCESSES} processes that differ in WORKFLOW_ENGINE_CELERY_INTERNALS alone: one as "
        f"in the engine's own app, the other with false. Each runs {size.at_once} executions of {NODES} "
        f"nodes at once, of both kinds, alternating, {size.repetitions} times after a warm-up. Processor "
        "time is that of the worker, Redis and Postgres. The last two columns are the changes that the "
        "private parts make, run by run: the median, with the least and the greatest in brackets."
    )
