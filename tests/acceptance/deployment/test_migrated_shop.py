"""The shop of docs/from-celery.md is the same before and after, except that nothing of it is lost.

Its script starts real servers, workers and a website, so the tests follow the command that a reader types.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from support.repository import ROOT

SCRIPT = ROOT / "examples/django_shop/run.py"
GUIDE = (ROOT / "docs/from-celery.md").read_text()
SECONDS = re.compile(r"\b\d+ s\b")

AS_IT_IS, DURABLE = (), ("--durable",)


def run(*options: str, timeout: float) -> str:
    """Run the shop's script; return what it prints, and of its own tests their report as well."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], check=False, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def shown(*options: str) -> str:
    """Return what the guide shows below the command with these options."""
    arguments = f" ARGS={' '.join(options)}" if options else ""
    found = re.search(rf"^\$ make shop{re.escape(arguments)}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("options", [AS_IT_IS, DURABLE], ids=["before", "after"])
def test_the_shops_own_tests_pass_unchanged(options: tuple[str, ...]) -> None:
    report = run("--test", *options, timeout=220)

    assert re.search(r"^Ran 5 tests", report, re.MULTILINE)
    assert re.search(r"^OK$", report, re.MULTILINE)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_worker_killed_in_the_middle_of_a_canvas_loses_its_result_before() -> None:
    printed = run("--once", *AS_IT_IS, timeout=580)

    assert printed == shown(*AS_IT_IS)
    assert printed.count("LOST") == 2


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_worker_killed_in_the_middle_of_a_canvas_loses_nothing_after() -> None:
    printed = run("--once", *DURABLE, timeout=580)

    assert SECONDS.sub("SECONDS", printed) == SECONDS.sub("SECONDS", shown(*DURABLE))
    assert printed.count("CONFIRMED") == 2
