"""Operators race with each other and with the workers, and the journal explains every outcome."""

from __future__ import annotations

import logging
import multiprocessing
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from support.fleet import Fleet
from support.polling import poll
from support.random_operators import EVENT, operate
from workflow_engine import ExecutionStatus, NodeStatus, Workflow, WorkflowBuilder
from workflow_engine.definition.graph import Graph
from workflow_engine.execution.states import Operation
from workflow_engine.execution.walk import Walk, node_statuses
from workflow_engine.postgres.executions.moves import ExecutionEvent

log = logging.getLogger(__name__)

RACING = "racing"
EXECUTIONS = 200
OPERATORS = 4
SECONDS = 5.0
"""The seconds for which the operators run."""
STANDSTILL = 15.0
"""Seconds without a commit after which an unfinished execution is stuck.

Less than the lease of a wake, so that a lost wake is found as well, and more than a busy machine takes to its
next commit.
"""


def test_executions_that_operators_race_for_end_as_their_journals_explain(own_fleet: Fleet) -> None:
    seed = random.randrange(10**6)
    log.warning("the seed of this race is %d", seed)  # shown if it fails
    own_fleet.add_workers("one", "two")
    workflow = racing_workflow()
    own_fleet.client.deploy(workflow)
    delays = random.Random(seed)
    executions = [own_fleet.start(RACING, {"delay": delays.randrange(100, 6000)}) for _ in range(EXECUTIONS)]

    made = race(own_fleet, executions, str(seed))
    log.warning("operators have made %s", dict(made))
    for execution_id in own_fleet.client.control.candidates(Operation.RESUME, workflow_id=RACING):
        own_fleet.client.control.resume(execution_id)
    for execution_id in executions:
        own_fleet.client.send_event(execution_id=execution_id, name=EVENT)
    wait_for_the_last(own_fleet)

    assert all(made[operation] for operation in ("pause", "resume", "cancel", "send_event"))
    assert made["pause refused"] + made["resume refused"] > 0, "they got in each other's way"
    for execution_id in executions:
        check_that_its_history_explains(own_fleet, Graph.of(workflow), execution_id)
    assert not rows(own_fleet, "SELECT * FROM execution_wait_states WHERE status IN ('WAITING', 'RESUMING')")
    poll(lambda: own_fleet.engine_keys() == set(), "Redis holds no key of the engine")
    poll(lambda: messages_in_broker(own_fleet) == 0, "the broker holds no message")


def racing_workflow() -> Workflow:
    """Return a workflow whose branches work, and wait for a time, a retry and an event."""
    flow = WorkflowBuilder(RACING)
    briefly = {"seconds": 0.02}
    again = {"maxAttempts": 3, "waitDuration": 300}
    branches = (
        flow.python("work", "test.takes", arguments=briefly),
        flow.delay("coolOff", duration="{{ _trigger.delay }}", unit="milliseconds"),
        flow.python("flaky", "test.succeeds_at_last", arguments={"attempt": 3}, retry=again),
        flow.wait_events("approval", [EVENT]),
    )
    begin, join = flow.trigger("begin"), flow.merge("join")
    for branch in branches:
        begin >> branch >> join
    join >> flow.python("last", "test.takes", arguments=briefly)
    return flow.build()


def race(fleet: Fleet, executions: list[str], seed: str) -> Counter[str]:
    """Run operators, each in a process of its own. Return all their moves."""
    with ProcessPoolExecutor(OPERATORS, multiprocessing.get_context("spawn")) as processes:
        operators = [
            processes.submit(operate, fleet.settings, executions, SECONDS, f"{seed}-{number}")
            for number in range(OPERATORS)
        ]
        return sum((operator.result() for operator in operators), Counter())


def wait_for_the_last(fleet: Fleet) -> None:
    """Wait until every execution has ended. Raises AssertionError once none of the others makes progress."""
    statement = "SELECT id::text, status, seq FROM executions WHERE completed_at IS NULL ORDER BY id"
    while standing := rows(fleet, statement):
        poll(
            lambda before=standing: rows(fleet, statement) != before, "an execution moves", timeout=STANDSTILL
        )


def messages_in_broker(fleet: Fleet) -> int:
    keys = fleet.keys()
    return sum(fleet.redis.llen(key) for key in keys if fleet.redis.type(key) == b"list")


def rows(fleet: Fleet, statement: str, execution_id: str | None = None) -> list[Any]:
    return fleet.engine.database.rows(statement, execution_id=execution_id)


# -- what holds for every execution, after any moves ------------------------------------------------------


def check_that_its_history_explains(fleet: Fleet, graph: Graph, execution_id: str) -> None:
    execution, events = fleet.client.get(execution_id), fleet.client.control.audit(execution_id)
    snapshot = fleet.engine.state.load_snapshot(execution_id)
    assert snapshot is not None
    journal = [row.entry for row in snapshot.journal]
    moves = [event for event in events if event.type != "EVENT"]

    assert [row.seq for row in journal] == list(range(1, execution.seq + 1)), "each commit has its row"
    finals = [(row.node_id, row.visit) for row in journal if row.status.is_final]
    assert len(finals) == len(set(finals)), "no node is committed twice for a visit"
    check_moves(execution.status, execution.seq, moves)
    walk = Walk.replay(graph, snapshot.trigger_node_id, journal)
    is_cancelled = execution.status is ExecutionStatus.CANCELLED
    statuses = node_statuses(graph, snapshot.trigger_node_id, journal, is_over=is_cancelled)
    if is_cancelled:
        assert not walk.is_finished, "there was something left to cancel"
        assert NodeStatus.CANCELLED in statuses.values()
    else:
        assert execution.status is ExecutionStatus.COMPLETED, execution.error
        assert walk.is_finished
        assert statuses == dict.fromkeys(graph.nodes, NodeStatus.COMPLETED)
        assert execution.result == 0.02, "the end has its output"
        check_waits(fleet, execution_id, events)


def check_moves(status: ExecutionStatus, seq: int, moves: Sequence[ExecutionEvent]) -> None:
    """Check that pauses and resumes alternate, that a cancel is final, and that a pause starts no node."""
    steps = [move for move in moves if move.type != "CANCELLED"]
    assert [move.type for move in steps] == (["PAUSED", "RESUMED"] * len(steps))[: len(steps)]
    assert (moves[-1:] != steps[-1:]) == (status is ExecutionStatus.CANCELLED)
    if status is ExecutionStatus.CANCELLED:
        assert [move.type for move in moves].index("CANCELLED") == len(moves) - 1
        assert moves[-1].seq == seq, "nothing was committed after it"
    places = [move.seq or 0 for move in moves] + [seq]
    assert places == sorted(places)
    for move, following in zip(moves, places[1:], strict=True):
        if move.type == "PAUSED":
            assert following - (move.seq or 0) <= 1, "only a node that ran already may end in a pause"


def check_waits(fleet: Fleet, execution_id: str, events: Sequence[ExecutionEvent]) -> None:
    """Check that every wait of a completed execution ended well, and that its event wait got its event."""
    statement = """
        SELECT node_id, wait_type, status, seq, received_events FROM execution_wait_states
        WHERE execution_id = %(execution_id)s ORDER BY node_id, seq
    """
    waits = rows(fleet, statement, execution_id)
    assert [tuple(wait[:3]) for wait in waits] == [
        ("approval", "EVENTS", "COMPLETED"),
        ("coolOff", "DELAY", "COMPLETED"),
        ("flaky", "RETRY", "COMPLETED"),
        ("flaky", "RETRY", "COMPLETED"),
    ]
    # Of several events of one name the first counts; the others were consumed with it or dropped.
    first = next(event for event in events if event.type == "EVENT" and event.seq is not None)
    assert (first.seq, {first.name: first.payload}) == tuple(waits[0][3:])
