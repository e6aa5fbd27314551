"""Creating executions: the execution and its trigger's journal row, in one statement, and only once per key.

The statement runs on a connection of the engine's or on one of the caller's, inside the caller's transaction
and over the caller's driver. Therefore it is written with SQLAlchemy's placeholders, and every parameter is
cast: drivers that leave its type to Postgres fail where it could be guessed in two ways.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, text

from workflow_engine.database import autocommit, instant, to_jsonb
from workflow_engine.errors import IdempotencyConflict
from workflow_engine.execution_records import FIRST_SEQ, FORMAT, NewExecution, StartedExecution
from workflow_engine.settings import Settings

# `statement_timestamp` rather than `now`: a caller's transaction may have begun long before the start.
# The context's JSON has ISO 8601 in UTC with a Z.
GIVEN = """
WITH given AS (
    SELECT *, metadata_given || jsonb_build_object('startedAt',
        to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) AS metadata
    FROM (SELECT
        CAST(:id AS uuid) AS id,
        CAST(:workflow_id AS text) AS workflow_id,
        CAST(:version AS integer) AS version,
        CAST(:trigger_id AS uuid) AS trigger_id,
        CAST(:trigger_node_id AS text) AS trigger_node_id,
        CAST(:trigger_sub_type AS text) AS trigger_sub_type,
        CAST(:trigger_label AS text) AS trigger_label,
        CAST(:data AS jsonb) AS data,
        CAST(:variables AS jsonb) AS variables,
        CAST(:metadata AS jsonb) AS metadata_given,
        CAST(:priority AS smallint) AS priority,
        CAST(:idempotency_key AS text) AS idempotency_key,
        CAST(:fingerprint AS text) AS fingerprint,
        CAST(:parent_execution_id AS uuid) AS parent_execution_id,
        CAST(:timeout AS double precision) AS timeout,
        CAST(:token AS uuid) AS token,
        CAST(:seq AS integer) AS seq,
        CAST(:format AS smallint) AS format,
        statement_timestamp() AS created_at) AS parameters
),"""

# Waits for a transaction that has used the key and not ended, and goes by how it ends.
KEY_TAKEN = """
taken AS (
    INSERT INTO {s}.idempotency_keys (workflow_id, key, execution_id, fingerprint, created_at)
    SELECT workflow_id, idempotency_key, id, fingerprint, created_at FROM given
    ON CONFLICT DO NOTHING
    RETURNING execution_id
),"""

CREATED = """
execution AS (
    INSERT INTO {s}.executions (
        id, workflow_id, workflow_version, trigger_id, trigger_node_id, fence, seq, format, context,
        trigger_data, metadata, priority, idempotency_key, parent_execution_id, expires_at, created_at,
        updated_at)
    SELECT id, workflow_id, version, trigger_id, trigger_node_id, token, seq, format,
        jsonb_build_object(
            'executionId', id, 'workflowId', workflow_id, 'triggerId', trigger_id,
            'triggerNodeId', trigger_node_id, 'currentNodeId', trigger_node_id,
            'variables', variables, 'metadata', metadata),
        data, metadata, priority, idempotency_key, parent_execution_id,
        created_at + timeout * interval '1 second', created_at, created_at
    FROM {source}
    RETURNING id, created_at
), journalled AS (
    INSERT INTO {s}.node_executions (
        execution_id, seq, node_id, label, type, sub_type, status, handles, variables, token, output_data,
        started_at, completed_at, duration_ms)
    SELECT given.id, seq, trigger_node_id, trigger_label, 'trigger', trigger_sub_type, 'COMPLETED',
        ARRAY[''], variables, token, data, given.created_at, given.created_at, 0
    FROM execution JOIN given USING (id)
)
SELECT {created_at} FROM execution
"""

# In microseconds: a driver may be unable to read a timestamp in the style or zone that the caller has set.
CREATED_AT = "CAST(extract(epoch FROM created_at) * 1000000 AS bigint)"

FIND_KEY = """
SELECT CAST(execution_id AS text), fingerprint, {created_at} FROM {s}.idempotency_keys
WHERE workflow_id = CAST(:workflow_id AS text) AND key = CAST(:key AS text)
"""


class ExecutionCreation:
    """Writes new executions to Postgres."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        names = {"s": settings.database_schema, "created_at": CREATED_AT}
        self._without_key = text(GIVEN + CREATED.format(source="given", **names))
        self._with_key = text(
            GIVEN
            + KEY_TAKEN.format(**names)
            + CREATED.format(source="given JOIN taken ON taken.execution_id = id", **names)
        )
        self._find_key = text(FIND_KEY.format(**names))

    def create(self, new: NewExecution, connection: Connection | None = None) -> StartedExecution:
        """Write an execution and its trigger's journal row; an idempotency key gives what it started before.

        Without a `connection` of the caller's it is committed on return; with one it is part of the
        caller's transaction, whose errors are raised as they are. Raises `IdempotencyConflict` if the
        start that used the key had other data. No error of Postgres is behind that, so a transaction of
        the caller's goes on unharmed.
        """
        statement = self._without_key if new.idempotency_key is None else self._with_key
        while True:
            created = self._first(connection, statement, _parameters(new))
            if created is not None:
                return StartedExecution(new.execution_id, True, instant(*created))
            key = {"workflow_id": new.workflow_id, "key": new.idempotency_key}
            if (used := self._first(connection, self._find_key, key)) is not None:
                return _started_before(new, used)
            # The key was removed in between, with the execution it had started; it starts anew.

    def _first(
        self, connection: Connection | None, statement: TextClause, parameters: dict[str, Any]
    ) -> Sequence[Any] | None:
        chosen: AbstractContextManager[Connection] = (
            autocommit(self._engine) if connection is None else nullcontext(connection)
        )
        with chosen as used:
            return used.execute(statement, parameters).first()


def _started_before(new: NewExecution, key: Sequence[Any]) -> StartedExecution:
    execution_id, fingerprint, created_at = key
    if fingerprint != new.fingerprint:
        raise IdempotencyConflict(new.workflow_id, new.idempotency_key or "", execution_id)
    return StartedExecution(execution_id, False, instant(created_at))


def _parameters(new: NewExecution) -> dict[str, Any]:
    return {
        "id": new.execution_id,
        "workflow_id": new.workflow_id,
        "version": new.version,
        "trigger_id": new.trigger_id,
        "trigger_node_id": new.trigger_node_id,
        "trigger_sub_type": new.trigger_sub_type,
        "trigger_label": new.trigger_label,
        "data": to_jsonb(new.data),
        "variables": to_jsonb(new.variables),
        "metadata": to_jsonb(dict(new.metadata)),
        "priority": new.priority,
        "idempotency_key": new.idempotency_key,
        "fingerprint": new.fingerprint,
        "parent_execution_id": new.parent_execution_id,
        "timeout": new.timeout,
        "token": str(uuid.uuid4()),
        "seq": FIRST_SEQ,
        "format": FORMAT,
    }
