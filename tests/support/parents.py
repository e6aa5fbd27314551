"""Definitions with children, in the form in which a body is written; and what must hold of all trees."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

WAITING_FOR_NOTHING = """
SELECT w.execution_id, w.seq, w.details FROM execution_wait_states w
WHERE w.wait_type = 'CHILDREN' AND w.status = 'WAITING' AND w.children_due IS NULL AND NOT EXISTS (
    SELECT FROM executions c WHERE c.parent_execution_id = w.execution_id AND c.parent_seq = w.seq
    AND c.completed_at IS NULL)
"""

ORPHANS = """
SELECT c.id FROM executions c JOIN execution_wait_states w
    ON w.execution_id = c.parent_execution_id AND w.seq = c.parent_seq AND w.wait_type = 'CHILDREN'
WHERE c.completed_at IS NULL AND w.status NOT IN ('WAITING', 'RESUMING') AND w.children_due IS NULL
    AND NOT w.children ? 'outlives'
"""

MISCOUNTED = """
SELECT w.execution_id, w.seq, w.details, count(c.id) FILTER (WHERE c.completed_at IS NULL)
FROM execution_wait_states w LEFT JOIN executions c
    ON c.parent_execution_id = w.execution_id AND c.parent_seq = w.seq
WHERE w.wait_type = 'CHILDREN' AND w.status = 'WAITING'
GROUP BY w.id
HAVING count(c.id) FILTER (WHERE c.completed_at IS NULL) <> (w.details->>'running')::int
"""

TRIGGER = {"id": "start", "type": "trigger", "subType": "manual"}


def line(name: str, *nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a workflow whose nodes follow one another."""
    return {"id": name, **body(TRIGGER, *nodes), **more}


def body(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return nodes that follow one another, and the edges between them."""
    edges = [{"source": before["id"], "target": after["id"]} for before, after in pairwise(nodes)]
    return {"nodes": list(nodes), "edges": edges, **more}


def function(node_id: str, expression: str, **more: Any) -> dict[str, Any]:
    """Return a node whose output is the value of an expression."""
    return {
        "id": node_id,
        "type": "action",
        "subType": "function",
        "config": {"expression": expression},
        **more,
    }


def sub_workflow(node_id: str, more: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "logic", "subType": "sub-workflow", "config": config, **(more or {})}


def loop(node_id: str, more: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "logic", "subType": "loop", "config": config, **(more or {})}


def delay(node_id: str, seconds: float) -> dict[str, Any]:
    config = {"duration": seconds, "unit": "seconds"}
    return {"id": node_id, "type": "logic", "subType": "delay", "config": config}
