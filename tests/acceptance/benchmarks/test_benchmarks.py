"""The benchmarks run, small, on real servers and workers.

How fast they are is not judged here.
"""

import re
import subprocess
import sys

import pytest

from support.repository import ROOT

pytestmark = pytest.mark.long

DOCUMENT = ROOT / "docs" / "performance.md"
ROW = re.compile(r"^\| (.+?) +\| +(\S.*?) +\|", re.MULTILINE)


@pytest.mark.timeout(300)
def test_a_quick_run_measures_all_but_pure_waiting_and_writes_nothing() -> None:
    before = DOCUMENT.read_text()

    figures, printed = quick_run()

    assert figures["fsync, full_page_writes, synchronous_commit, as Postgres shows them"] == "on, on, on"
    for measured in (
        "- ratio",
        "- throughput, relative to the chain",
        "- ratio of the p50",
        "- ratio of that to the chain",
        "- ratio to that",
        "- hop at node 50, relative to node 10",
        "- ratio of the two",
        "threads, pool of 32: throughput, relative to the ideal",
        "nodes that do nothing",
        "1,000 hops, with all levers",
        "processor time of 1,000 hops without telemetry",
    ):
        assert float(figures[measured].split()[0]) > 0
    keys = figures["keys in Redis after them; target: as before"]
    assert keys.isdecimal()
    assert "- with a publish of its own for each message" in figures
    assert figures["Postgres: synchronous_commit"] == "on"
    assert figures["Redis: appendonly"] == "yes"
    assert figures["engine's worker: task_acks_late"] == "True"
    assert figures["raw worker: settings other than Celery's defaults"] == "nothing"
    assert "missed" not in printed
    assert DOCUMENT.read_text() == before


@pytest.mark.timeout(300)
def test_a_quick_run_of_what_waits_counts_rows_and_messages() -> None:
    figures, _ = quick_run("waiting")

    assert figures["executions waiting for a time, as rows"] == "100"
    assert figures["executions waiting for an event, as rows"] == "100"
    assert figures["messages for them in the broker"] == "0"
    assert figures["locks held"] == "0"
    assert figures["300 timers due in the same instant: published"] == "300"
    assert figures["- published more than once"] == "0"


def quick_run(*names: str) -> tuple[dict[str, str], str]:
    """Return the figures by their names, and all that was printed."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *names],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    return dict(ROW.findall(run.stdout)), run.stdout
