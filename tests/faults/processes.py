"""Pool processes that die: killed from outside, or by the very node that they run."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from faults.effects import Effect, running_in
from faults.fault import Findings
from faults.stage import Load, Stage, pool_processes
from faults.workload import POISONED

KILL_EVERY = 1.0
GOES_ON_WITHIN = 2.0
"""Seconds until an execution whose process was killed moves again."""

POISON = 5
"""Poisoned executions, among as many ordinary ones as come in meanwhile."""
HELD_UP = 10.0
"""Seconds that no ordinary execution may stand still because of the poisoned ones."""


def kill_processes(stage: Stage) -> Findings:
    """SIGKILL for a random pool process, again and again, under executions that came in at once."""
    scale = stage.scale
    stage.add_workers(scale.workers)
    kills: list[tuple[int, float]] = []
    with Load(stage, scale.executions) as load:
        until = time.monotonic() + scale.trouble
        while time.monotonic() < until:
            time.sleep(min(KILL_EVERY, scale.trouble / 10))
            victim = random.choice(pool_processes(stage.workers))
            kills.append((victim, time.time()))
            with suppress(ProcessLookupError):  # it has just been replaced
                os.kill(victim, signal.SIGKILL)
    stage.wait_for_the_end()

    record = stage.record()
    hit = [(run.execution_id, at) for pid, at in kills for run in running_in(record.effects, {pid}, at)]
    delays = record.delays_of(hit)
    late = [delay for delay in delays if delay > GOES_ON_WITHIN]
    problems = []
    if not hit:
        problems.append("no process was killed while it ran a node")
    if late and scale.judges_times:
        slow = ", ".join(f"{delay:.1f}" for delay in late)
        problems.append(f"{len(late)} executions took longer than {GOES_ON_WITHIN:g} s to go on: {slow} s")
    return Findings(
        record,
        frozenset(load.started),
        len(kills),
        delays,
        problems,
        [f"{len(hit)} of them while a node ran"],
    )


def poison(stage: Stage) -> Findings:
    """Nodes that kill their process each time, among ordinary executions."""
    scale = stage.scale
    stage.add_workers(scale.workers)
    with Load(stage, max(10, scale.load // 2), scale.trouble / 2) as load:
        poisoned = [
            stage.client.start(POISONED, {"number": number}, idempotency_key=f"poisoned-{number}").id
            for number in range(POISON)
        ]
    stage.wait_for_the_end()

    record = stage.record()
    entered = Counter(run.execution_id for run in record.entered if run.node_id == "poison")
    wanted = stage.settings.max_recoveries + 1
    problems = []
    for execution_id in poisoned:
        row = record.executions[execution_id]
        if (row.status, row.error_type) != ("FAILED", "WORKER_LOST") or entered[execution_id] != wanted:
            problems.append(
                f"the poisoned node ran {entered[execution_id]} times, not {wanted}, and came to "
                f"{row.status} {row.error_type}: {stage.story_of(record, execution_id)}"
            )
    last = max((run.at for run in record.entered if run.node_id == "poison"), default=0.0)
    delays = _standstills(record.entered, load.started, last)
    if scale.judges_times and max(delays, default=0.0) > HELD_UP:
        problems.append(f"an ordinary execution stood still for {max(delays):.1f} s")
    if stage.ended_by_themselves:
        problems.append("a whole worker was taken down")
    deaths = sum(entered.values())
    return Findings(record, frozenset(load.started), deaths, delays, problems, [f"{POISON} poisoned nodes"])


def _standstills(entered: Sequence[Effect], started: set[str], until: float) -> list[float]:
    """How long each ordinary execution stood still at most between two nodes while there was poison."""
    times: dict[str, list[float]] = {}
    for run in entered:
        if run.execution_id in started and run.at <= until:
            times.setdefault(run.execution_id, []).append(run.at)
    return sorted(
        max(later - earlier for earlier, later in itertools.pairwise(each))
        for each in times.values()
        if len(each) > 1
    )
