"""Every running worker reports what it can run, of which release it is, and under which limits."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.polling import poll
from support.repository import ROOT
from workflow_engine import DISTRIBUTION, Settings
from workflow_engine.broker.inspection import WorkerFacts, WorkerReport, ask_workers
from workflow_engine.settings import ENVIRONMENT_PREFIX

NODES = """
from workflow_engine import node

@node("shop.charge")
def charge():
    return "paid"
"""
OPTIONS = ["--pool", "threads", "-c", "3", "--time-limit", "60", "--soft-time-limit", "50"]


@pytest.fixture
def report(settings: Settings, tmp_path: Path) -> Iterator[WorkerReport]:
    """Return the report of a worker with threads, time limits and node types of its own."""
    (tmp_path / "shop_nodes.py").write_text(NODES)
    environment = {
        f"{ENVIRONMENT_PREFIX}{name.upper()}": str(value)
        for name, value in settings.model_dump(exclude_unset=True).items()
    }
    environment |= {f"{ENVIRONMENT_PREFIX}IMPORTS": "shop_nodes", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "workers",
        "worker",
        "-n",
        "reporting@%h",
        "-l",
        "WARNING",
    ]
    worker = subprocess.Popen(
        [*command, "--without-gossip", "--without-mingle", *OPTIONS],
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    try:
        yield poll(
            lambda: [each for each in ask_workers(settings, timeout=0.5) if each.facts is not None],
            "the worker reports what it can run",
        )[0]
    finally:
        worker.terminate()
        worker.wait(20)


def test_a_worker_reports_what_it_can_run_and_under_which_limits(
    report: WorkerReport, settings: Settings
) -> None:
    facts = report.facts
    assert facts is not None
    assert report.name.startswith("reporting@")
    assert facts.knows("logic/merge")
    assert facts.knows("shop.charge")
    assert facts.knows("action/shop.charge")
    assert not facts.knows("action/not.deployed")
    assert (facts.pool, facts.concurrency) == ("threads", 3)
    assert (facts.time_limit, facts.soft_time_limit) == (60, 50)
    assert facts.settings["database_schema"] == settings.database_schema
    assert facts.settings["imports"] == ["shop_nodes"]
    assert not [name for name in facts.settings if "url" in name]
    assert abs(facts.clock_ahead) < 3
    assert facts.release == importlib.metadata.version(DISTRIBUTION)


def test_a_reply_of_another_form_is_no_report() -> None:
    assert WorkerFacts.from_reply({"error": "KeyError('workflow_engine_report')"}, 0.0) is None
    assert WorkerFacts.from_reply({"clock": "now", "node_types": [], "functions": []}, 0.0) is None
