"""Commits of hops and nothing else: the floor of any engine that keeps every result.

As many processes as the workers have, each with an execution of its own, commit one node after another
through the engine's own code. No node runs, no call goes to Redis, no message is sent.
"""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Self

from benchmarks.contenders import Batch
from benchmarks.testbed import PROCESSES, Testbed
from benchmarks.usage import Usage
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.records import NodeCommit
from workflow_engine.execution.states import ExecutionStatus, NodeStatus
from workflow_engine.settings import Settings


class CommitsAlone:
    """Alternates with chains, with as many commits as these have hops."""

    def __init__(self, testbed: Testbed, workflow_id: str) -> None:
        self._testbed = testbed
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
        executions = [self._testbed.client.start(self._workflow_id).id for _ in range(PROCESSES)]
        before = Usage.now(self._testbed, {})
        times = list(
            self._processes.map(
                _commit, [self._testbed.settings] * PROCESSES, executions, [share] * PROCESSES
            )
        )
        used = Usage.now(self._testbed, {}) - before
        seconds = max(end for _, end in times) - min(begin for begin, _ in times)
        return Batch(share * PROCESSES, seconds, used)


def _commit(settings: Settings, execution_id: str, count: int) -> tuple[float, float]:
    """Make `count` commits. Return when the first began and the last ended, by the clock of all processes."""
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
    engine.database.dispose()
    return begin, end
