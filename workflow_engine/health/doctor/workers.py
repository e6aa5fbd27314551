"""Are there workers for the engine's nodes, and for every queue that nodes name?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workflow_engine.broker.inspection import WorkerReport
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.health.doctor.finding import Finding, first_few, ok, problem
from workflow_engine.health.doctor.postgres import CodeInUse
from workflow_engine.health.doctor.worker_code import judge_worker_code
from workflow_engine.health.doctor.worker_processes import judge_worker_processes
from workflow_engine.health.doctor.worker_settings import SETTINGS
from workflow_engine.settings import Settings

REACHABLE = "Can the broker be reached?"
ALIVE = "Is there a worker?"


def unreachable(error: Exception, variable: str) -> Finding:
    """Return the only finding about a broker that cannot be asked; `variable` is its setting."""
    return problem(REACHABLE, f"no: {error}", f"start it, or correct {variable}")


def judge_workers(
    reports: Sequence[WorkerReport],
    settings: Settings,
    code: Sequence[CodeInUse] | None,
    database_ahead: float | None = None,
) -> Iterator[Finding]:
    """Yield a finding for each question about the reports of all workers.

    `code` is the code of deployed workflows. `database_ahead` is the number of seconds by which the clock of
    the database is ahead of ours. Either is None if unknown.
    """
    yield ok(REACHABLE, "yes")
    if not reports:
        yield problem(
            ALIVE,
            "none has replied",
            "start one: `celery -A workflow_engine.worker worker`. If its app has a broker, key prefix or "
            "priorities of its own, use -A APP; a worker with the pool `solo` replies only between nodes",
        )
        return
    yield ok(ALIVE, _names(reports))
    able = [report for report in reports if TASK_NAME in report.tasks]
    yield _task(reports, able)
    if not able:
        return
    for queue in dict.fromkeys([settings.queue, *(each.queue for each in code or () if each.queue)]):
        yield _queue(queue, able, code or ())
    yield from judge_worker_code(able, code or (), settings.queue)
    yield from judge_worker_processes(able, settings, code or (), database_ahead)
    for setting in SETTINGS:
        yield setting.judge(able)


def _task(reports: Sequence[WorkerReport], able: Sequence[WorkerReport]) -> Finding:
    question = "Does it have the engine's task?"
    if not able:
        return problem(
            question,
            "no",
            "add workflow_engine.worker.tasks to `include` of your Celery app, and restart its workers",
        )
    others = [report for report in reports if report not in able]
    also = f"; not {_names(others)}, which must not consume the engine's queues" if others else ""
    return ok(question, f"yes, {_names(able)}{also}")


def _queue(queue: str, able: Sequence[WorkerReport], code: Sequence[CodeInUse]) -> Finding:
    question = f"Is the queue {queue!r} consumed?"
    consumers = [report for report in able if queue in report.queues]
    if consumers:
        return ok(question, f"yes, by {_names(consumers)}")
    users = sorted({each.workflow_id for each in code if each.queue == queue})
    waiting = (
        f"no; nodes of {', '.join(users)} would wait forever" if users else "no; nodes would wait forever"
    )
    return problem(
        question,
        waiting,
        f"start another worker with `-Q {queue}`, or add it to the queues that a worker has",
    )


def _names(reports: Sequence[WorkerReport]) -> str:
    return first_few([report.name for report in reports])
