"""Every fault of docs/faults.md, shorter and on fewer executions, loses nothing and commits nothing twice.

Everything that does not depend on time is judged as in the long form; times are only reported. The suite
always uses servers of its own, because it stops, freezes and kills them.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from faults.catalogue import FAULTS
from faults.fault import SHORT, Fault
from faults.report import DOCUMENT, plain
from faults.servers import Servers
from faults.stage import PYTHON_PATH
from faults.verdict import judge

pytestmark = pytest.mark.long


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost_and_nothing_is_committed_twice_whatever_breaks(
    fault: Fault, servers_to_break: Servers, request: pytest.FixtureRequest
) -> None:
    verdict = judge(fault, SHORT, servers_to_break)
    request.node.user_properties.append(("measured", plain(verdict)))

    assert not verdict.problems, "\n".join(verdict.problems)


def test_the_command_prints_tables_and_machine_and_a_short_run_leaves_the_document_alone() -> None:
    before = DOCUMENT.read_text()

    run = subprocess.run(
        [sys.executable, "-m", "faults", "--short", "--only", "redis-flushed"],
        env={**os.environ, "PYTHONPATH": PYTHON_PATH},
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "| Redis is flushed |" in run.stdout
    assert "all on one machine; Python" in run.stdout
    assert DOCUMENT.read_text() == before
