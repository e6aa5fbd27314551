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
from faults.endings import ENDINGS, ENDLESS
from faults.fault import SLOW, Findings
from faults.record import Record
from faults.stage import Load, Stage, pool_processes
from faults.workload import ENDING, ENDLESSLY, ONCE, POISONED

KILL_EVERY = 1.0
GOES_ON_WITHIN = 2.0
"""Seconds until an execution whose process was killed moves again."""

POISON = 5
"""Poisoned executions, among the ordinary ones that come in at the same time."""
AT_LEAST = 90.0
"""Seconds to wait for nodes that end badly: some hold their process for seven of them."""
HELD_UP = 10.0
"""The longest that an ordinary execution may stall because of the poisoned ones, in seconds."""


def kill_processes(stage: Stage) -> Findings:
    """Send SIGKILL to one pool process after another, under executions that came in at once."""
    scale = stage.scale
    stage.add_workers(scale.workers)
    with Load(stage, scale.executions) as load:
        kills = _kill_for(scale.trouble, stage)
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
        problems.append(f"{len(late)} executions took longer than {GOES_ON_WITHIN:g} s to continue: {slow} s")
    return Findings(
        record,
        frozenset(load.started),
        len(kills),
        delays,
        problems,
        [f"{len(hit)} of them while a node ran"],
    )


def poison(stage: Stage) -> Findings:
    """Run nodes that kill their process each time, among ordinary executions."""
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
                f"the poisoned node ran {entered[execution_id]} times, not {wanted}, and ended "
                f"{row.status} {row.error_type}: {stage.story_of(record, execution_id)}"
            )
    delays, held_up = _held_up(stage, record, load.started, "poison")
    deaths = sum(entered.values())
    return Findings(
        record, frozenset(load.started), deaths, delays, [*problems, *held_up], [f"{POISON} poisoned nodes"]
    )


def kill_where_nothing_may_be_repeated(stage: Stage) -> Findings:
    """Send SIGKILL to pool processes while they run nodes with `onCrash: fail`."""
    scale = stage.scale
    stage.add_workers(scale.workers, pace=SLOW)
    with Load(stage, scale.executions, workflow_id=ONCE):
        kills = len(_kill_for(scale.trouble / 2, stage))
    stage.wait_for_the_end()

    record = stage.record()
    repeated = [key for key, times in Counter(run.key for run in record.entered).items() if times > 1]
    problems = [f"{len(repeated)} nodes began twice, the first: {repeated[0]}"] if repeated else []
    failed = [row for row in record.executions.values() if row.status != "COMPLETED"]
    if not failed:
        problems.append("no process was killed while it ran a node")
    if len(failed) > kills:
        problems.append(f"{len(failed)} executions did not complete, more than the {kills} kills")
    problems += [stage.story_of(record, row.id) for row in failed if row.error_type != "CRASHED"]
    return Findings(
        record,
        frozenset(),  # those that failed are not lost
        kills,
        (),
        problems,
        [f"{len(failed)} executions failed with CRASHED"],
    )


def end_badly(stage: Stage) -> Findings:
    """Run nodes that end in every bad way, at once or after a wait, among ordinary executions."""
    scale = stage.scale
    stage.add_workers(scale.workers)
    # In the short form each of them ends in one way: at once, or after a wait.
    ways = [
        (workflow, number, how, ending, waits)
        for workflow, endings in ((ENDING, ENDINGS), (ENDLESSLY, ENDLESS))
        for number, (how, ending) in enumerate(endings.items())
        for waits in ((False, True) if scale.judges_times else (number % 2 == 1,))
    ]
    started = {}
    with Load(stage, max(10, scale.load // 2), scale.trouble / 2) as load:
        for workflow, number, how, ending, waits in ways:
            data = {"number": number, "how": how, "waits": waits}
            execution = stage.client.start(workflow, data, idempotency_key=f"{how}-{waits}")
            started[execution.id] = (how, waits, ending)
            time.sleep(scale.trouble / 2 / len(ways))  # or all processes would be in trouble at once
    stage.wait_for_the_end(max(scale.timeout, AT_LEAST))

    record = stage.record()
    entered = Counter(run.execution_id for run in record.entered if run.node_id == "end")
    problems = []
    for execution_id, (how, waits, ending) in started.items():
        row = record.executions[execution_id]
        wanted = stage.settings.max_recoveries + 1 if ending.kills else 1
        is_explained = row.error_type == ending.error_type and ending.reason in (row.error or "")
        if row.status != "FAILED" or not is_explained or entered[execution_id] != wanted:
            problems.append(
                f"a node that {how}{', woken' * waits}, ran {entered[execution_id]} times, not {wanted}: "
                f"{row.status} {row.error_type}: {row.error}\n{stage.story_of(record, execution_id)}"
            )
    delays, held_up = _held_up(stage, record, load.started, "end")
    return Findings(
        record,
        frozenset(load.started),
        sum(entered.values()),
        delays,
        [*problems, *held_up],
        [f"{len(started)} nodes that end badly"],
    )


def _kill_for(seconds: float, stage: Stage) -> list[tuple[int, float]]:
    """Send SIGKILL to one pool process after another; return each, and when.

    The short form kills too few for chance to hit a running node on a busy machine. There every other process
    is chosen among those that run one, if there are any.
    """
    kills: list[tuple[int, float]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(KILL_EVERY, stage.scale.trouble / 10))
        victims = pool_processes(stage.workers)
        if len(kills) % 2 and not stage.scale.judges_times:
            victims = [run.process for worker in stage.workers for run in stage.running_in(worker)] or victims
        victim = random.choice(victims)
        kills.append((victim, time.time()))
        with suppress(ProcessLookupError):  # it has just been replaced
            os.kill(victim, signal.SIGKILL)
    return kills


def _held_up(
    stage: Stage, record: Record, others: set[str], node_id: str
) -> tuple[Sequence[float], list[str]]:
    """Return how long other executions stalled while this node did harm, and any problem with that."""
    last = max((run.at for run in record.entered if run.node_id == node_id), default=0.0)
    delays = _standstills(record.entered, others, last)
    problems = []
    if stage.scale.judges_times and max(delays, default=0.0) > HELD_UP:
        problems.append(f"an ordinary execution stalled for {max(delays):.1f} s")
    if stage.ended_by_themselves:
        problems.append("a whole worker was taken down")
    return delays, problems


def _standstills(entered: Sequence[Effect], started: set[str], until: float) -> list[float]:
    """Return the longest stall of each ordinary execution between two nodes while there was poison."""
    times: dict[str, list[float]] = {}
    for run in entered:
        if run.execution_id in started and run.at <= until:
            times.setdefault(run.execution_id, []).append(run.at)
    return sorted(
        max(later - earlier for earlier, later in itertools.pairwise(each))
        for each in times.values()
        if len(each) > 1
    )
