"""Deployed workflows: the list, one of them with its versions and triggers, and a start by a form."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

import tornado.web
import yaml

from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import Node, Workflow
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.flower.desk import Answers
from workflow_engine.flower.forms import data_of, fields_of
from workflow_engine.flower.page import Page
from workflow_engine.postgres.lookups.statistics import counted
from workflow_engine.presentation.execution_view import NodeView
from workflow_engine.presentation.graph_drawing import draw_graph
from workflow_engine.presentation.graph_layout import place

COUNTED_ON_THE_LIST = 30
"""Workflows of the list whose executions are counted."""

MOST_ON_THE_LIST = 1_000
"""Executions of one status that are counted there."""


class WorkflowsPage(Page):
    """The list of workflows."""

    active_tab = "workflows"

    @tornado.web.authenticated
    async def get(self) -> None:
        archived = self.text("archived") == "yes"

        def workflows(answers: Answers) -> list[tuple[Any, dict[ExecutionStatus, int]]]:
            found = answers.client.workflows(archived=archived)
            return [
                (
                    each,
                    answers.statistics.executions(each.id, most=MOST_ON_THE_LIST)
                    if number < COUNTED_ON_THE_LIST
                    else {},
                )
                for number, each in enumerate(found)
            ]

        found = await self.ask(workflows)
        self.show(
            "engine_workflows.html",
            workflows=found,
            archived=archived,
            counted=partial(counted, most=MOST_ON_THE_LIST),
            statuses=list(ExecutionStatus),
        )


class WorkflowPage(Page):
    """One workflow. A POST starts it."""

    active_tab = "workflows"

    @tornado.web.authenticated
    async def get(self, workflow_id: str) -> None:
        await self._show(workflow_id)

    @tornado.web.authenticated
    async def post(self, workflow_id: str) -> None:
        self.refuse_if_read_only()
        given = {
            name: str(self.get_body_argument(name, "", strip=False)) for name in self.request.body_arguments
        }

        def start(answers: Answers) -> str:
            deployed = answers.client.workflow(workflow_id)
            trigger = _trigger(deployed.workflow, given.get("trigger"))
            data = data_of(trigger.config.get("schema"), given)
            key = given.get("key", "").strip() or None
            return answers.client.start(workflow_id, data, trigger=trigger.id, idempotency_key=key).id

        try:
            execution_id = await self.attempt(start)
        except WorkflowEngineError as refusal:
            await self._show(workflow_id, str(refusal), given)
            return
        self.redirect(self.link("execution", execution_id), status=HTTPStatus.SEE_OTHER)

    async def _show(
        self, workflow_id: str, problem: str = "", given: Mapping[str, str] | None = None
    ) -> None:
        number, other = self.number("version"), self.number("compare")

        def about(answers: Answers) -> tuple[Any, ...]:
            shown = answers.client.workflow(workflow_id, number)
            current = shown if shown.is_current else answers.client.workflow(workflow_id)
            compared = answers.client.workflow(workflow_id, other) if other is not None else None
            states = {each.id: each for each in answers.client.workflows(archived=True)}
            return (
                shown,
                current,
                compared,
                answers.engine.deployments.versions(workflow_id),
                answers.client.triggers(workflow_id),
                states[workflow_id],
                answers.client.control.workflows.audit(workflow_id),
                answers.statistics.executions(workflow_id),
            )

        shown, current, compared, versions, triggers, deployed, history, counts = await self.ask(about)
        trigger = _trigger(current.workflow, (given or {}).get("trigger") or self.text("trigger"))
        text = _text(shown.workflow)
        if problem:
            self.set_status(HTTPStatus.CONFLICT)
        self.show(
            "engine_workflow.html",
            workflow=shown.workflow,
            shown=shown,
            current=current,
            compared=compared,
            difference=list(_difference(compared, text)) if compared is not None else [],
            versions=versions,
            deployed=deployed,
            states={each.node_id: each for each in triggers},
            history=history[-50:],
            counts={
                status: counted(counts.get(status, 0)) for status in ExecutionStatus if counts.get(status)
            },
            text=text,
            drawing=_drawing(shown.workflow),
            triggers=[node for node in current.workflow.nodes if node.type == "trigger"],
            trigger=trigger,
            fields=fields_of(trigger.config.get("schema"), given),
            key=(given or {}).get("key", ""),
            problem=problem,
        )


def _trigger(workflow: Workflow, node_id: str | None) -> Node:
    """Return the trigger of this id, or else the first."""
    triggers = [node for node in workflow.nodes if node.type == "trigger"]
    return next((node for node in triggers if node.id == node_id), triggers[0])


def _drawing(workflow: Workflow) -> Any:
    graph = Graph.of(workflow)
    places = list(place(graph, graph.triggers[0]))
    nodes: Sequence[NodeView] = [
        NodeView(where.node_id, node.label, node.type, node.sub_type, None, False, ())
        for where in places
        for node in (graph.nodes[where.node_id],)
    ]
    return draw_graph(graph, nodes, places)


def _text(workflow: Workflow) -> str:
    """Return a definition as YAML, as a person would write it."""
    return yaml.safe_dump(workflow.to_dict(), sort_keys=False, allow_unicode=True, width=100)


def _difference(compared: Any, text: str) -> Iterator[tuple[str, str]]:
    """Yield the lines in which a version differs from another, each with what it is."""
    before = _text(compared.workflow).splitlines()
    for line in difflib.unified_diff(before, text.splitlines(), lineterm="", n=4):
        if line.startswith(("---", "+++")):
            continue
        kind = {"+": "added", "-": "removed", "@": "place"}.get(line[:1], "same")
        yield kind, line
