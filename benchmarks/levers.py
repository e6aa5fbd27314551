"""What each lever brings, alone: workers with it and workers without it, at saturation, in turns.

A lever stays only if these figures say so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.contenders import Batch, DurableExecutions
from benchmarks.fleet import Fleet, tell
from benchmarks.hops import FULL, NODES, PROCESSES, QUICK, Size, in_turns, ratios
from benchmarks.nodes import no_ops
from benchmarks.report import Figure, Section, Spread
from benchmarks.without import SETTINGS
from workflow_engine.dispatch import CeleryDispatcher, Dispatch, HopMessage, producer_app
from workflow_engine.execution_records import new_execution_id

WITH = "with"

PUBLISHED = 300
"""Messages published for each measurement of a publish alone, to a queue that no worker consumes."""


def measure(fleet: Fleet, quick: bool = False) -> Section:
    """A hop with and without each lever, on a worker of two processes for each."""
    size = QUICK if quick else FULL
    fleet.client.deploy(no_ops(WITH, NODES))
    everything = DurableExecutions(fleet, fleet.start_workers(WITH, concurrency=PROCESSES), WITH)
    figures = [_publishing(fleet, size)]
    for lever in SETTINGS:
        name = f"without-{lever.replace('_', '-')}"
        # A queue of its own keeps its executions on its worker.
        fleet.client.deploy(no_ops(name, NODES, queue=name))
        pids = fleet.start_workers(
            name, concurrency=PROCESSES, app=f"benchmarks.without:{lever}", options=["--queues", name]
        )
        tell(f"with and without {lever}")
        contenders = (everything, DurableExecutions(fleet, pids, name))
        figures += _of_lever(lever.replace("_", " "), *in_turns(contenders, size.at_once, size.repetitions))
    method = (
        f"One worker of {PROCESSES} processes with everything, and one for each lever that goes without it. "
        f"Each runs {size.at_once} executions of {NODES} nodes that do nothing at once, in turns, "
        f"{size.repetitions} times after a first that does not count. Figures are the medians of the ratios "
        "of batches that ran one after another, in brackets the least and the greatest."
    )
    return Section(figures, method)


def _publishing(fleet: Fleet, size: Size) -> Figure:
    """The kept client by itself: what it saves is a few hundredths of a hop, and more of a publish."""
    kept, built = producer_app(fleet.settings), producer_app(fleet.settings)
    built.conf.update(SETTINGS["kept_client"])
    dispatchers = CeleryDispatcher(kept), CeleryDispatcher(built)
    dispatch = Dispatch(HopMessage(new_execution_id(), "none", 1, "none", 1), "published-to-nobody", 0)
    seconds = [
        [_publish_seconds(dispatcher, dispatch) for dispatcher in dispatchers]
        for _ in range(2 * size.repetitions + 1)
    ][1:]
    fleet.redis.delete(dispatch.queue)
    told = Spread.of([with_it / without_it for with_it, without_it in seconds]).told()
    return Figure("kept client: processor time of a publish, in publishes without it", told)


def _publish_seconds(dispatcher: CeleryDispatcher, dispatch: Dispatch) -> float:
    """Of processor time."""
    begin = time.process_time()
    for _ in range(PUBLISHED):
        dispatcher.publish([dispatch])
    return time.process_time() - begin


def _of_lever(name: str, ours: Sequence[Batch], without: Sequence[Batch]) -> list[Figure]:
    processor = [
        (with_it.used.workers.total + with_it.used.redis.total)
        / (without_it.used.workers.total + without_it.used.redis.total)
        for with_it, without_it in zip(ours, without, strict=True)
    ]
    return [
        Figure(f"{name}: time of a hop, in hops without it", Spread.of(ratios(ours, without)).told()),
        Figure("- processor time of worker and Redis, likewise", Spread.of(processor).told()),
    ]
