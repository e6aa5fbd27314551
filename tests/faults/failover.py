"""A server that dies for good while its replica takes its place, or the broker on its own disk."""

from __future__ import annotations

import time

from faults.fault import Findings
from faults.stage import Load, Stage

TIMES = 2


def fail_over(stage: Stage) -> Findings:
    """Kill the server that has the contexts or the messages, twice, while orders come in."""
    scale = stage.scale
    stage.add_workers(scale.workers)
    times: list[float] = []
    with Load(stage, scale.load * 2, scale.trouble) as load:
        for _ in range(TIMES):
            time.sleep(scale.trouble / 4)
            times.append(time.time())
            stage.servers.topology.fail_over()
    stage.wait_for_the_end()

    record = stage.record()
    delays = record.delays_of((execution_id, at) for at in times for execution_id in record.under_way(at))
    problems = [] if delays else ["no execution was under way"]
    return Findings(record, frozenset(load.started), len(times), delays, problems)
