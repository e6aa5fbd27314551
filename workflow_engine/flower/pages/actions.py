"""What an operator may do to an execution: first what it would do, then a form."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import tornado.web

from workflow_engine.control.reopening import Preview
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.execution.states import LEGAL_FROM, Operation
from workflow_engine.flower.desk import Answers
from workflow_engine.flower.page import Page
from workflow_engine.postgres.executions.queries import Execution, NodeExecution

SEND_EVENT = "send-event"

EFFECTS: dict[str, str] = {
    Operation.PAUSE: "No further node starts until the execution is resumed. A running node may finish; "
    "waits go on, and what they wait for is kept.",
    Operation.RESUME: "The execution goes on from where it stopped. Nodes that came due since are due now.",
    Operation.CANCEL: "The execution ends at once: a running node is interrupted and its result refused, "
    "and all waits are cancelled. Its children are cancelled too.",
    Operation.RETRY: "The execution goes on from the node whose failure ended it. "
    "That node keeps its idempotency key.",
    Operation.RERUN: "The node and everything after it run again, with new idempotency keys. "
    "What they did before stays in the journal and no longer counts.",
    SEND_EVENT: "The event is given to this execution. If no node waits for it yet, it is kept until then.",
}
"""What each action does."""

ON_PAGES = [each for each in Operation if each in EFFECTS]
"""The operations that have a page; the command line has all."""


class ActionPage(Page):
    """One action on one execution."""

    @tornado.web.authenticated
    async def get(self, execution_id: str, action: str) -> None:
        await self._show(execution_id, _known(action), self.text("node"))

    @tornado.web.authenticated
    async def post(self, execution_id: str, action: str) -> None:
        self.refuse_if_read_only()
        known, node = _known(action), str(self.get_body_argument("node", ""))
        given: dict[str, Any] = {"reason": self._given("reason") or None, "actor": self.actor}
        name, payload = self._given("name"), self._given("payload")
        children = self._given("children") == "yes"

        def act(answers: Answers) -> None:
            control = answers.client.control
            match known:
                case Operation.PAUSE | Operation.RESUME:
                    getattr(control, known)(execution_id, children=children, **given)
                case Operation.CANCEL | Operation.RETRY:
                    getattr(control, known)(execution_id, **given)
                case Operation.RERUN:
                    control.rerun(execution_id, node, **given)
                case _:
                    value = json.loads(payload) if payload.strip() else None
                    actor = given["actor"]
                    answers.client.send_event(
                        name=name, payload=value, execution_id=execution_id, actor=actor
                    )

        try:
            await self.attempt(act)
        except json.JSONDecodeError as error:
            await self._show(execution_id, known, node, f"The payload is no JSON: {error}", name, payload)
            return
        except WorkflowEngineError as refusal:
            await self._show(execution_id, known, node, str(refusal), name, payload)
            return
        self.redirect(self.link("execution", execution_id, done=known), status=HTTPStatus.SEE_OTHER)

    async def _show(
        self,
        execution_id: str,
        action: str,
        node: str,
        problem: str = "",
        name: str = "",
        payload: str = "",
    ) -> None:
        def about(answers: Answers) -> tuple[Execution, Preview | None, str, list[str], list[str]]:
            execution = answers.engine.queries.get(execution_id)
            journal = answers.engine.queries.journal(execution_id, with_values=False)
            reached = list(dict.fromkeys(row.node_id for row in journal if row.superseded_by is None))
            preview, refusal = None, ""
            try:
                if action == Operation.RETRY or (action == Operation.RERUN and node):
                    preview = answers.client.control.preview(Operation(action), execution_id, node)
            except WorkflowEngineError as error:
                refusal = str(error)
            if action != SEND_EVENT and execution.status not in LEGAL_FROM[Operation(action)]:
                refusal = f"An execution that is {execution.status} cannot be treated so: {action}."
            if action == SEND_EVENT and execution.status.is_finished:
                refusal = f"The execution is {execution.status}; no node of it waits for events any more."
            return execution, preview, refusal, reached, _awaited(journal)

        execution, preview, refusal, reached, awaited = await self.ask(about)
        if problem:
            self.set_status(HTTPStatus.CONFLICT)
        self.show(
            "engine_action.html",
            execution=execution,
            action=action,
            effect=EFFECTS[action],
            preview=preview,
            refusal=refusal,
            problem=problem,
            reached=reached,
            node=node,
            awaited=awaited,
            name=name or (awaited[0] if awaited else ""),
            payload=payload,
        )

    def _given(self, name: str) -> str:
        return str(self.get_body_argument(name, ""))


def _known(action: str) -> str:
    if action not in EFFECTS:
        raise tornado.web.HTTPError(HTTPStatus.NOT_FOUND, "No such action")
    return action


def _awaited(journal: list[NodeExecution] | Any) -> list[str]:
    """Return the names of the events that nodes of an execution wait for."""
    names: dict[str, None] = {}
    latest = {row.node_id: row for row in journal if row.superseded_by is None}
    for row in latest.values():
        if row.wait is not None and row.wait.status == "WAITING":
            names.update(dict.fromkeys(set(row.wait.events) - set(row.wait.received)))
    return sorted(names)
