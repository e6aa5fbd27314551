"""Many children on real workers, in small form with every run and in large form by `make longest`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.fleet import Fleet
from support.parents import ORPHANS, WAITING_FOR_NOTHING, body, delay, function, line, loop
from support.polling import poll
from workflow_engine import ExecutionStatus

longest = pytest.mark.longest


def rows(fleet: Fleet, statement: str, parent: str | None = None) -> list[Any]:
    return fleet.engine.database.rows(statement, parent=parent)


def unfinished_children(fleet: Fleet, parent: str) -> int:
    statement = (
        "SELECT count(*) FROM executions WHERE parent_execution_id = %(parent)s AND completed_at IS NULL"
    )
    count: int = rows(fleet, statement, parent)[0][0]
    return count


@pytest.mark.parametrize("items", [60, pytest.param(10_000, marks=longest)])
def test_each_item_has_its_result_though_workers_are_killed_and_redis_is_wiped(
    own_fleet: Fleet, items: int
) -> None:
    own_fleet.settings = own_fleet.settings.model_copy(update={"stall_after": 3.0, "lock_expiry": 3.0})
    own_fleet.add_workers("one", "two")
    inner = body(function("one", "{{ item }}"), delay("briefly", 0.1), function("two", "{{ one * 10 }}"))
    own_fleet.client.deploy(line("many", loop("each", items=list(range(items)), concurrency=8, body=inner)))
    execution = own_fleet.start("many")

    for number in range(max(2, items // 500)):
        done = items * (number + 1) // (max(2, items // 500) + 1)
        poll(lambda done=done: ended(own_fleet, execution) >= done, f"{done} have ended", timeout=120)
        assert rows(own_fleet, WAITING_FOR_NOTHING) == []
        assert rows(own_fleet, ORPHANS) == []
        worker = own_fleet.workers[number % 2]
        os.kill(min(worker.pool_pids), signal.SIGKILL)
        own_fleet.wipe_redis()
    result = own_fleet.completed(execution, timeout=max(120.0, items / 10)).result

    assert result == [item * 10 for item in range(items)]
    assert len(own_fleet.journal(execution)) == 3
    assert rows(own_fleet, "SELECT count(*) FROM executions") == [(items + 1,)]


def ended(fleet: Fleet, parent: str) -> int:
    statement = (
        "SELECT count(*) FROM executions WHERE parent_execution_id = %(parent)s AND completed_at IS NOT NULL"
    )
    count: int = rows(fleet, statement, parent)[0][0]
    return count


@pytest.mark.parametrize("children", [100, pytest.param(1_000, marks=longest)])
@pytest.mark.parametrize("is_killed", [False, True], ids=["canceller lives", "canceller is killed"])
def test_a_cancel_reaches_all_children_in_time(own_fleet: Fleet, children: int, is_killed: bool) -> None:
    own_fleet.add_workers("one")
    own_fleet.client.deploy(
        line(
            "wide",
            loop("each", items=list(range(children)), concurrency=children, body=body(delay("cool", 3600))),
        )
    )
    parent = own_fleet.start("wide")
    waiting = "SELECT count(*) FROM executions WHERE status = 'WAITING' AND parent_execution_id = %(parent)s"
    poll(lambda: rows(own_fleet, waiting, parent)[0][0] == children, "all children wait", timeout=120)

    began = time.monotonic()
    if is_killed:
        kill_after_its_move(own_fleet, parent)
    else:
        own_fleet.client.control.cancel(parent)
    poll(lambda: unfinished_children(own_fleet, parent) == 0, "all children have ended", timeout=30)

    assert time.monotonic() - began < 15
    cancelled = "SELECT DISTINCT status FROM executions"
    assert rows(own_fleet, cancelled) == [("CANCELLED",)]


def kill_after_its_move(fleet: Fleet, execution: str) -> None:
    """Cancel an execution in a process that is killed once the move has been committed."""
    code = (
        "import os, signal, sys\n"
        "from workflow_engine import WorkflowClient\n"
        "client = WorkflowClient()\n"
        "client.control.descendants.see_to = lambda executions: os.kill(os.getpid(), signal.SIGKILL)\n"
        "client.control.cancel(sys.argv[1])\n"
    )
    urls = {
        "WORKFLOW_ENGINE_DATABASE_URL": fleet.settings.database_url,
        "WORKFLOW_ENGINE_REDIS_URL": fleet.settings.redis_url,
    }
    killed = subprocess.run([sys.executable, "-c", code, execution], env={**os.environ, **urls}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert fleet.client.get(execution).status is ExecutionStatus.CANCELLED


@pytest.mark.parametrize("polls", [20, pytest.param(10_000, marks=longest)])
def test_polls_hold_no_worker_between_two_questions(own_fleet: Fleet, polls: int) -> None:
    own_fleet.add_workers("one")
    own_fleet.client.deploy(
        line(
            "poll",
            loop(
                "ask",
                until="{{ _index >= 3 }}",
                wait={"duration": 2 if polls < 100 else 60, "unit": "seconds"},
                body=body(function("state", "{{ _index }}")),
            ),
        )
    )
    executions = [own_fleet.start("poll") for _ in range(polls)]

    if polls < 100:
        between = "SELECT count(*) FROM execution_wait_states WHERE children_due > now()"
        poll(lambda: rows(own_fleet, between)[0][0] == polls, "all of them wait for the next question")
        assert not [key for key in own_fleet.engine_keys() if ":lock" in key or key.startswith("lock")]
    for execution in executions:
        assert own_fleet.completed(execution, timeout=3600).result["iterations"] == 3
    most = (
        "SELECT max(n) FROM (SELECT count(*) AS n FROM node_executions "
        "JOIN executions e ON e.id = execution_id "
        "WHERE e.parent_execution_id IS NULL GROUP BY e.id) AS of_parents"
    )
    assert rows(own_fleet, most)[0][0] <= 1 + 2 * 3


def test_a_wide_loop_does_not_delay_a_new_execution(own_fleet: Fleet) -> None:
    own_fleet.add_workers("one")
    small: Callable[[], str] = lambda: own_fleet.start("small")  # noqa: E731 - a name for what is timed
    own_fleet.client.deploy(line("small", function("one", "{{ 1 }}")))
    own_fleet.completed(small())
    wide = loop("each", items=list(range(10_000)), concurrency=8, body=body(function("one", "{{ item }}")))
    own_fleet.client.deploy(line("wide", wide))
    parent = own_fleet.start("wide")
    poll(lambda: ended(own_fleet, parent) > 20, "the loop is under way")

    began = time.monotonic()
    own_fleet.completed(small())

    assert time.monotonic() - began < 1
    own_fleet.client.control.cancel(parent)
    poll(lambda: unfinished_children(own_fleet, parent) == 0, "its children have ended")
