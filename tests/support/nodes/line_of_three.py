"""An execution of three nodes that count their calls."""

from __future__ import annotations

from support.workflows import line
from workflow_engine import NodeStatus, WorkflowClient

calls: list[str] = []
"""The nodes that have run, in their order."""


def first() -> str:
    calls.append("first")
    return "from first"


def second() -> str:
    calls.append("second")
    return "from second"


def third() -> str:
    calls.append("third")
    return "from third"


def start_three_nodes(client: WorkflowClient) -> str:
    """Start an execution, and return its id."""
    client.deploy(line(first, second, third))
    return client.start("line").id


def journal(client: WorkflowClient, execution: str) -> list[tuple[int, str, NodeStatus]]:
    return [(row.seq, row.node_id, row.status) for row in client.journal(execution)]


WHOLE_JOURNAL = [
    (1, "start", NodeStatus.COMPLETED),
    (2, "first", NodeStatus.COMPLETED),
    (3, "second", NodeStatus.COMPLETED),
    (4, "third", NodeStatus.COMPLETED),
]
