"""Executions that wait are woken by any worker that lives: also if another has begun to, and died."""

from __future__ import annotations

import time

from fleet import Fleet, poll

from workflow_engine import NodeStatus, Settings, WorkflowBuilder
from workflow_engine.database import autocommit
from workflow_engine.engine import Engine


def deploy_waiting(fleet: Fleet, seconds: float) -> None:
    flow = WorkflowBuilder("waiting")
    pause = flow.python("pause", "test.waits", arguments={"seconds": seconds})
    flow.trigger("begin") >> pause >> flow.python("last", "test.echo", arguments={"value": "{{ pause }}"})
    fleet.client.deploy(flow.build())


def open_waits(fleet: Fleet) -> int:
    with autocommit(fleet.engine.state.engine) as connection:
        statement = "SELECT count(*) FROM execution_wait_states WHERE status IN ('WAITING', 'RESUMING')"
        count: int = connection.exec_driver_sql(statement).scalar_one()
    return count


def end_waits(fleet: Fleet) -> None:
    with autocommit(fleet.engine.state.engine) as connection:
        connection.exec_driver_sql("UPDATE execution_wait_states SET resume_at = now()")


def test_a_delay_that_began_on_one_worker_ends_on_another(own_fleet: Fleet) -> None:
    own_fleet.add_workers("one")
    deploy_waiting(own_fleet, seconds=2)
    execution_id = own_fleet.start("waiting", {"order": 42})
    own_fleet.begun(execution_id, "pause")
    poll(lambda: open_waits(own_fleet) == 1, 5, "the execution waits")
    before = own_fleet.engine.cache.load_context(execution_id).to_dict()

    assert own_fleet.workers[0].terminate() == 0
    own_fleet.wipe_redis()
    own_fleet.add_workers("two")
    after = own_fleet.engine.cache.load_context(execution_id).to_dict()
    execution = own_fleet.completed(execution_id)

    assert before == after
    assert execution.result == "time"
    runs = own_fleet.runs(execution_id, "pause")
    assert len(runs) == 2
    assert runs[0].key == runs[1].key == f"{execution_id}:pause:1"
    assert runs[1].process in own_fleet.workers[1].pool_pids
    waited, resumed = (row for row in own_fleet.journal(execution_id) if row.node_id == "pause")
    assert (waited.status, resumed.status) == (NodeStatus.WAITING, NodeStatus.COMPLETED)
    assert (resumed.started_at - waited.started_at).total_seconds() >= 2
    poll(lambda: own_fleet.engine_keys() == set(), 2, "Redis holds no key of the execution")


def test_a_wait_whose_claimer_died_is_claimed_again_by_a_worker(own_fleet: Fleet) -> None:
    deploy_waiting(own_fleet, seconds=3600)
    own_fleet.add_workers("one")
    execution_id = own_fleet.start("waiting")
    poll(lambda: open_waits(own_fleet) == 1, 5, "the execution waits")
    # So that this worker leaves the wait to the claimer who dies.
    own_fleet.workers[0].freeze()
    end_waits(own_fleet)
    claimer = Engine.assemble(Settings(**{**own_fleet.settings.model_dump(), "claim_lease": 1.0}))
    claimed = claimer.waits.claim_due()
    claimed_at = time.monotonic()
    own_fleet.workers[0].thaw()
    assert [wait.execution_id for wait in claimed] == [execution_id]

    # Its message is never sent.
    assert own_fleet.completed(execution_id, timeout=5).result == "time"
    assert time.monotonic() - claimed_at >= 0.9
    assert len(own_fleet.runs(execution_id, "pause")) == 2


def test_waits_that_are_over_in_the_same_second_are_each_published_once_by_two_workers(fleet: Fleet) -> None:
    deploy_waiting(fleet, seconds=3600)
    executions = [fleet.start("waiting") for _ in range(200)]
    poll(lambda: open_waits(fleet) == 200, 20, "all executions wait")
    began = time.monotonic()
    end_waits(fleet)

    for execution_id in executions:
        fleet.completed(execution_id)
    took = time.monotonic() - began

    assert took < 10
    # Begin, resume and the last node: a wait that was published twice would show a fourth task.
    assert {fleet.tasks(execution_id) for execution_id in executions} == {3}
    assert all(len(fleet.runs(execution_id, "pause")) == 2 for execution_id in executions)
    assert open_waits(fleet) == 0
