"""The faults that meet a worker on its walk, with executions that are walked inline.

The others differ in nothing but what comes before and after a slice, and are in `test_faults`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from faults.catalogue import FAULTS
from faults.fault import SHORT, Fault
from faults.report import plain
from faults.servers import Servers
from faults.verdict import judge

INLINE = replace(SHORT, hops="inline")
ON_A_WALK = {"process-killed", "redis-flushed", "postgres-away", "worker-frozen", "node-poisoned"}


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.name in ON_A_WALK], ids=lambda fault: fault.name
)
def test_nothing_is_lost_and_nothing_is_committed_twice_on_a_walk_inline(
    fault: Fault, servers_to_break: Servers, request: pytest.FixtureRequest
) -> None:
    verdict = judge(fault, INLINE, servers_to_break)
    request.node.user_properties.append(("measured", plain(verdict)))

    assert not verdict.problems, "\n".join(verdict.problems)
