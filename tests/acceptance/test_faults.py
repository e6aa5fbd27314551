"""The fault suite in its short form: every fault of docs/faults.md, shorter and on fewer executions.

What does not depend on time is judged as in the long form; times are only told. The servers are the suite's
own whatever servers other tests use, because they are stopped, frozen and killed.
"""

from __future__ import annotations

import pytest
from faults.catalogue import FAULTS
from faults.fault import SHORT, Fault
from faults.report import plain
from faults.servers import Servers
from faults.verdict import judge


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost_and_nothing_is_committed_twice_whatever_breaks(
    fault: Fault, servers_to_break: Servers, request: pytest.FixtureRequest
) -> None:
    verdict = judge(fault, SHORT, servers_to_break)
    request.node.user_properties.append(("measured", plain(verdict)))

    assert not verdict.problems, "\n".join(verdict.problems)
