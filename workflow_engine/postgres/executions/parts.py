"""Parts of a node's work that are done: each is stored at once, until the node commits all of them."""

from __future__ import annotations

from workflow_engine.execution.records import DonePart
from workflow_engine.json_values import decode_jsonb
from workflow_engine.postgres.database import Database

SAVE = """
SELECT {s}.save_part_v1(
    %(execution_id)s, %(node_id)s, %(visit)s, %(place)s, %(fence)s, %(token)s, %(attempt)s, %(value)s)
"""

DONE = """
SELECT value::text, attempt FROM {s}.node_parts
WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s AND visit = %(visit)s ORDER BY place
"""


class Parts:
    """The parts of the work of nodes, in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def done(self, execution_id: str, node_id: str, visit: int) -> list[DonePart]:
        """Return the parts that are done, from the first on."""
        rows = self._database.rows(DONE, execution_id=execution_id, node_id=node_id, visit=visit)
        return [DonePart(decode_jsonb(value), attempt) for value, attempt in rows]

    def save(
        self,
        execution_id: str,
        node_id: str,
        visit: int,
        place: int,
        value: bytes,
        *,
        fence: str | None,
        token: str,
        attempt: int,
    ) -> bool:
        """Store the value of a part. Return False if the execution has moved on without its worker.

        With one `token`, that of the run, it is safe to repeat. Without a `fence` only the end of the
        execution, or another worker that has done the part, refuses it.
        """
        ((is_kept,),) = self._database.rows(
            SAVE,
            execution_id=execution_id,
            node_id=node_id,
            visit=visit,
            place=place,
            fence=fence,
            token=token,
            attempt=attempt,
            value=value.decode(),
        )
        return bool(is_kept)
