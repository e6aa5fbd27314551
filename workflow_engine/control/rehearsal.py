"""Rehearsing an operation: what it would do to many executions, in groups, without doing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_engine.control.moving import AMENDING, Mover
from workflow_engine.control.reopening import Reopening
from workflow_engine.errors import BackingServiceUnavailable, ExecutionNotFound, WorkflowEngineError
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.states import Operation
from workflow_engine.execution.walk import Walk
from workflow_engine.postgres.executions.state import ExecutionStateService

SHOWN = 5
"""Ids of executions that each group names."""

SHOWN_NODES = 5

PLAIN = {
    Operation.PAUSE: "starts no further node",
    Operation.CANCEL: "ends, with its children",
    Operation.CLEAR_BREAKPOINTS: "has no breakpoints",
}
"""The effects that do not depend on the journal."""


@dataclass(frozen=True)
class Group:
    """Executions to which an operation would do the same."""

    workflow_id: str
    version: int
    status: str
    """Their status now."""
    effect: str
    """What would happen; why not, if it would be refused."""
    is_refused: bool
    count: int
    examples: tuple[str, ...]
    """The ids of the oldest of them."""


class Rehearsal:
    """Finds out what an operation would do, by the rules by which it is done."""

    def __init__(self, mover: Mover, state: ExecutionStateService) -> None:
        self._mover = mover
        self._state = state

    def groups(
        self, operation: Operation, executions: Sequence[str], arguments: Mapping[str, Any]
    ) -> list[Group]:
        """Return what an operation with these arguments would do. Raises `InvalidValue` for its values."""
        given = dict(arguments)
        for name, path in (("output", "output"), ("value", f"variables.{given.get('name')}")):
            if name in given:
                given[name] = self._mover.encoded(given[name], path)
        return grouped([self._rehearsed(operation, execution_id, given) for execution_id in executions])

    def _rehearsed(
        self, operation: Operation, execution_id: str, arguments: Mapping[str, Any]
    ) -> tuple[str, str, int, str, str, bool]:
        snapshot = self._state.load_snapshot(checked_id(execution_id), with_outputs=False)
        if snapshot is None:
            raise ExecutionNotFound(execution_id)
        try:
            self._mover.check_legal(operation, snapshot.execution_id, snapshot.status)
            if snapshot.status.is_finished and operation not in AMENDING:
                self._mover.check_awaited(operation, snapshot.execution_id)
            effect, is_refused = effect_of(self._mover.reopening_of(snapshot), operation, arguments), False
        except (WorkflowEngineError, ValueError) as refusal:
            if isinstance(refusal, BackingServiceUnavailable):
                raise
            # Without the id, in which alike refusals differ.
            text = str(refusal).replace(f" of execution {snapshot.execution_id}", "")
            effect, is_refused = text.replace(snapshot.execution_id, "…"), True
        return (
            snapshot.execution_id,
            snapshot.workflow_id,
            snapshot.version,
            snapshot.status.value,
            effect,
            is_refused,
        )


def effect_of(reopening: Reopening, operation: Operation, arguments: Mapping[str, Any]) -> str:
    """Return what an operation would do to one execution. Raises as the operation would."""
    effect = PLAIN.get(operation, "")
    match operation:
        case Operation.RESUME:
            effect = goes_on(reopening.walk())
        case Operation.RETRY | Operation.RERUN:
            walk, superseded = reopening.walk_after(operation, **arguments)
            rows = f"{superseded} journal row{'' if superseded == 1 else 's'}"
            effect = f"{goes_on(walk)}; {rows} superseded" if superseded else goes_on(walk)
        case Operation.SKIP | Operation.COMPLETE:
            walk = reopening.walk_by_hand(operation, arguments["node"], arguments.get("handle"))
            effect = f"{arguments['node']} is done by hand, and it {goes_on(walk)}"
        case Operation.SET_OUTPUT:
            reopening.output_of(arguments["node"], arguments["output"])
            effect = f"{arguments['node']} has another output"
        case Operation.SET_VARIABLE:
            reopening.variable(arguments["name"], arguments["value"])
            effect = f"{arguments['name']} has another value"
        case Operation.PAUSE_BEFORE:
            reopening.check_node(operation, arguments["node"])
            effect = f"is paused when {arguments['node']} becomes due"
    return effect


def goes_on(walk: Walk) -> str:
    """Return where an execution would go on."""
    parts = []
    if walk.due:
        parts.append(f"runs {_nodes(walk.due)}")
    if walk.waiting:
        parts.append(f"waits at {_nodes(walk.waiting)}")
    return " and ".join(parts) or "completes"


def _nodes(node_ids: list[str]) -> str:
    more = f" and {len(node_ids) - SHOWN_NODES} more" if len(node_ids) > SHOWN_NODES else ""
    return ", ".join(node_ids[:SHOWN_NODES]) + more


def grouped(found: list[tuple[str, str, int, str, str, bool]]) -> list[Group]:
    """Group `(execution, workflow, version, status, effect, is_refused)`, the largest groups first."""
    groups: dict[tuple[str, int, str, str, bool], list[str]] = {}
    for execution_id, *key in found:
        groups.setdefault(tuple(key), []).append(execution_id)  # type: ignore[arg-type]
    made = [Group(*key, len(ids), tuple(ids[:SHOWN])) for key, ids in groups.items()]
    return sorted(made, key=lambda group: (group.is_refused, -group.count, group.workflow_id, group.version))
