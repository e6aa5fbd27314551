"""Operators, events and the ends of children race on real workers: no deadlock, no tree that stands still."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from support.fleet import Fleet
from support.parents import MISCOUNTED, ORPHANS, WAITING_FOR_NOTHING, body, function, line, loop
from support.polling import poll
from support.random_operators import EVENT, operate_on_trees
from workflow_engine import ExecutionStatus
from workflow_engine.execution.states import Operation

PARENTS = 20
OPERATORS = 4

DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def racing_tree() -> dict[str, Any]:
    """Return a loop whose children wait for the events of other parents' children, too; one of them fails."""
    wait = {
        "id": "approval",
        "type": "logic",
        "subType": "wait-events",
        "config": {
            "correlationId": "tree-{{ item % 5 }}",
            "events": [{"name": EVENT}],
            "timeout": 10,
            "onTimeout": "continue",
        },
    }
    each = loop(
        "each",
        {"retry": {"maxAttempts": 2, "waitDuration": 100}},
        items=list(range(10)),
        concurrency=2,
        tolerate=1,
        body=body(function("before", "{{ item }}"), wait, function("after", "{{ 1 / (item - 7) }}")),
    )
    return line("tree", each, function("last", "{{ each | length }}"))


@pytest.mark.parametrize("seconds", [8.0, pytest.param(300.0, marks=pytest.mark.longest)])
def test_trees_that_operators_and_events_race_for_meet_no_deadlock(own_fleet: Fleet, seconds: float) -> None:
    own_fleet.add_workers("one", "two")
    client = own_fleet.client
    client.deploy(racing_tree())
    roots = [own_fleet.start("tree") for _ in range(PARENTS)]

    made = race(own_fleet, roots, seconds)
    for _ in range(3):
        for root in client.control.candidates(Operation.RESUME):
            client.control.resume(root, children=True)
    for (child,) in rows(own_fleet, "SELECT id::text FROM executions WHERE status = 'PAUSED'"):
        client.control.resume(child)
    poll(lambda: have_ended(own_fleet), "every execution has ended", timeout=90)

    assert all(made[operation] for operation in ("pause", "resume", "cancel", "send_event")), made
    assert rows(own_fleet, DEADLOCKS) == [(0,)]
    for broken in (WAITING_FOR_NOTHING, ORPHANS, MISCOUNTED):
        assert rows(own_fleet, broken) == []
    for root in roots:
        ended = client.get(root)
        assert ended.status is not ExecutionStatus.COMPLETED or ended.result == 10


def have_ended(fleet: Fleet) -> bool:
    """Send the events that are waited for, and return whether all executions have ended."""
    for number in range(5):
        fleet.client.send_event(f"tree-{number}", EVENT)
    return not rows(fleet, "SELECT FROM executions WHERE completed_at IS NULL")


def race(fleet: Fleet, roots: list[str], seconds: float) -> Counter[str]:
    """Run operators, each in a process of its own. Return all their moves."""
    with ProcessPoolExecutor(OPERATORS, multiprocessing.get_context("spawn")) as processes:
        operators = [
            processes.submit(operate_on_trees, fleet.settings, roots, seconds, f"seed-{number}")
            for number in range(OPERATORS)
        ]
        return sum((operator.result() for operator in operators), Counter())


def rows(fleet: Fleet, statement: str) -> list[Any]:
    return fleet.engine.database.rows(statement)
