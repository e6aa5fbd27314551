"""Deploying workflows: every changed content makes a new, immutable version.

Content is known by its hash. Deploying what is current changes nothing, deploying what was current
before makes that version current again; executions keep the version they were started with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Engine

from workflow_engine.database import autocommit, transaction
from workflow_engine.definition import Node, Workflow
from workflow_engine.errors import WorkflowNotFound
from workflow_engine.nodes import scheduler
from workflow_engine.schedules import next_due
from workflow_engine.settings import Settings

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
INSERT INTO {s}.triggers AS t (workflow_id, node_id, sub_type, config, next_due)
SELECT %(id)s, node_id, sub_type, config, next_due FROM wanted
ON CONFLICT (workflow_id, node_id) DO UPDATE
SET sub_type = excluded.sub_type, config = excluded.config, active = true, updated_at = now(),
    claimed_until = NULL,
    -- A schedule that stays as it is keeps the times it has yet to make up for.
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
    """What deploying a definition came to."""

    workflow_id: str
    version: int
    is_new: bool
    """A version was made; False if this content had been deployed before."""
    was_current: bool
    """This content was the current version already, so nothing changed."""


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

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._schema = settings.database_schema

    def deploy(self, workflow: Workflow) -> Deployment:
        """Make a validated definition the current version of its workflow."""
        parameters: dict[str, Any] = {
            "id": workflow.id,
            "name": workflow.name,
            "definition": orjson.dumps(workflow.to_dict()).decode(),
            "content_hash": workflow.content_hash(),
        }
        with transaction(self._engine) as connection:
            # Taking the workflow's row first makes two deployments at once wait for each other.
            current, now = connection.exec_driver_sql(LOCK.format(s=self._schema), parameters).one()
            known = self._one(connection, FIND_VERSION, parameters)
            version = known if known is not None else self._one(connection, ADD_VERSION, parameters)
            if version != current:
                connection.exec_driver_sql(
                    MAKE_CURRENT.format(s=self._schema), {**parameters, "version": version}
                )
                connection.exec_driver_sql(
                    SET_TRIGGERS.format(s=self._schema),
                    {**parameters, "triggers": _trigger_rows(workflow.nodes, now)},
                )
        return Deployment(workflow.id, version, is_new=known is None, was_current=version == current)

    def version(self, workflow_id: str, version: int | None = None) -> DeployedVersion:
        """A version of a workflow, the current one if none is named. Raises `WorkflowNotFound`."""
        row = self._row(VERSION, workflow_id, version)
        number, is_current, definition, created_at = row
        return DeployedVersion(Workflow.from_stored(definition), number, is_current, created_at)

    def starting_point(self, workflow_id: str, version: int | None = None) -> tuple[int, dict[str, str]]:
        """The number of a version, the current one if none is named, and the ids of its triggers by node id.

        Raises `WorkflowNotFound`.
        """
        number, trigger_ids = self._row(STARTING_POINT, workflow_id, version)
        return number, trigger_ids

    def workflows(self) -> list[DeployedWorkflow]:
        """All deployed workflows, by id."""
        with autocommit(self._engine) as connection:
            rows = connection.exec_driver_sql(LIST.format(s=self._schema)).all()
        return [DeployedWorkflow(*row) for row in rows]

    def _row(self, statement: str, workflow_id: str, version: int | None) -> Any:
        parameters = {"id": workflow_id, "version": version}
        with autocommit(self._engine) as connection:
            row = connection.exec_driver_sql(statement.format(s=self._schema), parameters).first()
        if row is None:
            what = "is not deployed" if version is None else f"has no version {version}"
            raise WorkflowNotFound(
                f"workflow {workflow_id!r} {what}; `workflow-engine deploy FILE` deploys one"
            )
        return row

    def _one(self, connection: Connection, statement: str, parameters: dict[str, Any]) -> Any:
        return connection.exec_driver_sql(statement.format(s=self._schema), parameters).scalar_one_or_none()


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
    return next_due(scheduler.SchedulerConfig.model_validate(node.config), now)
