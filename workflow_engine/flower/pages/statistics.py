"""How nodes fare: attempts, failures and durations by workflow and node."""

from __future__ import annotations

import tornado.web

from workflow_engine.flower.page import Page
from workflow_engine.postgres.lookups.statistics import NodeStatistics

PERIODS = {"1h": ("hour", 1), "24h": ("day", 24), "7d": ("week", 168)}


class StatisticsPage(Page):
    """The table of nodes."""

    active_tab = "statistics"

    @tornado.web.authenticated
    async def get(self) -> None:
        period = self.text("period") if self.text("period") in PERIODS else "24h"
        workflow = self.text("workflow") or None
        figures, workflows = await self.ask(
            lambda answers: (
                answers.figures(PERIODS[period][1], workflow),
                [each.id for each in answers.engine.deployments.workflows()],
            )
        )
        self.show(
            "engine_statistics.html",
            figures=figures,
            by_workflow=_by_workflow(figures),
            period=period,
            periods=PERIODS,
            workflow=workflow,
            workflows=workflows,
        )


def _by_workflow(figures: NodeStatistics) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for node in figures.nodes:
        found.setdefault(node.workflow_id, []).append(node)
    return found
