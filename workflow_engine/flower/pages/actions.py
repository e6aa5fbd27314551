"""The page of one action on an execution or on one node of it: what it would do, and a form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import tornado.web

from workflow_engine.control.executions import ExecutionControl
from workflow_engine.control.reopening import Preview
from workflow_engine.definition.graph import Graph
from workflow_engine.errors import IllegalMove, WorkflowEngineError
from workflow_engine.execution.states import LEGAL_FROM, ExecutionStatus, Operation
from workflow_engine.flower.actions import ACTIONS, SEND_EVENT, Given, json_of, suits
from workflow_engine.flower.desk import Answers
from workflow_engine.flower.page import Page
from workflow_engine.postgres.executions.queries import Execution, NodeExecution
from workflow_engine.presentation.execution_view import view_execution


@dataclass(frozen=True)
class Proposal:
    """What the page of an action shows."""

    execution: Execution
    nodes: Sequence[str] = ()
    """The nodes to choose from."""
    handles: Sequence[str] = ()
    """The ways out of the chosen node, if it has several."""
    preview: Preview | None = None
    effect: str = ""
    """What it would do to this execution, if that can be said before the form is filled in."""
    refusal: str = ""
    """Why it cannot be done."""
    awaited: Sequence[str] = ()
    """The names of the events that its nodes wait for."""
    output: str = ""
    """The output that the chosen node has, as JSON."""


class ActionPage(Page):
    """One action on one execution."""

    @tornado.web.authenticated
    async def get(self, execution_id: str, action: str) -> None:
        await self._show(
            execution_id, _known(action), Given(node=self.text("node"), handle=self.text("handle"))
        )

    @tornado.web.authenticated
    async def post(self, execution_id: str, action: str) -> None:
        self.refuse_if_read_only()
        known = _known(action)
        given = Given(**{field: self._given(field) for field in Given.__dataclass_fields__})
        note: dict[str, Any] = {"reason": self._given("reason") or None, "actor": self.actor}
        if "children" in ACTIONS[known].fields:
            note["children"] = self._given("children") == "yes"
        try:
            await self.attempt(_deed(execution_id, known, given, note))
        except WorkflowEngineError as refusal:
            await self._show(execution_id, known, given, str(refusal))
            return
        self.redirect(
            self.link("execution", execution_id, done=known, node=given.node), status=HTTPStatus.SEE_OTHER
        )

    async def _show(self, execution_id: str, action: str, given: Given, problem: str = "") -> None:
        proposal = await self.ask(lambda answers: _proposal(answers, execution_id, action, given))
        if problem:
            self.set_status(HTTPStatus.CONFLICT)
        self.show(
            "engine_action.html",
            execution=proposal.execution,
            action=action,
            about=ACTIONS[action],
            proposal=proposal,
            problem=problem,
            given=given,
        )

    def _given(self, name: str) -> str:
        return str(self.get_body_argument(name, ""))


def _known(action: str) -> str:
    if action not in ACTIONS:
        raise tornado.web.HTTPError(HTTPStatus.NOT_FOUND, "No such action")
    return action


def _deed(
    execution_id: str, action: str, given: Given, note: Mapping[str, Any]
) -> Callable[[Answers], object]:
    """Return the call that does it. Raises `InvalidValue` for a text that is no JSON."""
    if action == SEND_EVENT:
        event = {"name": given.event, "payload": json_of(given.payload, "payload"), "actor": note["actor"]}
        return lambda answers: answers.client.send_event(execution_id=execution_id, **event)
    arguments = given.arguments(ACTIONS[action].fields)
    if "node" in arguments and action == Operation.RERUN:
        arguments["from_node"] = arguments.pop("node")

    def act(answers: Answers) -> object:
        method = getattr(answers.client.control, action.replace("-", "_"))
        return method(execution_id, **arguments, **note)

    return act


def _proposal(answers: Answers, execution_id: str, action: str, given: Given) -> Proposal:
    engine, control = answers.engine, answers.client.control
    execution = engine.queries.get(execution_id)
    journal = engine.queries.journal(execution_id, with_values=False)
    if action == SEND_EVENT:
        ended = f"The execution is {execution.status}; no node of it waits for events any more."
        return Proposal(execution, refusal=ended if execution.is_finished else "", awaited=_awaited(journal))
    operation = Operation(action)
    if execution.status not in LEGAL_FROM[operation]:
        possible_from = [each.value for each in ExecutionStatus if each in LEGAL_FROM[operation]]
        illegal = IllegalMove(execution.id, execution.status.value, action, possible_from)
        return Proposal(execution, refusal=str(illegal))
    workflow = engine.workflows.get(execution.workflow_id, execution.version).workflow
    snapshot = engine.state.load_snapshot(execution.id, with_outputs=False)
    view = view_execution(execution, workflow, snapshot, journal)
    nodes = [node.id for node in view.nodes if suits(operation, execution, node)]
    handles = _ways_out(Graph.of(workflow), given.node) if "handle" in ACTIONS[action].fields else []
    preview, effect, refusal = None, "", ""
    try:
        if operation is Operation.RETRY or (operation is Operation.RERUN and given.node):
            preview = control.preview(operation, execution.id, given.node or None)
        else:
            effect, refusal = _effect(control, execution.id, operation, given, handles)
    except WorkflowEngineError as error:
        refusal = str(error)
    return Proposal(
        execution,
        nodes=nodes,
        handles=handles,
        preview=preview,
        effect=effect,
        refusal=refusal,
        output=_output(answers, execution, journal, given.node) if operation is Operation.SET_OUTPUT else "",
    )


def _effect(
    control: ExecutionControl, execution_id: str, operation: Operation, given: Given, handles: Sequence[str]
) -> tuple[str, str]:
    """Return what an operation would do, or why it would be refused, as far as that is known."""
    fields = ACTIONS[operation].fields
    if (
        operation in (Operation.RETRY, Operation.RERUN)
        or "name" in fields
        or ("node" in fields and not given.node)
    ):
        return "", ""
    arguments: dict[str, Any] = {}
    if "node" in fields:
        arguments["node"] = given.node
    if "handle" in fields:
        arguments["handle"] = given.handle or (handles[0] if handles else None)
    if "output" in fields:
        if operation is Operation.SET_OUTPUT:
            return "", ""
        arguments["output"] = None
    (group,) = control.dry_run(operation, [execution_id], **arguments)
    return ("", group.effect) if group.is_refused else (group.effect, "")


def _ways_out(graph: Graph, node_id: str) -> list[str]:
    """Return the ways out of a node to choose from; none if it has one."""
    handles = list(dict.fromkeys(edge.handle for edge in graph.outgoing.get(node_id, ())))
    return handles if len(handles) > 1 else []


def _output(answers: Answers, execution: Execution, journal: Sequence[NodeExecution], node_id: str) -> str:
    rows = [row for row in journal if row.node_id == node_id and row.superseded_by is None]
    values = answers.steps.values(execution.id, rows[-1].seq) if rows else None
    if values is None or values.output.is_left_out or values.output.size is None:
        return ""
    return json.dumps(values.output.value, ensure_ascii=False, indent=2)


def _awaited(journal: Sequence[NodeExecution]) -> list[str]:
    """Return the names of the events that nodes of an execution wait for."""
    names: dict[str, None] = {}
    latest = {row.node_id: row for row in journal if row.superseded_by is None}
    for row in latest.values():
        if row.wait is not None and row.wait.status == "WAITING":
            names.update(dict.fromkeys(set(row.wait.events) - set(row.wait.received)))
    return sorted(names)
