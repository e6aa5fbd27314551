"""The state of the installation in the form that Prometheus reads, behind Flower's sign-on as every page."""

from __future__ import annotations

import tornado.web

from workflow_engine.flower.page import Page


class MetricsPage(Page):
    """What `workflow-engine metrics` prints."""

    @tornado.web.authenticated
    async def get(self) -> None:
        text = await self.ask(lambda answers: answers.client.state_metrics.exposition())
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.write(text)
