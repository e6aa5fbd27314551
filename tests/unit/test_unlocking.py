"""The result of a call that unlocks an execution is never dropped: it reports a waiter."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import workflow_engine

UNLOCKING = {"release_lock", "release_abandoned", "finish", "discard", "update_context", "unlock"}
ROOMS = ("client.py", "control", "engine", "maintenance", "redis")


def dropped_results(source: str) -> list[str]:
    """Return the calls that unlock and stand as statements of their own."""
    statements = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr))
    return [
        ast.unparse(call)
        for call in statements
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in UNLOCKING
    ]


def test_a_dropped_result_is_found() -> None:
    assert dropped_results("locks.release_lock(claim)") == ["locks.release_lock(claim)"]
    assert dropped_results("unlocked = locks.release_lock(claim)") == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_result_of_unlocking_is_used(room: str) -> None:
    path = Path(workflow_engine.__file__).parent / room
    sources = list(path.rglob("*.py")) or [path]

    assert [call for source in sources for call in dropped_results(source.read_text())] == []
