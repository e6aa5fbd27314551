"""An execution of three nodes that count their calls."""

from __future__ import annotations

import pytest

from support.nodes.line_of_three import calls, start_three_nodes
from workflow_engine import WorkflowClient


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    calls.clear()


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """Return the id of an execution of three nodes, just started."""
    return start_three_nodes(client)
