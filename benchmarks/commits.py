"""Commits of hops and nothing else: the time below which no engine can come that keeps every result.

As many processes as the workers have, each with an execution of its own, commit one node after another over
the engine's own way to Postgres. No node is run, no Redis asked, no message sent.
"""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Self

from benchmarks.contenders import Batch
from benchmarks.fleet import PROCESSES, Fleet
from benchmarks.usage import Usage
from workflow_engine.engine import Engine
from workflow_engine.execution_records import NodeCommit
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus, NodeStatus


class CommitsAlone:
    """Takes turns with chains, as many commits as these have hops."""

    def __init__(self, fleet: Fleet, workflow_id: str) -> None:
        self._fleet = fleet
        self._workflow_id = workflow_id

    def __enter__(self) -> Self:
        self._processes = ProcessPoolExecutor(PROCESSES, get_context("spawn"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._processes.shutdown()

    def run(self, number: int, nodes: int) -> Batch:
        share = number * nodes // PROCESSES
        executions = [self._fleet.client.start(self._workflow_id).id for _ in range(PROCESSES)]
        before = Usage.now(self._fleet, {})
        times = list(
            self._processes.map(_commit, [self._fleet.settings] * PROCESSES, executions, [share] * PROCESSES)
        )
        used = Usage.now(self._fleet, {}) - before
        seconds = max(end for _, end in times) - min(begin for begin, _ in times)
        return Batch(share * PROCESSES, seconds, used)


def _commit(settings: Settings, execution_id: str, count: int) -> tuple[float, float]:
    """When the first of so many commits began and the last one was over, by the clock of all processes."""
    engine = Engine.assemble(settings)
    snapshot = engine.state.load_snapshot(execution_id)
    assert snapshot is not None
    fence = snapshot.fence
    begin = time.monotonic()
    for number in range(count):
        commit = NodeCommit(
            execution_id=execution_id,
            fence=fence,
            token=str(uuid.uuid4()),
            execution_status=ExecutionStatus.RUNNING,
            node_id=f"node{number}",
            type="action",
            sub_type="python",
            status=NodeStatus.COMPLETED,
            worker="benchmarks",
            handles=("",),
            input_data=b'{"function":"benchmarks.no_op","arguments":{}}',
            output=b"null",
        )
        assert engine.state.update_execution(commit).accepted
        fence = commit.token
    end = time.monotonic()
    engine.state.update_execution_status(execution_id, ExecutionStatus.CANCELLED)
    engine.state.engine.dispose()
    return begin, end
