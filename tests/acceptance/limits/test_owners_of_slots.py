"""The slot of a killed worker is used again, and a burst of one tenant does not hold up another."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import Start, Workflow, WorkflowBuilder

ONE: list[dict[str, Any]] = [{"key": "one", "concurrency": 1}]


def gate(name: str, **options: Any) -> Workflow:
    flow = WorkflowBuilder(name)
    flow.trigger("begin") >> flow.python("gated", "test.gated", limits=ONE, **options)
    return flow.build()


def test_the_slot_of_a_worker_that_was_killed_goes_to_the_next_in_line(
    own_fleet: Fleet, record_property: Any
) -> None:
    own_fleet.settings = own_fleet.settings.model_copy(update={"lock_expiry": 600.0, "stall_after": 600.0})
    killed = own_fleet.add_worker("killed", "-Q", "elsewhere", concurrency=1)
    other = own_fleet.add_worker("other", concurrency=1)
    killed.ready()
    other.ready()
    own_fleet.client.deploy(gate("holder", queue="elsewhere"))  # nobody else could run it again
    own_fleet.client.deploy(gate("waiter"))
    holder = own_fleet.start("holder")
    own_fleet.begun(holder, "gated")
    waiter = own_fleet.start("waiter")
    poll(lambda: own_fleet.client.get(waiter).status.value == "WAITING", "the second stands in line")

    killed.container.kill_group(signal.SIGKILL)
    at = time.monotonic()
    own_fleet.begun(waiter, "gated")
    record_property("measured", f"a killed owner's slot: free after {time.monotonic() - at:.1f} s")

    own_fleet.open_gate(waiter, "gated")
    own_fleet.completed(waiter)


@pytest.mark.parametrize("starts", [50, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_burst_of_one_tenant_leaves_the_way_free_for_another(
    own_fleet: Fleet, record_property: Any, starts: int
) -> None:
    own_fleet.add_workers("one", "two")
    flow = WorkflowBuilder("tenants", limits=[{"key": "tenant:{{ begin.tenant }}", "concurrency": 2}])
    flow.trigger("begin") >> flow.python("gated", "test.gated")
    own_fleet.client.deploy(flow.build())
    started = own_fleet.client.start_many("tenants", [Start({"tenant": "a"})] * starts)
    burst = [each.id for each in started]
    for execution_id in burst[:2]:
        own_fleet.begun(execution_id, "gated")

    at = time.monotonic()
    single = own_fleet.start("tenants", {"tenant": "b"})
    own_fleet.open_gate(single, "gated")
    own_fleet.completed(single)
    took = time.monotonic() - at
    record_property("measured", f"a start beside {starts:,} of another tenant: done after {took:.2f} s")

    use = own_fleet.client.control.limits.get("tenant:a")
    assert use is not None
    assert (use.held, use.waiting) == (2, starts - 2)
    own_fleet.client.control.limits.set("tenant:a", concurrency=3)
    own_fleet.begun(burst[2], "gated")
    for execution_id in burst[:4]:
        own_fleet.open_gate(execution_id, "gated")
        own_fleet.completed(execution_id)
