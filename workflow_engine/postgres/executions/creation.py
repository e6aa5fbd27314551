"""Creates executions, only once per idempotency key.

The call uses a connection of the engine's or one of the caller's, inside the caller's transaction and over
the caller's driver. Therefore every parameter is cast: drivers that leave its type to Postgres fail where the
type is ambiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from workflow_engine.errors import IdempotencyConflict
from workflow_engine.execution.ids import random_uuid
from workflow_engine.execution.records import (
    FIRST_SEQ,
    FORMAT,
    FailureStart,
    NewExecution,
    StartedExecution,
    WantedSlot,
)
from workflow_engine.postgres.database import Database, Statements
from workflow_engine.postgres.values import instant

START = "SELECT {s}.start_execution_v1(CAST(%(execution)s AS jsonb))"

START_MANY = "SELECT place, created_us FROM {s}.start_executions_v1(CAST(%(executions)s AS jsonb))"

NOT_THIS_WAY = 0
"""What `start_execution` returns in place of a time if it has found the way in changed."""

FIND_KEYS = """
SELECT k.key, CAST(k.execution_id AS text), k.fingerprint, e.trigger_node_id,
    CAST(extract(epoch FROM k.created_at) * 1000000 AS bigint)
FROM {s}.idempotency_keys k LEFT JOIN {s}.executions e ON e.id = k.execution_id
WHERE k.workflow_id = CAST(%(workflow_id)s AS text)
    AND k.key IN (SELECT jsonb_array_elements_text(CAST(%(keys)s AS jsonb)))
"""


@dataclass(frozen=True)
class Key:
    """An idempotency key, with the content by which two starts that use it are compared."""

    workflow_id: str
    key: str
    fingerprint: str
    trigger: str | None = None
    """The trigger node that the caller named, if it named one."""


@dataclass(frozen=True)
class UsedKey:
    """An idempotency key that has started an execution."""

    execution_id: str
    fingerprint: str
    trigger_node_id: str | None
    created_at: int
    """Microseconds since 1970."""

    def execution_of(self, key: Key) -> StartedExecution:
        """Return the execution, for an equal start. Raises `IdempotencyConflict` for one with other data."""
        if self.fingerprint != key.fingerprint or key.trigger not in (None, self.trigger_node_id):
            raise IdempotencyConflict(key.workflow_id, key.key, self.execution_id)
        return StartedExecution(self.execution_id, False, instant(self.created_at))


class WayInChanged(Exception):
    """The workflow or its trigger has been closed, or deployed again, since it was read."""


class ExecutionCreation:
    """Writes new executions to Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewExecution, within: Statements | None = None) -> StartedExecution:
        """Write an execution and its trigger's journal row; return the earlier execution for a used key.

        It is committed on return, unless it is written `within` a transaction of the caller's, whose errors
        are raised as they are. Raises `WayInChanged`, and `IdempotencyConflict` if the start that used
        the key had other data. Neither is an error of Postgres, so the caller's transaction goes on.
        """
        document = orjson.dumps(start_document(new)).decode()
        while True:
            ((created_at,),) = (within or self._database).rows(START, execution=document)
            if created_at == NOT_THIS_WAY:
                raise WayInChanged
            if created_at is not None:
                return StartedExecution(new.execution_id, True, instant(created_at))
            key = Key(
                new.workflow_id,
                new.idempotency_key or "",
                new.fingerprint,
                new.trigger_node_id if new.names_trigger else None,
            )
            if (before := self.started_before(key, within)) is not None:
                return before
            # The key was removed in between, with the execution it had started; the next try uses it.

    def create_many(
        self, new: Sequence[NewExecution], within: Statements | None = None
    ) -> list[StartedExecution]:
        """Write executions as `create` does, with one statement: all of them, or none if it raises."""
        if within is not None:
            return self._create_many(new, within)
        if all(each.idempotency_key is None for each in new):
            return self._create_many(new, self._database)  # a statement is a transaction
        with self._database.transaction() as transaction:
            return self._create_many(new, transaction)

    def _create_many(self, new: Sequence[NewExecution], statements: Statements) -> list[StartedExecution]:
        # By key, since two processes that use the same ones wait for each other.
        order = sorted(range(len(new)), key=lambda index: new[index].idempotency_key or "")
        documents = orjson.dumps([start_document(new[index]) for index in order]).decode()
        created: dict[int, int | None] = dict(statements.rows(START_MANY, executions=documents))
        started: dict[int, StartedExecution] = {}
        for place, index in enumerate(order, 1):
            each, created_at = new[index], created[place]
            started[index] = (
                self.create(each, statements)  # its key was used since it was looked up
                if created_at is None
                else StartedExecution(each.execution_id, True, instant(created_at))
            )
        return [started[index] for index in range(len(new))]

    def started_before(self, key: Key, within: Statements | None = None) -> StartedExecution | None:
        """Return the execution that an equal start with this key began; None if the key was not used.

        Raises `IdempotencyConflict` if the start that used the key had other data.
        """
        used = self.used_keys([key], within).get(key.key)
        return None if used is None else used.execution_of(key)

    def used_keys(self, keys: Sequence[Key], within: Statements | None = None) -> dict[str, UsedKey]:
        """Return those of these keys, all of one workflow, that have started an execution."""
        if not keys:
            return {}
        names = orjson.dumps([key.key for key in keys]).decode()
        rows = (within or self._database).rows(FIND_KEYS, workflow_id=keys[0].workflow_id, keys=names)
        return {key: UsedKey(*used) for key, *used in rows}


def start_document(new: NewExecution) -> dict[str, Any]:
    """Return the document for `start_execution`, without empty fields."""
    document = {
        "execution_id": new.execution_id,
        "workflow_id": new.workflow_id,
        "version": new.version,
        "trigger_id": new.trigger_id,
        "trigger_node_id": new.trigger_node_id,
        "trigger_sub_type": new.trigger_sub_type,
        "trigger_label": new.trigger_label,
        "data": orjson.Fragment(new.data),
        "variables": orjson.Fragment(new.variables),
        "metadata": dict(new.metadata),
        "user_metadata": None if new.user_metadata is None else orjson.Fragment(new.user_metadata),
        "tags": new.tags or None,
        "due": new.due or None,
        "queue_timeouts": dict(new.queue_timeouts) or None,
        "queue": new.queue,
        "priority": new.priority,
        "due_queue": new.due_queue,
        "due_priority": new.due_priority,
        "idempotency_key": new.idempotency_key,
        "fingerprint": new.fingerprint,
        "body": new.body,
        "timeout": new.timeout,
        "limits": slot_documents(new.limits) or None,
        "way_in": new.way_in,
        "token": random_uuid(),
        "seq": FIRST_SEQ,
        "format": FORMAT,
    }
    return {name: value for name, value in document.items() if value is not None}


def failure_document(start: FailureStart) -> dict[str, Any]:
    """Return what `end_execution` starts beside the end of a failed execution, or why it does not."""
    begins = {} if start.new is None else {"start": start_document(start.new)}
    refused = {} if start.refused is None else {"refused": start.refused}
    return {"workflow_id": start.workflow_id, **begins, **refused}


def slot_documents(wanted: Sequence[WantedSlot]) -> list[dict[str, Any]]:
    """Return slots in the form in which the functions in Postgres read them."""
    return [{name: value for name, value in asdict(each).items() if value is not None} for each in wanted]
