"""Reads single steps of one execution: whether it has moved, the values of a row, the context as of a row.

Values are left out if they are larger than a page can show; their size is read in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflow_engine.errors import ExecutionNotFound
from workflow_engine.execution.ids import checked_id
from workflow_engine.postgres.database import Database

LARGEST_VALUE = 65_536
"""Bytes of one value as JSON; larger ones are not read."""

LARGEST_IN_CONTEXT = 8_192
"""Bytes of one output among many."""

LARGEST_CONTEXT = 300
"""Outputs of one context that are read."""

# A large value is not unpacked to find out how large it is.
SIZE = """
    CASE WHEN pg_column_size({value}) <= %(largest)s THEN octet_length({value}::text)
        ELSE pg_column_size({value}) END
"""


def _bounded(value: str) -> str:
    """Return the columns of a value: itself unless it is too large, and its size."""
    size = SIZE.replace("{value}", value)
    return f"CASE WHEN {size} <= %(largest)s THEN {value} END, {size}"


STANDING = """
SELECT e.status, e.seq, e.updated_at, e.workflow_version,
    (SELECT count(*) FROM {s}.execution_events v WHERE v.execution_id = e.id),
    (SELECT max(w.resumed_at) FROM {s}.execution_wait_states w WHERE w.execution_id = e.id)
FROM {s}.executions e WHERE e.id = %(id)s
"""

VALUES = """
SELECT {input}, {output}, n.variables
FROM {s}.node_executions n WHERE n.execution_id = %(id)s AND n.seq = %(seq)s
""".replace("{input}", _bounded("n.input_data")).replace("{output}", _bounded("n.output_data"))

# A row counts as of a `seq` unless it had been superseded by then.
CONTEXT_AT = """
SELECT DISTINCT ON (n.node_id) n.node_id, n.seq, {output}
FROM {s}.node_executions n
WHERE n.execution_id = %(id)s AND n.seq <= %(seq)s AND n.output_data IS NOT NULL
    AND (n.superseded_by IS NULL OR n.superseded_by > %(seq)s)
ORDER BY n.node_id, n.seq DESC LIMIT %(most)s
""".replace("{output}", _bounded("n.output_data"))

VARIABLES_AT = """
SELECT n.variables FROM {s}.node_executions n
WHERE n.execution_id = %(id)s AND n.seq <= %(seq)s AND n.variables IS NOT NULL
    AND (n.superseded_by IS NULL OR n.superseded_by > %(seq)s)
    AND pg_column_size(n.variables) <= %(largest)s
ORDER BY n.seq
"""


@dataclass(frozen=True)
class Standing:
    """What changes whenever an execution moves."""

    status: str
    seq: int
    updated_at: datetime
    version: int
    events: int
    resumed_at: datetime | None


@dataclass(frozen=True)
class StoredValue:
    """A JSON value, or only its size if it is too large to be read."""

    value: Any
    size: int | None
    """Bytes, packed if it is left out; None if there is no value."""
    is_left_out: bool


@dataclass(frozen=True)
class RowValues:
    """The values of one journal row."""

    input: StoredValue
    output: StoredValue
    variables: dict[str, Any] | None


@dataclass(frozen=True)
class ContextAt:
    """The context as of a journal row."""

    seq: int
    outputs: dict[str, StoredValue]
    variables: dict[str, Any]
    is_cut_off: bool
    """There are more outputs than `LARGEST_CONTEXT`."""


class ExecutionSteps:
    """Reads steps of executions. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def standing(self, execution_id: str) -> Standing:
        """Return where an execution stands, by one small statement. Raises `ExecutionNotFound`."""
        if (row := self._database.first(STANDING, id=checked_id(execution_id))) is None:
            raise ExecutionNotFound(execution_id)
        return Standing(*row)

    def values(self, execution_id: str, seq: int, *, largest: int = LARGEST_VALUE) -> RowValues | None:
        """Return the values of a journal row; None if there is no such row."""
        row = self._database.first(VALUES, id=checked_id(execution_id), seq=seq, largest=largest)
        if row is None:
            return None
        return RowValues(_stored(row[0], row[1], largest), _stored(row[2], row[3], largest), row[4])

    def context_at(self, execution_id: str, seq: int) -> ContextAt:
        """Return the context as it was once a journal row had been committed."""
        given = {"id": checked_id(execution_id), "seq": seq, "largest": LARGEST_IN_CONTEXT}
        rows = self._database.rows(CONTEXT_AT, most=LARGEST_CONTEXT + 1, **given)
        variables: dict[str, Any] = {}
        for (changed,) in self._database.rows(VARIABLES_AT, **given):
            variables.update(changed)
        outputs = {
            node_id: _stored(value, size, LARGEST_IN_CONTEXT)
            for node_id, _, value, size in sorted(rows[:LARGEST_CONTEXT], key=lambda row: row[1])
        }
        return ContextAt(seq, outputs, variables, len(rows) > LARGEST_CONTEXT)


def _stored(value: Any, size: int | None, largest: int) -> StoredValue:
    return StoredValue(value, size, is_left_out=size is not None and size > largest)
