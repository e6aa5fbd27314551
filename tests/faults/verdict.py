"""The verdict on a fault: the promises that hold for all, and what is needed to look into a breach."""

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
"""Executions that are told of in full."""


@dataclass(frozen=True)
class Verdict:
    """A fault and what became of its executions. `problems` is empty if every promise was kept."""

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
    """Cause a fault on a stage of its own and judge what came of it; any error is in the verdict, too."""
    began = time.monotonic()
    try:
        with Stage(scale, servers) as stage:
            try:
                findings = fault.run(stage)
                return _judged(fault, stage, findings, began)
            except Exception:  # noqa: BLE001 - the other faults go on
                problems = [traceback.format_exc(), *_last_words(stage)]
    except Exception:  # noqa: BLE001
        problems = [traceback.format_exc()]
    return Verdict(fault, problems, time.monotonic() - began)


def _judged(fault: Fault, stage: Stage, findings: Findings, began: float) -> Verdict:
    record = findings.record
    lost, wrong, twice = record.not_completed(findings.started), record.wrong_results, record.committed_twice
    problems, also = list(findings.problems), list(findings.also)
    if stage.ended_by_themselves:
        also.append(f"{stage.ended_by_themselves} workers ended by themselves and were started again")
    if not record.executions or not findings.times:
        problems.append(f"{len(record.executions)} executions and {findings.times} faults show nothing")
    problems += [f"{len(lost)} executions are lost"] * bool(lost)
    problems += [f"{len(wrong)} executions have not the result of an undisturbed run"] * bool(wrong)
    problems += [f"{len(twice)} nodes were committed twice"] * bool(twice)
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


def _last_words(stage: Stage) -> list[str]:
    return [f"the log of {worker.name()} ends:\n{worker.logs()[-2000:]}" for worker in stage.workers]


def tell(line: str) -> None:
    """Say what is being done, to whoever waits for it; it is no part of the result."""
    click.echo(f"  {time.strftime('%H:%M:%S')} {line}", err=True)
