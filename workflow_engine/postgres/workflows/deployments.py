"""Deploying workflows: every changed content makes a new, immutable version.

Content is identified by its hash. Deploying the current content changes nothing; deploying earlier content
makes its version current again. Executions keep the version they were started with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from workflow_engine.definition.workflow import Node, Workflow
from workflow_engine.errors import TriggerPaused, WorkflowInactive, WorkflowNotFound
from workflow_engine.execution.states import WorkflowState
from workflow_engine.nodes.trigger import scheduler
from workflow_engine.postgres.database import Database, Row
from workflow_engine.postgres.executions.follow_ups import REQUEST_WAKE
from workflow_engine.postgres.workflows.history import WorkflowEvent, events_of, record
from workflow_engine.postgres.workflows.triggers import SET_DUE, first_due

LOCK = """
INSERT INTO {s}.workflows (id, name, current_version) VALUES (%(id)s, %(name)s, 0)
ON CONFLICT (id) DO UPDATE SET updated_at = now()
RETURNING current_version, clock_timestamp(), state
"""

FIND_VERSION = """
SELECT version FROM {s}.workflow_versions WHERE workflow_id = %(id)s AND content_hash = %(content_hash)s
"""

ADD_VERSION = """
INSERT INTO {s}.workflow_versions (workflow_id, version, definition, content_hash)
SELECT %(id)s, coalesce(max(version), 0) + 1, %(definition)s::jsonb, %(content_hash)s
FROM {s}.workflow_versions WHERE workflow_id = %(id)s
RETURNING version
"""

MAKE_CURRENT = "UPDATE {s}.workflows SET name = %(name)s, current_version = %(version)s WHERE id = %(id)s"

SET_TRIGGERS = """
WITH wanted AS (
    SELECT * FROM jsonb_to_recordset(%(triggers)s::jsonb)
        AS t(node_id text, sub_type text, config jsonb, next_due timestamptz)
), gone AS (
    UPDATE {s}.triggers SET active = false, next_due = NULL, claimed_until = NULL, updated_at = now()
    WHERE workflow_id = %(id)s AND active AND node_id NOT IN (SELECT node_id FROM wanted)
)
INSERT INTO {s}.triggers AS t (workflow_id, node_id, sub_type, config, queue, next_due)
SELECT %(id)s, node_id, sub_type, config, %(queue)s, next_due FROM wanted
ON CONFLICT (workflow_id, node_id) DO UPDATE
SET sub_type = excluded.sub_type, config = excluded.config, queue = excluded.queue, active = true,
    updated_at = now(), claimed_until = NULL,
    state = CASE WHEN t.state = 'ERROR' THEN 'ACTIVE' ELSE t.state END,
    -- An unchanged schedule keeps the due times it has yet to make up for.
    next_due = CASE WHEN t.state = 'PAUSED' THEN NULL
        WHEN t.active AND t.sub_type = excluded.sub_type
        AND (t.config->'cron', t.config->'at', t.config->'timezone', t.config->'start', t.config->'end')
        IS NOT DISTINCT FROM
            (excluded.config->'cron', excluded.config->'at', excluded.config->'timezone',
             excluded.config->'start', excluded.config->'end')
        THEN t.next_due ELSE excluded.next_due END
"""

VERSION = """
SELECT v.version, v.version = w.current_version, v.definition, v.created_at
FROM {s}.workflows w JOIN {s}.workflow_versions v
    ON v.workflow_id = w.id AND v.version = coalesce(%(version)s, w.current_version)
WHERE w.id = %(id)s
"""

STARTING_POINT = """
SELECT v.version, jsonb_object_agg(t.node_id, t.id), w.state, w.state_by, w.state_reason,
    jsonb_object_agg(t.node_id, jsonb_build_array(t.state_by, t.state_reason))
        FILTER (WHERE t.state = 'PAUSED')
FROM {s}.workflows w
JOIN {s}.workflow_versions v ON v.workflow_id = w.id AND v.version = coalesce(%(version)s, w.current_version)
JOIN {s}.triggers t ON t.workflow_id = w.id
WHERE w.id = %(id)s
GROUP BY v.version, w.id
"""

LIST = """
SELECT w.id, w.name, w.current_version, v.created_at, w.state, w.state_since, w.state_by, w.state_reason,
    coalesce(w.breakpoints, '{}')
FROM {s}.workflows w JOIN {s}.workflow_versions v ON v.workflow_id = w.id AND v.version = w.current_version
WHERE %(archived)s OR w.state <> 'ARCHIVED'
ORDER BY w.id
"""

STATE = "SELECT state, clock_timestamp() FROM {s}.workflows WHERE id = %(id)s FOR NO KEY UPDATE"

SET_STATE = """
UPDATE {s}.workflows
SET state = %(state)s, state_since = now(), state_by = %(actor)s, state_reason = %(reason)s
WHERE id = %(id)s
"""

BREAKPOINTS = "SELECT breakpoints FROM {s}.workflows WHERE id = %(id)s FOR NO KEY UPDATE"

SET_BREAKPOINTS = "UPDATE {s}.workflows SET breakpoints = %(breakpoints)s WHERE id = %(id)s"

# After those of the workflow, which executions that start now have read by then. The youngest first, as all
# statements that lock several. A worker that walks inline leaves with its next commit.
SET_BREAKPOINTS_OF_EXECUTIONS = """
WITH open AS (
    SELECT e.id FROM {s}.executions e
    WHERE e.workflow_id = %(id)s AND e.completed_at IS NULL AND e.body IS NULL
    ORDER BY e.id DESC FOR NO KEY UPDATE
)
UPDATE {s}.executions e SET breakpoints = CASE WHEN %(node)s::text IS NOT NULL
    THEN array_append(array_remove(e.breakpoints, %(node)s::text), %(node)s::text) END
FROM open WHERE e.id = open.id
RETURNING e.id::text
"""

STOP_SCHEDULES = """
UPDATE {s}.triggers SET next_due = NULL, claimed_until = NULL
WHERE workflow_id = %(id)s AND next_due IS NOT NULL
"""

STOPPED_SCHEDULES = """
SELECT node_id, config FROM {s}.triggers
WHERE workflow_id = %(id)s AND active AND sub_type = 'scheduler' AND state <> 'PAUSED'
FOR NO KEY UPDATE
"""


EVENT_OF = {
    WorkflowState.ACTIVE: "ACTIVATED",
    WorkflowState.DEACTIVATED: "DEACTIVATED",
    WorkflowState.ARCHIVED: "ARCHIVED",
}
"""The name of each operation in the history of workflows."""

VERSIONS = """
SELECT v.version, v.version = w.current_version, v.created_at
FROM {s}.workflows w JOIN {s}.workflow_versions v ON v.workflow_id = w.id
WHERE w.id = %(id)s ORDER BY v.version DESC LIMIT %(limit)s
"""


@dataclass(frozen=True)
class Deployment:
    """The result of deploying a definition."""

    workflow_id: str
    version: int
    is_new: bool
    """False if this content had been deployed before."""
    was_current: bool
    """True if this content was the current version already, so nothing changed."""
    state: WorkflowState = WorkflowState.ACTIVE
    """That of the workflow, which a deployment does not change."""


@dataclass(frozen=True)
class DeployedVersion:
    """One version of a deployed workflow."""

    workflow: Workflow
    version: int
    is_current: bool
    created_at: datetime


@dataclass(frozen=True)
class DeployedWorkflow:
    """A deployed workflow in a list."""

    id: str
    name: str | None
    current_version: int
    deployed_at: datetime
    state: WorkflowState = WorkflowState.ACTIVE
    state_since: datetime | None = None
    """When an operator set the state; None if none did, as for the three that follow."""
    state_by: str | None = None
    state_reason: str | None = None
    breakpoints: Sequence[str] = ()
    """The nodes before which each of its executions is paused."""


@dataclass(frozen=True)
class StartingPoint:
    """What a start has to know of a workflow."""

    version: int
    trigger_ids: Mapping[str, str]
    """The ids of the triggers by node id."""
    state: WorkflowState
    note: str
    """Who set the state and why."""
    paused: Mapping[str, str]
    """Such a note of each paused trigger, by node id."""

    def check_open(self, workflow_id: str, node_id: str) -> None:
        """Raise `WorkflowInactive` or `TriggerPaused` if an operator has closed this way in."""
        if self.state is not WorkflowState.ACTIVE:
            raise WorkflowInactive(workflow_id, self.state.value, self.note)
        if (note := self.paused.get(node_id)) is not None:
            raise TriggerPaused(workflow_id, node_id, note)


@dataclass(frozen=True)
class WorkflowMove:
    """The result of an operation on a workflow."""

    workflow_id: str
    state_before: WorkflowState
    state: WorkflowState


@dataclass(frozen=True)
class ListedVersion:
    """A version of a workflow in a list."""

    version: int
    is_current: bool
    created_at: datetime


class Deployments:
    """Workflows, their versions and triggers in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database, *, queue: str) -> None:
        self._database = database
        self._queue = queue

    def deploy(self, workflow: Workflow) -> Deployment:
        """Make a validated definition the current version of its workflow."""
        content = {"id": workflow.id, "content_hash": workflow.content_hash()}
        with self._database.transaction() as transaction:
            # Locking the workflow's row first makes concurrent deployments wait for each other.
            ((current, now, state),) = transaction.rows(LOCK, id=workflow.id, name=workflow.name)
            known = transaction.first(FIND_VERSION, **content)
            definition = orjson.dumps(workflow.to_dict()).decode()
            ((version,),) = (
                [known] if known else transaction.rows(ADD_VERSION, definition=definition, **content)
            )
            if version != current:
                transaction.rows(MAKE_CURRENT, id=workflow.id, name=workflow.name, version=version)
                is_active = state == WorkflowState.ACTIVE
                triggers = _trigger_rows(workflow.nodes, now if is_active else None)
                transaction.rows(SET_TRIGGERS, id=workflow.id, queue=self._queue, triggers=triggers)
        return Deployment(
            workflow.id,
            version,
            is_new=known is None,
            was_current=version == current,
            state=WorkflowState(state),
        )

    def version(self, workflow_id: str, version: int | None = None) -> DeployedVersion:
        """Return a version of a workflow, the current one by default. Raises `WorkflowNotFound`."""
        number, is_current, definition, created_at = self._about_version(VERSION, workflow_id, version)
        return DeployedVersion(Workflow.from_stored(definition), number, is_current, created_at)

    def starting_point(self, workflow_id: str, version: int | None = None) -> tuple[int, dict[str, str]]:
        """Return the number of a version, the current one by default, and its triggers' ids by node id.

        Raises `WorkflowNotFound`.
        """
        number, trigger_ids, *_ = self._about_version(STARTING_POINT, workflow_id, version)
        return number, trigger_ids

    def way_in(self, workflow_id: str, version: int | None = None) -> StartingPoint:
        """Return the same for a start from outside, with what operators have closed.

        Raises `WorkflowNotFound`.
        """
        number, trigger_ids, state, by, reason, paused = self._about_version(
            STARTING_POINT, workflow_id, version
        )
        notes = {node_id: _note(*each) for node_id, each in (paused or {}).items()}
        return StartingPoint(number, trigger_ids, WorkflowState(state), _note(by, reason), notes)

    def workflows(self, *, archived: bool = False) -> list[DeployedWorkflow]:
        """Return the deployed workflows by id, with `archived` those too."""
        rows = self._database.rows(LIST, archived=archived)
        return [_deployed(*row) for row in rows]

    def set_state(
        self, workflow_id: str, state: WorkflowState, *, actor: str | None, reason: str | None
    ) -> WorkflowMove:
        """Activate, deactivate or archive a workflow; one that is so already stays as it is.

        Schedules of a workflow that is not ACTIVE have no due time. When it is ACTIVE again they are due next
        in the future. Raises `WorkflowNotFound`.
        """
        with self._database.transaction() as transaction:
            if (row := transaction.first(STATE, id=workflow_id)) is None:
                raise _not_deployed(workflow_id)
            before, now = WorkflowState(row[0]), row[1]
            if before is not state:
                transaction.rows(SET_STATE, id=workflow_id, state=state.value, actor=actor, reason=reason)
                if state is WorkflowState.ACTIVE:
                    for node_id, config in transaction.rows(STOPPED_SCHEDULES, id=workflow_id):
                        next_due = first_due(config, now)
                        transaction.rows(SET_DUE, id=workflow_id, node_id=node_id, next_due=next_due)
                else:
                    transaction.rows(STOP_SCHEDULES, id=workflow_id)
                record(transaction, workflow_id, None, EVENT_OF[state], actor, reason)
        return WorkflowMove(workflow_id, before, state)

    def set_breakpoint(
        self, workflow_id: str, node_id: str | None, *, actor: str | None, reason: str | None
    ) -> tuple[tuple[str, ...], list[str]]:
        """Set a breakpoint before a node of all executions of a workflow, or clear all for None.

        Return the breakpoints, and the ids of the open executions. Raises `WorkflowNotFound`.
        """
        with self._database.transaction() as transaction:
            if (row := transaction.first(BREAKPOINTS, id=workflow_id)) is None:
                raise _not_deployed(workflow_id)
            others = [each for each in row[0] or () if each != node_id]
            breakpoints = [*others, node_id] if node_id is not None else []
            transaction.rows(SET_BREAKPOINTS, id=workflow_id, breakpoints=breakpoints or None)
            type = "BREAKPOINT_SET" if node_id is not None else "BREAKPOINTS_CLEARED"
            record(transaction, workflow_id, node_id, type, actor, reason)
        rows = self._database.rows(SET_BREAKPOINTS_OF_EXECUTIONS, id=workflow_id, node=node_id)
        executions = [execution_id for (execution_id,) in rows]
        # A worker that walks inline leaves with its next commit.
        self._database.rows(REQUEST_WAKE, executions=executions)
        return tuple(breakpoints), executions

    def events(self, workflow_id: str) -> list[WorkflowEvent]:
        """Return what was done to a workflow and its triggers. Raises `WorkflowNotFound`."""
        found = events_of(self._database, workflow_id)
        if not found:
            self.version(workflow_id)
        return found

    def versions(self, workflow_id: str, limit: int = 100) -> list[ListedVersion]:
        """Return the versions of a workflow, the newest first; none of one that is not deployed."""
        return [ListedVersion(*row) for row in self._database.rows(VERSIONS, id=workflow_id, limit=limit)]

    def _about_version(self, statement: str, workflow_id: str, version: int | None) -> Row:
        if (row := self._database.first(statement, id=workflow_id, version=version)) is None:
            raise _not_deployed(workflow_id, version)
        return row


def _deployed(
    id: str, name: str | None, version: int, deployed_at: datetime, state: str, *note: Any
) -> DeployedWorkflow:
    return DeployedWorkflow(id, name, version, deployed_at, WorkflowState(state), *note)


def _not_deployed(workflow_id: str, version: int | None = None) -> WorkflowNotFound:
    what = "is not deployed" if version is None else f"has no version {version}"
    return WorkflowNotFound(f"workflow {workflow_id!r} {what}; `workflow-engine deploy FILE` deploys one")


def _note(by: str | None, reason: str | None) -> str:
    """Return ` (by ada: moving the shop)`, or less."""
    parts = [f"by {by}"] if by else []
    parts += [reason] if reason else []
    return f" ({': '.join(parts)})" if parts else ""


def _trigger_rows(nodes: Iterable[Node], now: datetime | None) -> str:
    """Return the rows of the triggers; without `now`, no schedule has a due time."""
    rows = [
        {
            "node_id": node.id,
            "sub_type": node.sub_type,
            "config": node.config,
            "next_due": _first_due(node, now),
        }
        for node in nodes
        if node.type == "trigger"
    ]
    return orjson.dumps(rows).decode()


def _first_due(node: Node, now: datetime | None) -> datetime | None:
    if node.kind != scheduler.NODE_TYPE.kind or now is None:
        return None
    return first_due(node.config, now)
