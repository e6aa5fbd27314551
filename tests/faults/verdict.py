"""The verdict on a fault: the promises that hold for all, and the evidence for any breach."""

from __future__ import annotations

import dataclasses
import statistics
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import click

from faults.fault import Fault, Findings, Scale
from faults.servers import Servers
from faults.stage import Stage

STORIES = 5
"""Executions that are reported in full."""


@dataclass(frozen=True)
class Verdict:
    """A fault and the fate of its executions. `problems` is empty if every promise was kept."""

    fault: Fault
    problems: Sequence[str]
    took: float
    findings: Findings | None = None
    """None if the fault could not be caused at all."""
    lost: int = 0
    committed_twice: int = 0
    effects_repeated: int = 0

    @property
    def median(self) -> float | None:
        return statistics.median(self.findings.delays) if self.findings and self.findings.delays else None

    @property
    def worst(self) -> float | None:
        return max(self.findings.delays) if self.findings and self.findings.delays else None


def judge(fault: Fault, scale: Scale, servers: Servers) -> Verdict:
    """Cause a fault on a stage of its own and judge the findings; an error becomes part of the verdict."""
    began = time.monotonic()
    try:
        scale = dataclasses.replace(scale, settings={**scale.settings, **fault.settings})
        with Stage.opened(scale, servers) as stage:
            try:
                findings = fault.run(stage)
                return _judged(fault, stage, findings, began)
            except Exception:  # noqa: BLE001 - the other faults go on
                problems = [traceback.format_exc(), *_log_ends(stage)]
    except Exception:  # noqa: BLE001
        problems = [traceback.format_exc()]
    return Verdict(fault, problems, time.monotonic() - began)


def _judged(fault: Fault, stage: Stage, findings: Findings, began: float) -> Verdict:
    record = findings.record
    lost, wrong, twice = record.not_completed(findings.started), record.wrong_results, record.committed_twice
    problems, also = list(findings.problems), list(findings.also)
    if stage.ended_by_themselves:
        also.append(f"{stage.ended_by_themselves} workers exited by themselves and were restarted")
    if not record.executions or not findings.times:
        problems.append(f"{len(record.executions)} executions and {findings.times} faults prove nothing")
    problems += [f"{len(lost)} executions are lost"] * bool(lost)
    problems += [f"{len(wrong)} executions do not have the result of an undisturbed run"] * bool(wrong)
    problems += [f"{len(twice)} nodes were committed twice"] * bool(twice)
    deadlocks = stage.deadlocks()
    problems += [f"Postgres has broken {deadlocks} deadlocks"] * bool(deadlocks)
    culprits = dict.fromkeys([*lost, *wrong, *(row.execution_id for row in twice)])
    problems += [stage.story_of(record, execution_id) for execution_id in list(culprits)[:STORIES]]
    return Verdict(
        fault,
        problems,
        time.monotonic() - began,
        dataclasses.replace(findings, also=also),
        len(lost),
        len(twice),
        record.repeated_effects,
    )


def _log_ends(stage: Stage) -> list[str]:
    return [f"last log lines of {worker.name()}:\n{worker.logs()[-2000:]}" for worker in stage.workers]


def print_step(line: str) -> None:
    """Print the current step to stderr; it is no part of the result."""
    click.echo(f"  {time.strftime('%H:%M:%S')} {line}", err=True)
