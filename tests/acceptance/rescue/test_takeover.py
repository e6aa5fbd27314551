"""A killed worker's nodes go on elsewhere within seconds; a frozen worker keeps its nodes."""

from __future__ import annotations

import signal
import time
from urllib.parse import urlsplit

import pytest

from support.fleet import Fleet
from support.relays import LossyRelay
from workflow_engine import WorkflowBuilder

FROZEN = 20.0
"""Seconds for which a worker is frozen, as a machine may be that is moved."""


@pytest.fixture
def own_fleet(own_fleet: Fleet) -> Fleet:
    """Return a fleet whose locks, and whose claims to waits, do not expire within a test."""
    long = {"lock_expiry": 600.0, "stall_after": 600.0, "claim_lease": 600.0}
    own_fleet.settings = own_fleet.settings.model_copy(update=long)
    return own_fleet


def test_the_nodes_of_a_killed_worker_run_again_long_before_their_locks_expire(own_fleet: Fleet) -> None:
    own_fleet.add_workers("killed", concurrency=3)
    flow = WorkflowBuilder("both", settings={"concurrency": 2})
    begin, joined = flow.trigger("begin"), flow.merge("joined")
    for name in ("a", "b"):
        begin >> flow.python(name, "test.gated", arguments={"value": name}) >> joined
    own_fleet.client.deploy(flow.build())
    flow = WorkflowBuilder("gate")
    flow.trigger("begin") >> flow.python("gated", "test.gated")
    own_fleet.client.deploy(flow.build())
    both, one = own_fleet.start("both"), own_fleet.start("gate")
    places = [(both, "a"), (both, "b"), (one, "gated")]
    for execution_id, node_id in places:
        own_fleet.begun(execution_id, node_id)

    own_fleet.workers[0].container.kill_group(signal.SIGKILL)
    own_fleet.add_workers("other", concurrency=3)

    for execution_id, node_id in places:
        own_fleet.begun(execution_id, node_id, times=2)
        own_fleet.open_gate(execution_id, node_id)
    assert own_fleet.completed(both).result == {"a": "a", "b": "b"}
    own_fleet.completed(one)
    assert len({run.key for run in own_fleet.runs(both, "a")}) == 1


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_worker_behind_a_network_that_loses_packets_keeps_its_nodes(own_fleet: Fleet) -> None:
    """Lose four of ten packets between one of two workers and Redis; each node still runs once."""
    flow = WorkflowBuilder("lossy")
    last = flow.trigger("begin")
    for number in range(3):
        last = last >> flow.python(f"node{number}", "test.echo")
    own_fleet.client.deploy(flow.build())
    redis_url = own_fleet.settings.redis_url
    with LossyRelay(redis_url, loss=0.4) as relay:
        behind = redis_url.replace(f":{urlsplit(redis_url).port}/", f":{relay.port}/")
        lossy = own_fleet.add_worker("behind", concurrency=3, WORKFLOW_ENGINE_REDIS_URL=behind)
        lossy.ready()
        executions = [own_fleet.start("lossy") for _ in range(20)]
        own_fleet.begun(executions[2], "node0")
        own_fleet.add_workers("other", concurrency=1)
        for execution_id in executions:
            own_fleet.completed(execution_id, 200)
        processes = lossy.pool_pids
        own_fleet.end()

    runs = {(each, f"node{number}"): 1 for each in executions for number in range(3)}
    assert {key: len(own_fleet.runs(*key)) for key in runs} == runs
    assert processes & {run.process for key in runs for run in own_fleet.runs(*key)}
    assert not own_fleet.lines("has died with node")


@pytest.mark.long
def test_a_worker_that_is_frozen_for_twenty_seconds_is_not_taken_for_dead(own_fleet: Fleet) -> None:
    own_fleet.add_workers("frozen", concurrency=1)
    flow = WorkflowBuilder("gate")
    flow.trigger("begin") >> flow.python("gated", "test.gated")
    own_fleet.client.deploy(flow.build())
    execution_id = own_fleet.start("gate")
    own_fleet.begun(execution_id, "gated")
    own_fleet.add_workers("other", concurrency=1)

    own_fleet.workers[0].freeze()
    try:
        time.sleep(FROZEN)
    finally:
        own_fleet.workers[0].thaw()

    own_fleet.open_gate(execution_id, "gated")
    own_fleet.completed(execution_id)
    assert len(own_fleet.runs(execution_id, "gated")) == 1
    assert not own_fleet.lines("has died with node")
