"""Faults that meet a worker on its walk cost nothing where it runs several nodes, or branches run at once.

The others only differ before and after a slice or a hop, and are in `test_faults`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from faults.catalogue import FAULTS
from faults.fault import SHORT, Fault
from faults.report import plain
from faults.servers import Servers
from faults.verdict import judge

pytestmark = pytest.mark.long

ON_A_WALK = {"process-killed", "redis-flushed", "postgres-away", "worker-frozen", "node-poisoned"}
AT_PURE_NODES = {"process-killed", "node-poisoned"}
AMONG_SIBLINGS = ON_A_WALK | {"worker-killed", "messages-doubled", "messages-dropped"}

CASES = [
    *(("inline", fault) for fault in FAULTS if fault.name in ON_A_WALK),
    *(("pure", fault) for fault in FAULTS if fault.name in AT_PURE_NODES),
    *(("parallel", fault) for fault in FAULTS if fault.name in AMONG_SIBLINGS),
]


@pytest.mark.parametrize(("walk", "fault"), CASES, ids=[f"{walk}-{fault.name}" for walk, fault in CASES])
def test_nothing_is_lost_and_nothing_is_committed_twice(
    walk: str, fault: Fault, servers_to_break: Servers, request: pytest.FixtureRequest
) -> None:
    verdict = judge(fault, replace(SHORT, walk=walk), servers_to_break)
    request.node.user_properties.append(("measured", plain(verdict)))

    assert not verdict.problems, "\n".join(verdict.problems)
