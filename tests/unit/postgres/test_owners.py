"""Each state of an execution has one writer among the statements and functions of Postgres."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.repository import ROOT

POSTGRES = ROOT / "workflow_engine/postgres"

WRITERS = {
    r"completed_at = now\(\)": "end_execution_v1.sql",
    r"wake_requested = true": "request_wake_v1.sql",
    r"wake_requested = false": "take_wake_v1.sql",
    r"INSERT INTO \{s\}\.executions\b": "start_execution_v1.sql, start_executions_v1.sql",
    r"nodes_executed \+ (earlier \+ )?is_final": "commit_node_v2.sql",
    r"superseded_by = [a-z]": "move_execution_v1.sql",
}
"""What writes a state, and the file in which alone it stands, apart from older versions of a function.

One start and many at once have a function each; a test compares what they write.
"""


@pytest.mark.parametrize(("writes", "owner"), WRITERS.items(), ids=WRITERS.values())
def test_a_state_is_written_in_one_place(writes: str, owner: str) -> None:
    files = [*POSTGRES.rglob("*.py"), *filter(is_newest, POSTGRES.rglob("*.sql"))]

    assert ", ".join(sorted(file.name for file in files if re.search(writes, file.read_text()))) == owner


def is_newest(file: Path) -> bool:
    """Return whether a function's file is that of its last version."""
    name, _, version = file.stem.rpartition("_v")
    return not file.with_stem(f"{name}_v{int(version) + 1}").exists()
