"""Redis may lose or bring back anything at any moment: an execution ends as if nothing had happened."""

from __future__ import annotations

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import Execution, WorkflowBuilder
from workflow_engine.redis.keys import Keys

NOBODY = "nobody"
"""A queue that no worker serves: a node on it waits until the test delivers its message."""

UNDISTURBED = {"begin": {"order": 42}, "first": "one 42", "second": {"is": "two"}}


def test_undisturbed_it_ends_with_every_output(fleet: Fleet) -> None:
    execution_id = start(fleet)
    go_on(fleet, execution_id, "second", seq=2)
    go_on(fleet, execution_id, "last", seq=3)

    assert ended(fleet, execution_id).result == UNDISTURBED


def test_a_context_deleted_between_two_hops_is_recovered(fleet: Fleet) -> None:
    execution_id = start(fleet)
    assert fleet.redis.delete(context_key(fleet, execution_id)) == 1
    go_on(fleet, execution_id, "second", seq=2)
    assert fleet.redis.delete(context_key(fleet, execution_id)) == 1
    go_on(fleet, execution_id, "last", seq=3)

    assert ended(fleet, execution_id).result == UNDISTURBED


def test_an_older_copy_of_the_context_is_not_believed(fleet: Fleet) -> None:
    execution_id = start(fleet)
    key = context_key(fleet, execution_id)
    older = fleet.redis.dump(key)
    go_on(fleet, execution_id, "second", seq=2)
    fleet.redis.restore(key, 60_000, older, replace=True)
    go_on(fleet, execution_id, "last", seq=3)

    assert ended(fleet, execution_id).result == UNDISTURBED
    assert len(fleet.runs(execution_id, "second")) == 1


def test_an_older_copy_with_its_older_message_is_refused_by_the_fence(fleet: Fleet) -> None:
    execution_id = start(fleet)
    key = context_key(fleet, execution_id)
    older = fleet.redis.dump(key)
    go_on(fleet, execution_id, "second", seq=2)
    fleet.redis.restore(key, 60_000, older, replace=True)
    fleet.deliver(execution_id, "lost-context", "second", seq=2)

    # Not only refused, but left: the worker takes the lock once more to look for what is due.
    refused = "'REFUSED: the execution has moved on without this result'"
    poll(lambda: fleet.lines("lost-context/second", refused), "the second run has ended, and was refused")
    go_on(fleet, execution_id, "last", seq=3)
    assert ended(fleet, execution_id).result == UNDISTURBED
    assert [row.node_id for row in fleet.journal(execution_id)] == ["begin", "first", "second", "last"]
    assert {run.key for run in fleet.runs(execution_id, "second")} == {f"{execution_id}:second:1"}


def test_a_context_that_lost_a_part_is_not_believed(fleet: Fleet) -> None:
    execution_id = start(fleet)
    assert fleet.redis.hdel(context_key(fleet, execution_id), "output:first") == 1
    go_on(fleet, execution_id, "second", seq=2)
    go_on(fleet, execution_id, "last", seq=3)

    assert ended(fleet, execution_id).result == UNDISTURBED


def test_redis_wiped_while_a_node_runs_leaves_no_half_context(fleet: Fleet) -> None:
    flow = WorkflowBuilder("wiped")
    first = flow.python("first", "test.echo", arguments={"value": "one {{ begin.order }}"})
    second = flow.python("second", "test.gated", arguments={"value": {"is": "two"}})
    last = flow.python("last", "test.outputs", arguments={"of": list(UNDISTURBED)}, queue=NOBODY)
    flow.trigger("begin") >> first >> second >> last
    fleet.client.deploy(flow.build())
    execution_id = fleet.start("wiped", {"order": 42})
    fleet.begun(execution_id, "second")

    fleet.wipe_redis()  # with the queues and the lock
    fleet.open_gate(execution_id, "second")

    poll(lambda: len(fleet.journal(execution_id)) == 3, "the node that ran is committed")
    poll(lambda: not fleet.engine.locks.is_locked(execution_id), "the node is left")
    assert fleet.keys_of(execution_id) == []
    fleet.deliver(execution_id, "wiped", "last", seq=3)
    assert fleet.completed(execution_id).result == UNDISTURBED
    assert len(fleet.runs(execution_id, "second")) == 1


def test_a_queue_wiped_with_its_messages_goes_on_when_it_is_resumed(own_fleet: Fleet) -> None:
    fleet = own_fleet
    flow = WorkflowBuilder("wiped-queue")
    flow.trigger("begin") >> flow.python("only", "test.echo", arguments={"value": "{{ begin.order }}"})
    fleet.client.deploy(flow.build())
    execution_id = fleet.start("wiped-queue", {"order": 42})
    fleet.wipe_redis()
    fleet.add_worker("worker").ready()

    fleet.resume(execution_id)

    assert fleet.completed(execution_id).result == 42


def test_a_lock_taken_away_while_a_node_runs_is_taken_again(fleet: Fleet) -> None:
    flow = WorkflowBuilder("unlocked")
    flow.trigger("begin") >> flow.python("only", "test.gated")
    fleet.client.deploy(flow.build())
    execution_id = fleet.start("unlocked")
    fleet.begun(execution_id, "only")

    fleet.wipe_redis()

    poll(lambda: fleet.engine.locks.is_locked(execution_id), "the lock is taken again")
    fleet.open_gate(execution_id, "only")
    fleet.completed(execution_id)
    assert fleet.keys_of(execution_id) == []


def test_a_finished_execution_leaves_nothing_in_redis(fleet: Fleet) -> None:
    flow = WorkflowBuilder("leaves-nothing")
    begin = flow.trigger("begin")
    bad = flow.python("bad", "test.raises", arguments={"message": "no"}, on_error="continue")
    begin >> [flow.python("good", "test.echo"), bad]
    fleet.client.deploy(flow.build())

    ended = [fleet.completed(fleet.start("leaves-nothing")).id for _ in range(3)]

    # A caller that waits for the end reads it from Postgres, a moment before the last node is left.
    poll(lambda: not any(map(fleet.keys_of, ended)), "nothing in Redis names them any more")


def start(fleet: Fleet) -> str:
    """Start an execution whose first node is committed, and whose second has not been delivered."""
    flow = WorkflowBuilder("lost-context")
    first = flow.python("first", "test.echo", arguments={"value": "one {{ begin.order }}"})
    second = flow.python("second", "test.echo", arguments={"value": {"is": "two"}}, queue=NOBODY)
    last = flow.python("last", "test.outputs", arguments={"of": list(UNDISTURBED)}, queue=NOBODY)
    flow.trigger("begin") >> first >> second >> last
    fleet.client.deploy(flow.build())
    execution_id = fleet.start("lost-context", {"order": 42})
    committed_and_left(fleet, execution_id, seq=2)
    return execution_id


def go_on(fleet: Fleet, execution_id: str, node_id: str, seq: int) -> None:
    fleet.deliver(execution_id, "lost-context", node_id, seq)
    committed_and_left(fleet, execution_id, seq + 1)


def committed_and_left(fleet: Fleet, execution_id: str, seq: int) -> None:
    poll(lambda: len(fleet.journal(execution_id)) == seq, f"the journal has come to {seq}")
    poll(lambda: not fleet.engine.locks.is_locked(execution_id), "the lock is free")


def ended(fleet: Fleet, execution_id: str) -> Execution:
    execution = fleet.completed(execution_id)
    assert fleet.keys_of(execution_id) == []
    return execution


def context_key(fleet: Fleet, execution_id: str) -> str:
    return Keys.of(fleet.settings).context(execution_id)
