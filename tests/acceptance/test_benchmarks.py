"""The benchmarks run: small, on real servers and workers. How fast they are is nobody's business here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "performance.md"
ROW = re.compile(r"^\| (.+?) +\| +(\S.*?) +\|", re.MULTILINE)


@pytest.mark.timeout(300)
def test_a_quick_run_measures_everything_and_writes_nothing() -> None:
    before = DOCUMENT.read_text()

    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert run.returncode == 0, run.stderr
    figures = dict(ROW.findall(run.stdout))
    assert figures["executions waiting for a time, as rows"] == "100"
    assert figures["executions waiting for an event, as rows"] == "100"
    assert figures["messages for them in the broker"] == "0"
    assert figures["locks held"] == "0"
    assert figures["300 timers due in the same instant: published"] == "300"
    assert figures["- published more than once"] == "0"
    assert figures["fsync, full_page_writes, synchronous_commit, as Postgres shows them"] == "on, on, on"
    for measured in (
        "- ratio",
        "- ratio of the p50",
        "- hop at node 50, in hops at node 10",
        "hop with 1,000 more executions in the tables, in hops beside 20 at most",
    ):
        assert float(figures[measured].split()[0]) > 0
    assert "missed" not in run.stdout
    assert DOCUMENT.read_text() == before
