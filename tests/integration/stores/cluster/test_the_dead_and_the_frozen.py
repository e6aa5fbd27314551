"""On a Redis Cluster a process that died is told from one that is frozen, whatever its connections."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from support.polling import poll
from support.redis_cluster import EmbeddedCluster
from workflow_engine.engine.assembly import Engine
from workflow_engine.redis import presence
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.presence import life_of_this_process
from workflow_engine.settings import Settings

MISSING_FOR = 0.3


@pytest.fixture(autouse=True)
def _short_absences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MISSING_FOR", MISSING_FOR)


class Locking:
    """A forked process that takes the lock of an execution and holds it."""

    def __init__(self, engine: Engine, execution_id: str) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if engine.locks.acquire_lock(execution_id) is not None:
                    os.write(writing, life_of_this_process().encode())
                time.sleep(60)
            finally:
                os._exit(1)
        os.close(writing)
        self.life = os.read(reading, 100).decode()
        os.close(reading)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


@pytest.fixture
def locking(engine: Engine) -> Iterator[Callable[[str], Locking]]:
    processes: list[Locking] = []

    def lock(execution_id: str) -> Locking:
        processes.append(Locking(engine, execution_id))
        return processes[-1]

    yield lock
    for process in processes:
        process.kill()


@pytest.fixture
def executions(cluster: EmbeddedCluster, settings: Settings) -> list[str]:
    """Return an execution whose lock is on each node."""
    found: dict[int, str] = {}
    for number in range(100):
        key = Keys.of(settings).lock(f"execution-{number}")
        found.setdefault(cluster.primary_of(key).port, f"execution-{number}")
    assert len(found) == 3
    return list(found.values())


def test_a_process_that_died_is_found_to_be_over_on_every_node_of_the_cluster(
    engine: Engine, executions: list[str], locking: Callable[[str], Locking]
) -> None:
    assert engine.presence.look() == frozenset()
    processes = [locking(execution) for execution in executions]
    lives = {process.life for process in processes}
    assert len(lives) == 3

    for process in processes:
        process.kill()

    poll(lambda: engine.presence.look() == lives, "all three are found to be over")
    assert engine.presence.disconnected([*lives, life_of_this_process()]) == lives
    engine.presence.bury(lives)
    assert engine.presence.look() == frozenset()


def test_a_process_that_is_frozen_is_not_over(
    engine: Engine, executions: list[str], locking: Callable[[str], Locking]
) -> None:
    processes = [locking(execution) for execution in executions]
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)

    ends = time.monotonic() + 4 * MISSING_FOR
    while time.monotonic() < ends:
        assert engine.presence.look() == frozenset()
        time.sleep(MISSING_FOR / 5)


def test_after_the_restart_of_a_node_no_process_is_over_for_having_been_connected_to_it(
    engine: Engine, cluster: EmbeddedCluster, executions: list[str], locking: Callable[[str], Locking]
) -> None:
    processes = [locking(execution) for execution in executions]
    engine.presence.look()
    for process in processes:
        process.kill()  # it cannot be told from one that is frozen, whose connections the restart has closed

    cluster.kill(cluster.primary_of(Keys.of(engine.settings).lock(executions[0])))
    cluster.restart()

    ends = time.monotonic() + 4 * MISSING_FOR
    while time.monotonic() < ends:
        assert engine.presence.look() == frozenset()
        time.sleep(MISSING_FOR / 5)
