"""Whole workers that are killed, or shut down."""

from __future__ import annotations

import itertools
import signal
import time

from faults.effects import running_in
from faults.fault import SLOW, Findings
from faults.stage import Load, Stage, pool_processes

GOES_ON_WITHIN = 12.0
"""Seconds within which the execution of a killed worker continues, which is long before its lock expires."""


def kill_workers(stage: Stage) -> Findings:
    """Send SIGKILL to all processes of one worker after another, and restart each."""
    scale = stage.scale
    stage.add_workers(3, pace=SLOW)
    count = max(2, round(scale.trouble / 10))
    every = scale.trouble / count
    hit: list[tuple[list[int], float]] = []
    with Load(stage, scale.load * 2 // 3, scale.trouble) as load:
        for worker in itertools.islice(itertools.cycle(stage.workers), count):
            time.sleep(every / 2)
            stage.wait_until_busy(worker, every / 2)
            hit.append((pool_processes([worker]), time.time()))
            worker.container.kill_group(signal.SIGKILL)
            worker.container.wait(10)
            worker.container.start()
            time.sleep(every / 2)
    stage.wait_for_the_end()

    record = stage.record()
    runs = [(run.execution_id, at) for pids, at in hit for run in running_in(record.effects, pids, at)]
    delays = record.delays_of(runs)
    late = [delay for delay in delays if delay > GOES_ON_WITHIN]
    problems = [] if runs else ["no worker was killed while it ran a node"]
    if late and scale.judges_times:
        problems.append(
            f"{len(late)} executions took longer than {GOES_ON_WITHIN:g} s to continue, up to {max(late):.1f}"
        )
    return Findings(
        record, frozenset(load.started), len(hit), delays, problems, [f"{len(runs)} nodes were running"]
    )


def restart_workers(stage: Stage) -> Findings:
    """Send SIGTERM to one worker after another, and restart each when it has ended."""
    scale = stage.scale
    stage.add_workers(scale.workers)
    restarts: list[float] = []
    unclean = 0
    with Load(stage, scale.load, scale.trouble) as load:
        until = time.monotonic() + scale.trouble
        for worker in itertools.cycle(stage.workers):
            if time.monotonic() > until and len(restarts) > 1:
                break
            restarts.append(time.time())
            unclean += worker.terminate(30) != 0
            worker.container.start()
            worker.ready()
    stage.wait_for_the_end()

    record = stage.record()
    hit = [(execution_id, at) for at in restarts for execution_id in record.under_way(at)]
    problems = []
    if record.interrupted:
        problems.append(f"{record.interrupted} nodes were interrupted")
    if unclean:
        problems.append(f"{unclean} workers ended with an error")
    return Findings(
        record,
        frozenset(load.started),
        len(restarts),
        record.delays_of(hit),
        problems,
        [f"{record.interrupted} nodes interrupted"],
    )
