"""Reports of workers, and what the doctor concludes from them."""

from __future__ import annotations

import dataclasses
from typing import Any

from workflow_engine import Settings
from workflow_engine.broker.inspection import WorkerFacts, WorkerReport
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.health.doctor import Finding, Severity
from workflow_engine.health.doctor.postgres import CodeInUse
from workflow_engine.health.doctor.workers import judge_workers
from workflow_engine.nodes.loading import BUILT_IN

SAFE = {
    "broker_url": "redis://localhost//",
    "broker_transport_options": {"ack_emulation": False},
    "worker_prefetch_multiplier": 1,
    "broker_channel_error_retry": True,
    "accept_content": ["json"],
    "task_serializer": "json",
}
"""Celery settings under which nothing is lost."""
TASK = {"acks_late": "True", "reject_on_worker_lost": "False"}
"""The engine's task as a worker reports it."""


def worker(
    name: str = "celery@one", queues: tuple[str, ...] = ("workflow",), **settings: Any
) -> WorkerReport:
    """Return a worker that runs the engine's task and reports nothing else."""
    return WorkerReport(name, frozenset(queues), {TASK_NAME: TASK}, {**SAFE, **settings})


FACTS = WorkerFacts(
    release="0.1.0",
    format=1,
    node_types=frozenset(node_type.kind for node_type in BUILT_IN),
    functions=frozenset(),
    pool="prefork",
    concurrency=2,
    time_limit=None,
    soft_time_limit=None,
    settings={"database_schema": "public", "key_prefix": ""},
    clock=0.0,
)


def reporting(name: str = "celery@one", **facts: Any) -> WorkerReport:
    """Return a worker in which the engine reports these facts."""
    return dataclasses.replace(worker(name), facts=dataclasses.replace(FACTS, **facts))


def of_the_team(report: WorkerReport) -> WorkerReport:
    """Return this worker with tasks of the team's own in addition to the engine's."""
    return dataclasses.replace(report, tasks={**report.tasks, "celery.ping": {}, "shop.mail": {}})


def worker_that_knows(
    name: str, *code: str, queues: tuple[str, ...] = ("workflow",), release: str = "1"
) -> WorkerReport:
    """Return a worker that has this code and no other."""
    known = frozenset(code)
    facts = dataclasses.replace(FACTS, release=release, node_types=known, functions=known)
    return dataclasses.replace(worker(name, queues), facts=facts)


def judged_workers(
    *reports: WorkerReport, code: tuple[CodeInUse, ...] = (), database_ahead: float | None = None
) -> list[Finding]:
    """Return what the doctor finds in these reports, with this deployed code."""
    return list(judge_workers(reports, Settings(), code, database_ahead))


def advice(findings: list[Finding], severity: Severity) -> list[str]:
    """Return the answers and the advice of this severity."""
    return [f"{found.answer} → {found.advice}" for found in findings if found.severity is severity]


def not_ok(findings: list[Finding]) -> list[tuple[str, Severity]]:
    """Return the question and the severity of each finding that asks for action."""
    return [
        (finding.question, finding.severity) for finding in findings if finding.severity is not Severity.OK
    ]
