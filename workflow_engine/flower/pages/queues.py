"""The queues and limits: which workers consume a queue, what waits in it, and who waits for a slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import tornado.web

from workflow_engine.broker.dispatcher import Backlog
from workflow_engine.control.explain import Overview
from workflow_engine.errors import BrokerUnavailable
from workflow_engine.flower.desk import Answers
from workflow_engine.flower.page import Page
from workflow_engine.postgres.limits import LimitUse

MOST_LIMITS = 50
"""Keys of limits that are listed."""

EXAMINED = 500
"""Executions that are explained for one page."""


@dataclass
class QueueLine:
    """A queue in the table."""

    name: str
    workers: list[str] = field(default_factory=list)
    executions: int = 0
    """Those whose next node belongs into it."""
    oldest: datetime | None = None
    """When the one that has waited longest moved last."""
    next_message: datetime | None = None
    """The time of the commit behind the message that is next in line."""

    @property
    def lacks_worker(self) -> bool:
        return not self.workers


@dataclass(frozen=True)
class QueueReport:
    """All queues; `problem` says why the workers could not be asked."""

    queues: list[QueueLine]
    workers: int
    engine_workers: int
    """Those that can run nodes."""
    problem: str
    overview: Overview
    """Executions that have not ended, by why they do not move."""
    limits: Sequence[LimitUse] = ()
    """Those with the longest lines."""


class QueuesPage(Page):
    """The table of queues."""

    active_tab = "queues"

    @tornado.web.authenticated
    async def get(self) -> None:
        report = await self.ask(_report)
        groups = [(group.code, group.count) for group in report.overview.groups]
        state = [(each.name, each.workers, each.executions, each.oldest) for each in report.queues]
        if self.is_unchanged(state, groups, report.problem, report.limits):
            return
        self.show("engine_queues.html", report=report)


def _report(answers: Answers) -> QueueReport:
    lines = {
        due.queue: QueueLine(due.queue, executions=due.executions, oldest=due.oldest)
        for due in answers.statistics.due_by_queue()
    }
    problem, workers, able = "", 0, 0
    try:
        for report in answers.reports():
            workers += 1
            if report.facts is None:
                continue
            able += 1
            for queue in report.queues:
                lines.setdefault(queue, QueueLine(queue)).workers.append(report.name)
    except BrokerUnavailable as error:
        problem = str(error)
    priority = answers.engine.settings.node_priority
    for line in lines.values():
        try:
            found = answers.engine.dispatcher.oldest(line.name, priority)
        except BrokerUnavailable:
            continue
        line.next_message = None if isinstance(found, Backlog) else found
    overview = answers.client.explain_all(EXAMINED)
    ordered = sorted(lines.values(), key=lambda line: (not line.lacks_worker, line.name))
    limits = answers.client.control.limits.list(limit=MOST_LIMITS)
    return QueueReport(ordered, workers, able, problem, overview, limits)
