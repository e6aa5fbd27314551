"""Three nodes that a test can break, or act in the middle of, and a wait as one of them would begin it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workflow_engine import ExecutionContext

keys: list[str] = []
"""The idempotency keys of the nodes that were run, in order."""
broken: set[str] = set()
"""Nodes that fail."""
during: dict[str, Callable[[], object]] = {}
"""The action while a node runs, which happens once."""


def forget() -> None:
    """Mend all nodes, and clear the list of those that have run."""
    keys.clear()
    broken.clear()
    during.clear()


def step(name: str) -> Callable[[ExecutionContext], str]:
    """Return a node of this name, which records its idempotency key and fails while it is broken."""

    def run(context: ExecutionContext) -> str:
        keys.append(context.idempotency_key.partition(":")[2])
        during.pop(name, lambda: None)()
        if name in broken:
            raise RuntimeError(f"{name} is broken")
        return f"{name} {len(keys)}"

    run.__name__ = name
    return run


first, second, third = step("first"), step("second"), step("third")


def let_wait(sql: Callable[..., Any], execution: str, node_id: str, *, seconds: int = 3600) -> None:
    """Write what the commit of a node that waits for a time writes."""
    sql(
        """
        WITH moved AS (
            UPDATE executions SET status = 'WAITING', seq = seq + 1, fence = gen_random_uuid()
            WHERE id = %s RETURNING id, seq
        ), journalled AS (
            INSERT INTO node_executions
                (execution_id, seq, node_id, type, sub_type, status, token, started_at, duration_ms)
            SELECT id, seq, %s, 'action', 'python', 'WAITING', gen_random_uuid(), now(), 0 FROM moved
        )
        INSERT INTO execution_wait_states (execution_id, node_id, seq, wait_type, resume_at)
        SELECT id, %s, seq, 'DELAY', now() + %s * interval '1 second' FROM moved
        """,
        execution,
        node_id,
        node_id,
        seconds,
    )
