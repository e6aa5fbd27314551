"""The actions that have a page: what they do, their forms, and when they are possible."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_engine.errors import InvalidValue
from workflow_engine.execution.states import LEGAL_FROM, ExecutionStatus, NodeStatus, Operation
from workflow_engine.postgres.executions.queries import Execution
from workflow_engine.presentation.execution_view import NodeView

SEND_EVENT = "send-event"


@dataclass(frozen=True)
class Action:
    """An action that has a page."""

    title: str
    verb: str
    """On its button."""
    effect: str
    fields: tuple[str, ...] = ()
    """Of its form, beside the reason: `children`, `node`, `handle`, `output`, `name`, `value`, `payload`."""


ACTIONS: Mapping[str, Action] = {
    Operation.PAUSE: Action(
        "Pause this execution",
        "Pause",
        "No further node starts until the execution is resumed. A running node may finish; waits go on, and "
        "what they wait for is kept.",
        ("children",),
    ),
    Operation.RESUME: Action(
        "Resume this execution",
        "Resume",
        "The execution goes on from where it stopped. Nodes that came due since are due now.",
        ("children",),
    ),
    Operation.CANCEL: Action(
        "Cancel this execution",
        "Cancel",
        "The execution ends at once: a running node is interrupted and its result refused, and all waits are "
        "cancelled. Its children are cancelled too.",
    ),
    Operation.RETRY: Action(
        "Retry this execution",
        "Retry",
        "The execution goes on from the node whose failure ended it. That node keeps its idempotency key.",
    ),
    Operation.RERUN: Action(
        "Rerun this execution",
        "Rerun",
        "The node and everything after it run again, with new idempotency keys. What they did before stays "
        "in the journal and no longer counts.",
        ("node",),
    ),
    Operation.SKIP: Action(
        "Skip a node",
        "Skip",
        "The node is given an output and does not run; the execution goes on behind it. If the node runs, it "
        "is interrupted and its result refused. An execution that its failure has ended is reopened.",
        ("node", "handle", "output"),
    ),
    Operation.COMPLETE: Action(
        "Complete a wait by hand",
        "Complete",
        "The wait of the node ends with this output. Children that it waits for are cancelled.",
        ("node", "handle", "output"),
    ),
    Operation.SET_OUTPUT: Action(
        "Replace the output of a node",
        "Set output",
        "The node has this output from now on, for a resume, retry or rerun. The way that it took stays. "
        "The history keeps the output that it had.",
        ("node", "output"),
    ),
    Operation.SET_VARIABLE: Action(
        "Set a variable",
        "Set variable",
        "The variable has this value from now on, for a resume, retry or rerun, until a node sets it again.",
        ("name", "value"),
    ),
    Operation.PAUSE_BEFORE: Action(
        "Pause before a node",
        "Set breakpoint",
        "The execution is paused whenever this node becomes due; a resume goes on with the node.",
        ("node",),
    ),
    Operation.CLEAR_BREAKPOINTS: Action(
        "Remove all breakpoints",
        "Remove breakpoints",
        "The execution stops before no node any more, also not before those with a breakpoint of the "
        "workflow. If it is paused, it stays paused.",
    ),
    SEND_EVENT: Action(
        "Send an event",
        "Send",
        "The event is given to this execution. If no node waits for it yet, it is kept until then.",
        ("event", "payload"),
    ),
}

OF_EXECUTIONS = (
    Operation.PAUSE,
    Operation.RESUME,
    Operation.CANCEL,
    Operation.RETRY,
    Operation.RERUN,
    Operation.SET_VARIABLE,
    Operation.CLEAR_BREAKPOINTS,
)
OF_NODES = (Operation.SKIP, Operation.COMPLETE, Operation.SET_OUTPUT, Operation.PAUSE_BEFORE)


def actions_on(execution: Execution) -> list[str]:
    """Return the actions on a whole execution that its status allows."""
    possible = [str(each) for each in OF_EXECUTIONS if execution.status in LEGAL_FROM[each]]
    if not execution.breakpoints:
        possible = [each for each in possible if each != Operation.CLEAR_BREAKPOINTS]
    return possible if execution.is_finished else [*possible, SEND_EVENT]


def actions_on_node(execution: Execution, node: NodeView) -> list[str]:
    """Return the actions on one node that its state and the execution's status allow."""
    return [
        str(each)
        for each in OF_NODES
        if execution.status in LEGAL_FROM[each] and suits(each, execution, node)
    ]


def suits(operation: Operation, execution: Execution, node: NodeView) -> bool:
    """Return whether an operation fits the state of a node."""
    waits = node.status in (NodeStatus.WAITING, NodeStatus.RETRYING)
    match operation:
        case Operation.SKIP:
            ended_it = execution.status is ExecutionStatus.FAILED and node.status is NodeStatus.FAILED
            return waits or node.is_due or ended_it
        case Operation.COMPLETE:
            return waits
        case Operation.SET_OUTPUT:
            return node.status is NodeStatus.COMPLETED
        case Operation.RERUN:
            return node.status is not None
        case _:
            return True


@dataclass(frozen=True)
class Given:
    """What a form holds."""

    node: str = ""
    handle: str = ""
    output: str = ""
    name: str = ""
    value: str = ""
    event: str = ""
    payload: str = ""

    def arguments(self, fields: Sequence[str]) -> dict[str, Any]:
        """Return the arguments for an operation. Raises `InvalidValue` for a text that is no JSON."""
        arguments: dict[str, Any] = {}
        for field in fields:
            text = getattr(self, field, "")
            if field in ("output", "value"):
                arguments[field] = json_of(text, field)
            elif field == "handle":
                arguments[field] = text or None
            elif field in ("node", "name"):
                arguments[field] = text
        return arguments


def json_of(text: str, field: str) -> Any:
    """Return the value that a field holds; None for an empty one. Raises `InvalidValue`."""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidValue(field, f"it is no JSON: {error}; a text needs quotes") from None
