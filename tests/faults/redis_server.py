"""A Redis that loses all data: broker, locks and contexts at once."""

from __future__ import annotations

import time
from collections.abc import Callable

from faults.fault import Findings
from faults.stage import Load, Stage


def flush(stage: Stage) -> Findings:
    """Send FLUSHALL, again and again."""
    return _forgetful(stage, stage.servers.topology.flush)


def restart_empty(stage: Stage) -> Findings:
    """Kill Redis and start it with empty memory, again and again."""
    return _forgetful(stage, stage.servers.topology.restart_empty)


def _forgetful(stage: Stage, forget: Callable[[], object]) -> Findings:
    scale = stage.scale
    stage.add_workers(scale.workers)
    times: list[float] = []
    every = scale.trouble / 12
    # About as much as the workers can do, or the queue would hold no messages to lose.
    with Load(stage, scale.load * 2, scale.trouble) as load:
        for _ in range(12):
            time.sleep(every)
            times.append(time.time())
            forget()
    stage.wait_for_the_end()

    record = stage.record()
    delays = record.delays_of((execution_id, at) for at in times for execution_id in record.under_way(at))
    return Findings(record, frozenset(load.started), len(times), delays)
