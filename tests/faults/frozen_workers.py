"""Workers that are frozen while they run nodes, until others take the nodes over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faults.effects import Effect, effects_in
from faults.fault import SLOW, Findings
from faults.record import Record, query
from faults.stage import Load, Stage
from faults.workload import BRIEF
from support.worker_processes import Worker

JUST_BEGUN = 0.3
"""Seconds: a node that was frozen this soon after it began, at that pace, cannot have been committed."""
LOOKED_FOR = 20.0
"""Seconds beyond the engine's intervals until others have taken over what a frozen worker ran."""

COMMITTED = """
SELECT execution_id::text, node_id, attempt FROM node_executions
WHERE status <> 'WAITING' AND execution_id = ANY(%s::uuid[])
"""


@dataclass(frozen=True)
class Freeze:
    """The runs in which a worker was frozen, and when that was."""

    worker: Worker
    runs: Sequence[Effect]
    at: float


def freeze_workers(stage: Stage) -> Findings:
    """Freeze a worker until another has committed its nodes, or has just begun them; then thaw it."""
    stage.add_workers(2, pace=SLOW)
    first, second = stage.workers
    count = stage.scale.processes * 4
    with Load(stage, count, workflow_id=BRIEF) as load:
        after = _frozen(stage, first, lambda runs: _all_committed(stage, runs))
    with Load(stage, count, workflow_id=BRIEF, first=count) as other_load:
        before = _frozen(stage, second, lambda runs: _any_entered(stage, runs))
    stage.wait_for_the_end()

    record = stage.record()
    contested = [run for run in before.runs if len(_processes_of(record, run)) > 1]
    thawed = [run for run in contested if _committer(record, run) == run.process]
    problems = [] if after.runs and contested else ["no node ran on two workers at once"]
    problems += _believed(record, after)
    return Findings(
        record,
        frozenset(load.started | other_load.started),
        2,
        record.delays_of((run.execution_id, each.at) for each in (after, before) for run in each.runs),
        problems,
        [
            f"{len(after.runs)} nodes thawed after the other's commit",
            f"{len(contested)} before it, of which the thawed worker committed {len(thawed)}",
        ],
    )


def _believed(record: Record, freeze: Freeze) -> list[str]:
    """Return what is wrong after a thaw that came too late for the worker's results."""
    problems = []
    for run in freeze.runs:
        if _committer(record, run) == run.process:
            problems.append(f"the result of {run.key} was accepted from the worker that was frozen with it")
        refused = f"The result of node {run.node_id} of execution {run.execution_id} was refused"
        if not freeze.worker.lines(refused):
            problems.append(f"the log lacks the refusal of the frozen worker's result of {run.key}")
    return problems


def _frozen(stage: Stage, worker: Worker, until: Callable[[Sequence[Effect]], bool]) -> Freeze:
    """Freeze a worker that has just begun nodes, until another worker has taken them on."""
    deadline = time.monotonic() + stage.settings.lock_expiry + stage.settings.stall_after + LOOKED_FOR
    runs: Sequence[Effect] = ()
    try:
        while not runs and time.monotonic() < deadline:
            worker.thaw()
            stage.wait_until_busy(worker, 1)
            worker.freeze()
            at = time.time()
            runs = [run for run in stage.running_in(worker) if at - run.at < JUST_BEGUN]
        while not until(runs) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        worker.thaw()
    return Freeze(worker, runs, at)


def _all_committed(stage: Stage, runs: Sequence[Effect]) -> bool:
    rows = query(stage.settings.database_url, COMMITTED, [[run.execution_id for run in runs]])
    committed = {(row["execution_id"], row["node_id"], row["attempt"]) for row in rows}
    return all((run.execution_id, run.node_id, run.attempt) in committed for run in runs)


def _any_entered(stage: Stage, runs: Sequence[Effect]) -> bool:
    frozen = {(run.key, run.attempt): run.process for run in runs}
    return any(
        each.process != frozen.get((each.key, each.attempt), each.process)
        for each in effects_in(stage.folder)
    )


def _committer(record: Record, run: Effect) -> int | None:
    """Return the process whose commit of this attempt of a node was accepted."""
    rows = [row for row in record.journal[run.execution_id] if row.node_id == run.node_id]
    return next((row.process for row in rows if row.attempt == run.attempt and row.status != "WAITING"), None)


def _processes_of(record: Record, run: Effect) -> set[int]:
    """Return the processes that have run this attempt of a node."""
    same = (each for each in record.entered if (each.key, each.attempt) == (run.key, run.attempt))
    return {each.process for each in same}
