"""Turns workflows and single triggers off and on, with a reason."""

from __future__ import annotations

from http import HTTPStatus

import tornado.web

from workflow_engine.errors import WorkflowEngineError
from workflow_engine.flower.desk import Answers
from workflow_engine.flower.page import Page

OF_WORKFLOWS = ("activate", "deactivate", "archive")
OF_TRIGGERS = {"pause": "pause_trigger", "resume": "resume_trigger"}


class SwitchPage(Page):
    """The target of the switches on the page of a workflow."""

    active_tab = "workflows"

    @tornado.web.authenticated
    async def post(self, workflow_id: str) -> None:
        self.refuse_if_read_only()
        switch, trigger = (
            str(self.get_body_argument("switch", "")),
            str(self.get_body_argument("trigger", "")),
        )
        if switch not in (*OF_WORKFLOWS, *OF_TRIGGERS):
            raise tornado.web.HTTPError(HTTPStatus.NOT_FOUND, "No such switch")
        note = {"reason": str(self.get_body_argument("reason", "")) or None, "actor": self.actor}

        def turn(answers: Answers) -> None:
            control = answers.client.control.workflows
            if switch in OF_WORKFLOWS:
                getattr(control, switch)(workflow_id, **note)
            else:
                getattr(control, OF_TRIGGERS[switch])(workflow_id, trigger, **note)

        try:
            await self.attempt(turn)
        except WorkflowEngineError as refusal:
            raise tornado.web.HTTPError(HTTPStatus.CONFLICT, "%s", str(refusal)) from refusal
        self.redirect(f"{self.link('workflow', workflow_id)}#triggers", status=HTTPStatus.SEE_OTHER)
