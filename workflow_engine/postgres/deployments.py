"""Deploying workflows: every changed content makes a new, immutable version.

Content is identified by its hash. Deploying the current content changes nothing; deploying earlier content
makes its version current again. Executions keep the version they were started with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import orjson

from workflow_engine.definition.workflow import Node, Workflow
from workflow_engine.errors import WorkflowNotFound
from workflow_engine.nodes.trigger import scheduler
from workflow_engine.postgres.database import Database, Row

LOCK = """
INSERT INTO {s}.workflows (id, name, current_version) VALUES (%(id)s, %(name)s, 0)
ON CONFLICT (id) DO UPDATE SET updated_at = now()
RETURNING current_version, clock_timestamp()
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
    -- An unchanged schedule keeps the due times it has yet to make up for.
    next_due = CASE WHEN t.active AND t.sub_type = excluded.sub_type
        AND (t.config->'cron', t.config->'timezone', t.config->'start', t.config->'end')
        IS NOT DISTINCT FROM
            (excluded.config->'cron', excluded.config->'timezone',
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
SELECT v.version, jsonb_object_agg(t.node_id, t.id)
FROM {s}.workflows w
JOIN {s}.workflow_versions v ON v.workflow_id = w.id AND v.version = coalesce(%(version)s, w.current_version)
JOIN {s}.triggers t ON t.workflow_id = w.id
WHERE w.id = %(id)s
GROUP BY v.version
"""

LIST = """
SELECT w.id, w.name, w.current_version, v.created_at
FROM {s}.workflows w JOIN {s}.workflow_versions v ON v.workflow_id = w.id AND v.version = w.current_version
ORDER BY w.id
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
            ((current, now),) = transaction.rows(LOCK, id=workflow.id, name=workflow.name)
            known = transaction.first(FIND_VERSION, **content)
            definition = orjson.dumps(workflow.to_dict()).decode()
            ((version,),) = (
                [known] if known else transaction.rows(ADD_VERSION, definition=definition, **content)
            )
            if version != current:
                transaction.rows(MAKE_CURRENT, id=workflow.id, name=workflow.name, version=version)
                triggers = _trigger_rows(workflow.nodes, now)
                transaction.rows(SET_TRIGGERS, id=workflow.id, queue=self._queue, triggers=triggers)
        return Deployment(workflow.id, version, is_new=known is None, was_current=version == current)

    def version(self, workflow_id: str, version: int | None = None) -> DeployedVersion:
        """Return a version of a workflow, the current one by default. Raises `WorkflowNotFound`."""
        number, is_current, definition, created_at = self._about_version(VERSION, workflow_id, version)
        return DeployedVersion(Workflow.from_stored(definition), number, is_current, created_at)

    def starting_point(self, workflow_id: str, version: int | None = None) -> tuple[int, dict[str, str]]:
        """Return the number of a version, the current one by default, and its triggers' ids by node id.

        Raises `WorkflowNotFound`.
        """
        number, trigger_ids = self._about_version(STARTING_POINT, workflow_id, version)
        return number, trigger_ids

    def workflows(self) -> list[DeployedWorkflow]:
        """Return all deployed workflows, by id."""
        return [DeployedWorkflow(*row) for row in self._database.rows(LIST)]

    def _about_version(self, statement: str, workflow_id: str, version: int | None) -> Row:
        if (row := self._database.first(statement, id=workflow_id, version=version)) is None:
            what = "is not deployed" if version is None else f"has no version {version}"
            raise WorkflowNotFound(
                f"workflow {workflow_id!r} {what}; `workflow-engine deploy FILE` deploys one"
            )
        return row


def _trigger_rows(nodes: Iterable[Node], now: datetime) -> str:
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


def _first_due(node: Node, now: datetime) -> datetime | None:
    if node.kind != scheduler.NODE_TYPE.kind:
        return None
    return scheduler.SchedulerConfig.model_validate(node.config).schedule.next_after(now)
