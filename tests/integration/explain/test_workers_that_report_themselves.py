"""A running worker reports itself to `explain`: its queues, its code, and that it is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.polling import poll
from support.repository import ROOT
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient, node
from workflow_engine.broker.dispatcher import producer_app
from workflow_engine.control.explain import Code, Explanation
from workflow_engine.redis.client import connect_redis
from workflow_engine.redis.worker_heartbeats import WorkerHeartbeats
from workflow_engine.settings import ENVIRONMENT_PREFIX

NODES = """
import time
from pathlib import Path
from workflow_engine import node

@node("test.gated_by_a_file")
def gated(path):
    while not Path(path).exists():
        time.sleep(0.05)
"""


@node("test.gated_by_a_file")
def gated(path: str) -> None:
    raise AssertionError(f"a worker runs it, with {path}")


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Return a running worker of the queue `reports`."""
    (tmp_path / "shop_nodes.py").write_text(NODES)
    environment = {
        f"{ENVIRONMENT_PREFIX}{name.upper()}": str(value)
        for name, value in settings.model_dump(exclude_unset=True).items()
    }
    environment |= {f"{ENVIRONMENT_PREFIX}IMPORTS": "shop_nodes", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-m", "celery", "-A", "workers", "worker", "-n", "w1@shop", "-l", "WARNING"]
    worker = subprocess.Popen(
        [*command, "--without-gossip", "--without-mingle", "--pool", "threads", "-c", "2", "-Q", "reports"],
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait(20)


def test_a_worker_reports_its_queues_and_its_code_until_it_is_gone(
    worker: subprocess.Popen[bytes], settings: Settings, client: WorkflowClient, tmp_path: Path
) -> None:
    flow = WorkflowBuilder("reporting")
    flow.trigger("start") >> flow.python(
        "gated", "test.gated_by_a_file", arguments={"path": str(tmp_path / "open")}, queue="reports"
    )
    control: Any = producer_app(settings).control
    heartbeats = WorkerHeartbeats(connect_redis(settings), settings)

    def explained(*codes: Code) -> Explanation:
        return poll(
            lambda: (found := client.explain(execution)).code in codes and found, f"it is {', '.join(codes)}"
        )

    (report,) = poll(heartbeats.all, "the worker reports itself")
    assert (report.name, report.queues, report.pool, report.concurrency) == (
        "w1@shop",
        ("reports",),
        "threads",
        2,
    )
    assert report.process == worker.pid
    assert report.knows("test.gated_by_a_file")
    assert report.knows("logic/merge")
    assert not report.knows("test.unheard_of")

    told = {"destination": ["w1@shop"], "reply": True}
    poll(lambda: control.cancel_consumer("reports", **told), "the worker obeys")
    poll(lambda: heartbeats.all()[0].cancelled == ("reports",), "it reports that it consumes no longer")
    client.deploy(flow.build())
    execution = client.start("reporting").id
    stopped = explained(Code.QUEUE_PAUSED)
    assert stopped.evidence["stoppedOn"] == ["w1@shop"]

    poll(lambda: control.add_consumer("reports", **told), "the worker obeys")
    running = explained(Code.RUNNING)
    assert running.evidence["process"] == worker.pid

    worker.kill()
    dead = explained(Code.HELD_BY_DEAD)
    assert dead.node_id == "gated"
    assert dead.evidence["process"] == worker.pid
    assert dead.evidence["isConnected"] is False
    assert dead.command == "celery -A workflow_engine.worker worker -Q reports"
