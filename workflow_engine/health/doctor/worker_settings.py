"""Do the Celery settings of the workers keep the engine's promises, and those of a team's own tasks?

A worker that runs a team's own tasks uses the team's app. The advice for such a worker never takes from those
tasks what they rely on.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_engine.broker.inspection import WorkerReport
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.health.doctor.finding import Finding, Severity, first_few, ok

DEFAULT_VISIBILITY_TIMEOUT = 3600


@dataclass(frozen=True)
class Setting:
    """One requirement on the Celery settings of a worker."""

    question: str
    is_safe: Callable[[WorkerReport], bool]
    otherwise: Severity
    unsafe: Callable[[Sequence[WorkerReport]], str]
    """What is wrong with the workers that do not meet it."""
    advice: str
    beside_others: tuple[Severity, str] | None = None
    """Severity and advice if one of these workers also runs the team's own tasks; None: the same."""

    def judge(self, reports: Sequence[WorkerReport]) -> Finding:
        """Return one finding about all workers; a worker that reported no settings counts as safe."""
        offenders = [report for report in reports if report.settings and not self.is_safe(report)]
        if not offenders:
            return ok(self.question, "yes")
        names = [report.name for report in offenders]
        who = "" if len(offenders) == len(reports) else f" (on {first_few(names)})"
        severity, advice = self.otherwise, self.advice
        if self.beside_others and any(map(_has_others, offenders)):
            severity, advice = self.beside_others
        return Finding(self.question, severity, f"no, {self.unsafe(offenders)}{who}", advice)


def _has_others(report: WorkerReport) -> bool:
    """Return whether a worker runs tasks that are neither the engine's nor Celery's."""
    return any(not name.startswith(("celery.", "workflow_engine.")) for name in report.tasks)


def _says(text: str) -> Callable[[Sequence[WorkerReport]], str]:
    return lambda _: text


def _takes_one_message(report: WorkerReport) -> bool:
    settings = report.settings
    return settings.get("worker_prefetch_multiplier") == 1 or bool(settings.get("worker_disable_prefetch"))


def _transport_options(report: WorkerReport) -> Mapping[str, Any]:
    return report.settings.get("broker_transport_options") or {}


def _has_no_ack_emulation(report: WorkerReport) -> bool:
    if not str(report.settings.get("broker_url", "redis")).startswith(("redis", "sentinel")):
        return True
    return _transport_options(report).get("ack_emulation") is False


def _ack_emulation(reports: Sequence[WorkerReport]) -> str:
    timeouts = (_transport_options(report).get("visibility_timeout") for report in reports)
    least = min(float(timeout or DEFAULT_VISIBILITY_TIMEOUT) for timeout in timeouts)
    return (
        f"ack_emulation is on: a node longer than the visibility timeout, {least:,g} s, is delivered again "
        "and again"
    )


def _verifies_the_broker(report: WorkerReport) -> bool:
    if not str(report.settings.get("broker_url")).startswith("rediss"):
        return True
    use_ssl = report.settings.get("broker_use_ssl")
    return isinstance(use_ssl, Mapping) and use_ssl.get("ssl_cert_reqs") in ("required", ssl.CERT_REQUIRED)


def _task_says(report: WorkerReport, attribute: str) -> bool:
    # The task itself declares both, so that the app's settings do not matter unless annotations override it.
    return report.tasks[TASK_NAME].get(attribute) == "True"


SPARE_THE_TASK = "name your own tasks in the task_annotations that set it; '*' includes the engine's task"

SETTINGS = (
    Setting(
        "Does a worker that stops requeue its node?",
        lambda report: _task_says(report, "acks_late"),
        Severity.PROBLEM,
        _says("acks_late of the engine's task is off"),
        SPARE_THE_TASK,
    ),
    Setting(
        "Is a lost process left to the engine?",
        lambda report: not _task_says(report, "reject_on_worker_lost"),
        Severity.PROBLEM,
        _says("reject_on_worker_lost of its task is on: a node that crashes its process would do so forever"),
        f"{SPARE_THE_TASK}. The engine itself rescues such nodes, and limits how often",
    ),
    Setting(
        "Does the broker deliver a message only once?",
        _has_no_ack_emulation,
        Severity.PROBLEM,
        _ack_emulation,
        "set broker_transport_options = {'ack_emulation': False, …} in the app of these workers, if it has "
        "no tasks of your own, which a killed worker would lose",
        beside_others=(
            Severity.WARNING,
            "leave it on, or a killed worker loses your own tasks. Run longer nodes on workers of another "
            "app, `celery -A workflow_engine.worker worker`, with a queue of their own",
        ),
    ),
    Setting(
        "Does a worker take one message at a time?",
        _takes_one_message,
        Severity.WARNING,
        _says("messages wait behind a long node while other workers are idle"),
        "set worker_prefetch_multiplier = 1",
        beside_others=(
            Severity.WARNING,
            "start the workers that run nodes with `--prefetch-multiplier 1`. They then fetch your own short "
            "tasks one by one too, which is slower",
        ),
    ),
    Setting(
        "Does a worker survive a broker that is full or read-only?",
        lambda report: bool(report.settings.get("broker_channel_error_retry")),
        Severity.WARNING,
        _says("it exits with an error when the broker refuses a command"),
        "set broker_channel_error_retry = True, or have a supervisor restart it",
    ),
    Setting(
        "Does a worker verify an encrypted broker?",
        _verifies_the_broker,
        Severity.WARNING,
        _says("it accepts any server, unless options in its URL, which are hidden from here, say otherwise"),
        "set broker_use_ssl = {'ssl_cert_reqs': 'required', 'ssl_ca_certs': FILE}",
    ),
    Setting(
        "Does a worker read JSON messages?",
        lambda report: bool({"json", "application/json"} & set(report.settings.get("accept_content") or ())),
        Severity.PROBLEM,
        _says("accept_content lacks json: it would refuse the engine's messages"),
        "add 'json' to accept_content",
    ),
    Setting(
        "Does a worker write JSON messages?",
        lambda report: report.settings.get("task_serializer") in ("json", "application/json"),
        Severity.WARNING,
        _says(
            "task_serializer is another: harmless to the engine's messages, but reading others may run code"
        ),
        "set task_serializer = 'json' unless your own tasks need the other",
    ),
)
