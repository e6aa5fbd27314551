"""The benchmarks behind docs/scaling.md run, small; and counts, unlike times, are alike on any machine."""

import re
import subprocess
import sys

import pytest

from support.repository import ROOT

pytestmark = pytest.mark.long

DOCUMENT = ROOT / "docs" / "scaling.md"
ROW = re.compile(r"^\| (.+?) +\| +(\S.*?) +\| +(\S.*?) +\|", re.MULTILINE)


@pytest.mark.timeout(180)
def test_a_quick_run_counts_what_a_hop_costs_and_writes_nothing() -> None:
    before = DOCUMENT.read_text()

    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "footprint", "million"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=170,
    )

    assert run.returncode == 0, run.stderr
    figures = {name: (first, second) for name, first, second in ROW.findall(run.stdout)}
    in_page = [float(share.split()[0]) for share in figures["updates of executions within the page (HOT)"]]
    assert all(77 < share <= 80 for share in in_page), (
        "of ten commits, all but the first and the last, unless one statement makes too many in a page"
    )
    assert all(1 <= float(figures["- BRPOP"][column]) < 1.1 for column in (0, 1)), (
        "one message each; a worker that finds none for a second asks once more"
    )
    assert all(0 < float(figures["- EVALSHA"][column]) < 2.5 for column in (0, 1))
    assert all(1 <= float(figures["- records"][column]) < 20 for column in (0, 1)), "the WAL was read"
    pages = [int(figures["hop"][column].split()[0]) for column in (0, 1)]
    assert pages[1] <= 2 * pages[0], "beside many executions a hop touches hardly more pages"
    assert {"processes", "connections to Redis", "growth of the tables", "WAL of a hop"} <= figures.keys()
    assert DOCUMENT.read_text() == before
