"""The list of executions with its filters, and the list of the children of one execution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import tornado.web

from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.flower.desk import Answers
from workflow_engine.flower.page import Page
from workflow_engine.postgres.executions.queries import Execution
from workflow_engine.postgres.lookups.statistics import counted

PAGE_SIZE = 50

PERIODS = {"": "any time", "1h": "last hour", "24h": "last day", "7d": "last week", "30d": "last 30 days"}
"""What the list may be narrowed to, by the start of its executions."""

KEPT = ("workflow", "text", "period", "since", "until", "tag", "children")
"""The arguments of the address, besides the statuses, that the links of the page keep."""

HOURS = {"1h": 1, "24h": 24, "7d": 7 * 24, "30d": 30 * 24}


class ExecutionsPage(Page):
    """A page of the list; everything that it shows is in its address."""

    @tornado.web.authenticated
    async def get(self) -> None:
        chosen = self._statuses()
        since, until = self._period()
        workflow, text = self.text("workflow") or None, self.text("text").strip() or None
        before, tags = self.text("before") or None, [each for each in self.get_query_arguments("tag") if each]

        found: Sequence[Execution] = await self.ask(
            lambda answers: answers.client.list(
                workflow,
                chosen,
                since=since,
                until=until,
                text=text,
                tags=tags,
                children=bool(self.text("children")),
                limit=PAGE_SIZE + 1,
                before=before,
            )
        )
        if self.is_unchanged([(each.id, each.status, each.seq) for each in found]):
            return

        def counts_and_workflows(answers: Answers) -> tuple[dict[ExecutionStatus, int], list[str]]:
            names = [each.id for each in answers.engine.deployments.workflows()]
            return answers.statistics.executions(workflow), names

        counts, workflows = await self.ask(counts_and_workflows)
        kept = {name: self.text(name) for name in KEPT}
        self.show(
            "engine_executions.html",
            executions=found[:PAGE_SIZE],
            has_more=len(found) > PAGE_SIZE,
            before=before,
            statuses=list(ExecutionStatus),
            chosen=chosen,
            counts={status: counted(counts.get(status, 0)) for status in ExecutionStatus},
            kept=kept,
            periods=PERIODS,
            workflows=workflows,
            is_filtered=bool(chosen or any(kept.values())),
        )

    def _statuses(self) -> list[ExecutionStatus]:
        with suppress(ValueError):
            return [ExecutionStatus(name) for name in self.get_query_arguments("status") if name]
        raise tornado.web.HTTPError(404, "No such status")

    def _period(self) -> tuple[datetime | None, datetime | None]:
        since, until = _moment(self.text("since")), _moment(self.text("until"))
        if since is None and (hours := HOURS.get(self.text("period"))):
            since = datetime.now(UTC) - timedelta(hours=hours)
        return since, until


class ChildrenPage(Page):
    """The children of an execution, in the order of their starts."""

    @tornado.web.authenticated
    async def get(self, execution_id: str) -> None:
        after, node = self.text("after") or None, self.text("node") or None
        chosen = [status for status in ExecutionStatus if status in self.get_query_arguments("status")]

        def children(answers: Answers) -> tuple[Any, ...]:
            found = answers.client.children(execution_id, node, chosen, limit=PAGE_SIZE + 1, after=after)
            counts = Counter(
                chain.from_iterable(
                    Counter(each).elements()
                    for each in answers.engine.queries.child_counts(execution_id).values()
                )
            )
            return answers.engine.queries.get(execution_id), found, counts

        parent, found, counts = await self.ask(children)
        if self.is_unchanged([(each.id, each.status, each.seq) for each in found], counts):
            return
        self.show(
            "engine_children.html",
            parent=parent,
            executions=found[:PAGE_SIZE],
            has_more=len(found) > PAGE_SIZE,
            node=node,
            chosen=chosen,
            counts={status: f"{counts[status]:,}" for status in ExecutionStatus if counts[status]},
        )


def _moment(text: str) -> datetime | None:
    """Return the time of a field of the form, which is in UTC; None if it holds none."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
