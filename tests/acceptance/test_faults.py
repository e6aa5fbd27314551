"""The fault suite in its short form: every fault of docs/faults.md, shorter and on fewer executions.

What does not depend on time is judged as in the long form; times are only told. The servers are the suite's
own whatever servers other tests use, because they are stopped, frozen and killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from faults.catalogue import FAULTS
from faults.fault import SHORT, Fault
from faults.report import plain
from faults.servers import Servers
from faults.verdict import Verdict, judge

from workflow_engine.errors import EmbeddedServerFailed


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    try:
        with Servers() as servers:
            yield servers
    except EmbeddedServerFailed as error:
        if os.environ.get("CI", "") not in ("", "0", "false"):
            raise
        pytest.skip(f"servers to break are missing: {error}")


class Figures:
    """Tells what was measured at the end of the run."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("faults")
        for verdict in self.verdicts:
            terminalreporter.write_line(plain(verdict))


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> Figures:
    figures = Figures()
    request.config.pluginmanager.register(figures)
    return figures


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost_and_nothing_is_committed_twice_whatever_breaks(
    fault: Fault, servers: Servers, figures: Figures
) -> None:
    verdict = judge(fault, SHORT, servers)
    figures.verdicts.append(verdict)

    assert not verdict.problems, "\n".join(verdict.problems)
