"""The functions that check rows name the same statuses as the enumerations."""

from __future__ import annotations

import re

import pytest

from workflow_engine.execution.states import FINISHED, ExecutionStatus, NodeStatus, SupersededFor
from workflow_engine.postgres.functions import definition

NOT_STORED = {NodeStatus.RUNNING, NodeStatus.SKIPPED}

EXPECTED = {
    "check_execution_v1": [set(ExecutionStatus), FINISHED],
    "check_node_execution_v1": [set(NodeStatus) - NOT_STORED, set(SupersededFor), {"COMPLETED", "FAILED"}],
}


@pytest.mark.parametrize(("function", "expected"), EXPECTED.items(), ids=EXPECTED)
def test_the_lists_are_those_of_the_enumerations(function: str, expected: list[set[str]]) -> None:
    lists = re.findall(r"'\{([A-Z,]+)\}'", definition(f"checks/{function}", "public"))

    assert [set(each.split(",")) for each in lists] == expected
