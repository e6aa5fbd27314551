"""An execution of three nodes that a test can break, or act in the middle of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.nodes.breakable import first, forget, second, third
from support.workflows import line
from workflow_engine import WorkflowClient


@pytest.fixture(autouse=True)
def _nothing_is_broken() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """Return a PENDING execution of three nodes in a row, its first message in the broker."""
    client.deploy(line(first, second, third))
    return client.start("line").id
