"""Are there workers for the engine's nodes, and do their Celery settings keep its promises?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from workflow_engine.dispatch import TASK_NAME, WorkerReport
from workflow_engine.doctor.finding import Finding, Severity, ok, problem
from workflow_engine.doctor.postgres import CodeInUse
from workflow_engine.settings import Settings

REACHABLE = "Can the broker be reached?"
ALIVE = "Is there a worker?"


def unreachable(error: Exception) -> Finding:
    """The only finding where the broker cannot be asked."""
    return problem(
        REACHABLE,
        f"no: {error}",
        "start it, or correct WORKFLOW_ENGINE_BROKER_URL (WORKFLOW_ENGINE_REDIS_URL if that is not set)",
    )


def judge_workers(
    reports: Sequence[WorkerReport], settings: Settings, code: Sequence[CodeInUse] | None
) -> Iterator[Finding]:
    """What the reports of all workers mean; `code` is what deployed workflows use, None if unknown."""
    yield ok(REACHABLE, "yes")
    if not reports:
        yield problem(
            ALIVE,
            "none has answered",
            "start one: `celery -A workers worker`; one of the pool `solo` answers only between nodes, and "
            "another WORKFLOW_ENGINE_KEY_PREFIX hides it",
        )
        return
    yield ok(ALIVE, _names(reports))
    able = [report for report in reports if TASK_NAME in report.tasks]
    yield _task(reports, able)
    if not able:
        return
    for queue in dict.fromkeys([settings.queue, *(each.queue for each in code or () if each.queue)]):
        yield _queue(queue, able, code or ())
    for setting in SETTINGS:
        yield setting.judge(able)


def _task(reports: Sequence[WorkerReport], able: Sequence[WorkerReport]) -> Finding:
    question = "Does it know the engine's task?"
    if not able:
        return problem(
            question, "no", "add workers.tasks to `include` of your Celery app, and restart its workers"
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
        f"no; nodes of {', '.join(users)} would wait for ever" if users else "no; nodes would wait for ever"
    )
    return problem(question, waiting, f"start a worker with `-Q {queue}`, or add the queue to one of them")


class Setting:
    """One thing that the Celery settings of a worker have to say."""

    def __init__(
        self,
        question: str,
        is_safe: Callable[[WorkerReport], bool],
        otherwise: Severity,
        unsafe: str,
        advice: str,
    ) -> None:
        self._question = question
        self._is_safe = is_safe
        self._otherwise = otherwise
        self._unsafe = unsafe
        self._advice = advice

    def judge(self, reports: Sequence[WorkerReport]) -> Finding:
        """One finding about all the workers; one that gave no settings counts as safe."""
        offenders = [report for report in reports if report.settings and not self._is_safe(report)]
        if not offenders:
            return ok(self._question, "yes")
        who = "" if len(offenders) == len(reports) else f" (on {_names(offenders)})"
        return Finding(self._question, self._otherwise, f"no, {self._unsafe}{who}", self._advice)


def _takes_one_message(report: WorkerReport) -> bool:
    settings = report.settings
    return settings.get("worker_prefetch_multiplier") == 1 or bool(settings.get("worker_disable_prefetch"))


def _has_no_ack_emulation(report: WorkerReport) -> bool:
    if not str(report.settings.get("broker_url", "redis")).startswith(("redis", "sentinel")):
        return True
    options: Mapping[str, Any] = report.settings.get("broker_transport_options") or {}
    return options.get("ack_emulation") is False


def _task_says(report: WorkerReport, attribute: str) -> bool:
    # The task itself declares both, so that the app's settings do not matter unless annotations override it.
    return report.tasks[TASK_NAME].get(attribute) == "True"


SETTINGS = (
    Setting(
        "Does a worker that stops give its node back?",
        lambda report: _task_says(report, "acks_late"),
        Severity.PROBLEM,
        "acks_late of the engine's task is off",
        "take it out of task_annotations",
    ),
    Setting(
        "Is a lost process left to the engine?",
        lambda report: not _task_says(report, "reject_on_worker_lost"),
        Severity.PROBLEM,
        "reject_on_worker_lost of its task is on: a node that kills its process would do so for ever",
        "take it out of task_annotations; the engine itself brings such nodes back, and counts them",
    ),
    Setting(
        "Does the broker deliver a message only once?",
        _has_no_ack_emulation,
        Severity.PROBLEM,
        "ack_emulation is on: nodes longer than the visibility timeout are delivered again and again",
        "set broker_transport_options = {'ack_emulation': False, …} in the app of the workers",
    ),
    Setting(
        "Does a worker take one message at a time?",
        _takes_one_message,
        Severity.WARNING,
        "messages wait behind a long node while other workers are idle",
        "set worker_prefetch_multiplier = 1",
    ),
    Setting(
        "Does a worker outlive a broker that is full or read-only?",
        lambda report: bool(report.settings.get("broker_channel_error_retry")),
        Severity.WARNING,
        "it ends with an error when the broker refuses a command",
        "set broker_channel_error_retry = True, or have a supervisor start it anew",
    ),
    Setting(
        "Does a worker read JSON messages?",
        lambda report: bool({"json", "application/json"} & set(report.settings.get("accept_content") or ())),
        Severity.PROBLEM,
        "accept_content lacks json: it would refuse the engine's messages",
        "add 'json' to accept_content",
    ),
    Setting(
        "Does a worker write JSON messages?",
        lambda report: report.settings.get("task_serializer") in ("json", "application/json"),
        Severity.WARNING,
        "task_serializer is another, which does not concern the engine's messages but may run what it reads",
        "set task_serializer = 'json' unless your own tasks need the other",
    ),
)


def _names(reports: Sequence[WorkerReport], most: int = 3) -> str:
    names = [report.name for report in reports]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
