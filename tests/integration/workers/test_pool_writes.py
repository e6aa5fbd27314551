"""A worker writes tasks to the pipes of its pool at once, and loses none with a process that dies."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool
from celery.worker import state
from kombu.asynchronous import Hub

from support.event_loop import turn_until
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.worker.celery_internals.pool_writes import DirectPoolWrites, Pipes

PROCESSES = 2
GATE_TIMEOUT = 60.0
"""Seconds after which a task ends whose gate is not opened."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def tasks_per_process() -> int | None:
    """Return the number of tasks after which another process takes the place of one; None: never."""
    return None


@pytest.fixture
def consumer(hub: Hub, tasks_per_process: int | None) -> Iterator[SimpleNamespace]:
    """Return as much of Celery's consumer as direct writes need, with a pool whose processes are up."""
    gc.collect()  # or what earlier tests left would close descriptors that the pool has by then
    pool = AsynPool(
        processes=PROCESSES, threads=False, sched_strategy="fair", maxtasksperchild=tasks_per_process
    )
    consumer = SimpleNamespace(pool=SimpleNamespace(_pool=pool, flush=pool.flush))
    try:
        register(consumer, hub)
        # A process that is not up within Celery's limit is killed, and another takes its place.
        often = hub.call_repeatedly(0.1, pool.maintain_pool)
        turn_until(hub, lambda: len(pool._all_inqueues) == PROCESSES)
        often.cancel()
        yield consumer
    finally:
        for process in pool._pool:  # or the pool waits for them a while
            os.kill(process.pid, signal.SIGKILL)
        pool.terminate()


def register(consumer: SimpleNamespace, hub: Hub) -> None:
    """Register the pool, as Celery does with every new connection to the broker."""
    consumer.pool._pool.register_with_event_loop(hub)
    DirectPoolWrites(consumer).register_with_event_loop(consumer, hub)


@pytest.fixture
def pool(consumer: SimpleNamespace) -> AsynPool:
    return consumer.pool._pool


@pytest.fixture
def pipes(consumer: SimpleNamespace) -> Pipes:
    """Return pipes that are written ahead."""
    pipes: Pipes = consumer.pipes
    pipes.writes_ahead = True
    return pipes


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    """Return a folder; each task ends as soon as a file of its id is in it."""
    return tmp_path


class Request:
    """As much of Celery's request as direct writes need."""

    def __init__(self, id_: str) -> None:
        self.id = id_

    def on_accepted(self, pid: int, began: float) -> None:
        pass


@pytest.fixture
def begin(pool: AsynPool, gates: Path) -> Callable[..., list[Any]]:
    """Return a function that has the pool run tasks of these ids, nodes unless another name is given."""

    def begin(*ids: str, name: str = TASK_NAME) -> list[Any]:
        return [
            pool.apply_async(run_task, (name, id_, gates), accept_callback=Request(id_).on_accepted)
            for id_ in ids
        ]

    return begin


def run_task(name: str, id_: str, gates: Path) -> str:
    deadline = time.monotonic() + GATE_TIMEOUT
    while not (gates / id_).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return id_


def end(gates: Path, *ids: str) -> None:
    for id_ in ids:
        (gates / id_).touch()


def wait_until_begun(hub: Hub, jobs: list[Any]) -> None:
    turn_until(hub, lambda: all(job.accepted() for job in jobs))


def written(jobs: list[Any]) -> list[Any]:
    return [job._write_to for job in jobs if job._write_to]


def results_of(hub: Hub, jobs: list[Any]) -> list[Any]:
    turn_until(hub, lambda: all(job.ready() for job in jobs))
    return [job.get() for job in jobs]


def test_an_idle_process_has_its_task_before_the_event_loop_turns(hub: Hub, pool: AsynPool) -> None:
    job = pool.apply_async(abs, (-1,))

    assert job._write_to in pool._pool
    assert results_of(hub, [job]) == [1]


def test_tasks_that_find_no_idle_process_are_kept_until_one_is(hub: Hub, pool: AsynPool) -> None:
    jobs = [pool.apply_async(abs, (-number,)) for number in range(20)]

    assert len({job._write_to for job in jobs if job._write_to}) == PROCESSES
    assert results_of(hub, jobs) == list(range(20))


def test_a_worker_that_is_to_end_writes_nothing(
    hub: Hub, pool: AsynPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "should_stop", 0)
    job = pool.apply_async(abs, (-1,))

    assert job._write_to is None


def test_a_task_for_a_process_that_has_just_died_goes_to_another(hub: Hub, pool: AsynPool) -> None:
    for process in list(pool._pool):
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    jobs = [pool.apply_async(abs, (-number,)) for number in range(10)]
    hub.call_repeatedly(0.1, pool.maintain_pool)

    assert results_of(hub, jobs) == list(range(10))


def test_with_a_new_connection_to_the_broker_it_goes_on(
    hub: Hub, consumer: SimpleNamespace, pool: AsynPool
) -> None:
    before = pool.apply_async(abs, (-1,))
    hub.reset()
    register(consumer, hub)
    after = pool.apply_async(abs, (-2,))

    assert after._write_to in pool._pool
    assert results_of(hub, [before, after]) == [1, 2]


def test_while_nothing_is_to_be_written_no_pipe_is_touched(
    hub: Hub, pool: AsynPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert results_of(hub, [pool.apply_async(abs, (-1,))]) == [1]
    touched: list[int] = []
    monkeypatch.setattr(hub.poller, "unregister", touched.append)
    monkeypatch.setattr(hub, "_unregister_fd", touched.append)

    for _ in range(3):
        hub.run_once()

    assert touched == []


def test_each_process_that_runs_a_node_may_have_one_more_in_its_pipe(
    hub: Hub, pipes: Pipes, begin: Callable[..., list[Any]], gates: Path
) -> None:
    jobs = begin("a", "b", "c", "d", "e")

    assert Counter(written(jobs)).most_common() == [(process, 2) for process in Counter(written(jobs))]
    assert jobs[4]._write_to is None
    end(gates, "a", "b", "c", "d", "e")
    assert results_of(hub, jobs) == ["a", "b", "c", "d", "e"]


def test_a_process_that_goes_on_with_the_next_node_is_not_idle(
    hub: Hub, pipes: Pipes, begin: Callable[..., list[Any]], gates: Path
) -> None:
    jobs = begin("a", "b", "c", "d")
    wait_until_begun(hub, jobs[:2])
    end(gates, "a")
    turn_until(hub, jobs[0].ready)
    [own] = begin("own", name="orders.ship")

    assert own._write_to is None
    end(gates, "b", "c", "d", "own")
    assert results_of(hub, [own]) == ["own"]


def test_nothing_is_written_behind_a_running_node_unless_that_is_wanted(
    pipes: Pipes, begin: Callable[..., list[Any]]
) -> None:
    pipes.writes_ahead = False
    jobs = begin("a", "b", "c")

    assert len(written(jobs)) == PROCESSES


def test_a_task_of_a_teams_own_never_waits_behind_another_and_no_node_overtakes_it(
    hub: Hub, pipes: Pipes, begin: Callable[..., list[Any]], gates: Path
) -> None:
    running = begin("a", "b")
    own, node = begin("own", name="orders.ship") + begin("c")

    assert written([own, node]) == []
    end(gates, "a", "b", "own", "c")
    assert results_of(hub, [*running, own, node]) == ["a", "b", "own", "c"]


def test_what_waits_for_a_running_task_to_end_is_named_the_latest_first(
    hub: Hub, pipes: Pipes, begin: Callable[..., list[Any]], gates: Path
) -> None:
    begun = begin("a", "b")
    assert pipes.waiting() == []

    wait_until_begun(hub, begun)
    jobs = begin("c", "d", "e")

    waiting = [(request.id, is_written) for request, is_written in pipes.waiting()]
    assert waiting == [("e", False), ("d", True), ("c", True)]
    end(gates, "a", "b", "c", "d", "e")
    results_of(hub, jobs)
    assert pipes.waiting() == []


def test_what_has_not_been_written_can_be_withdrawn(
    hub: Hub, pipes: Pipes, begin: Callable[..., list[Any]], gates: Path
) -> None:
    begun = begin("a", "b")
    wait_until_begun(hub, begun)
    jobs = begin("c", "d", "e", "f")
    [withdrawn] = [one.request for one in pipes.waiting() if one.request.id == "e"]
    pipes.withdraw(withdrawn)

    end(gates, "a", "b", "c", "d", "e", "f")
    results_of(hub, [job for job in [*begun, *jobs] if job is not jobs[2]])
    assert not jobs[2].accepted()


def test_a_process_that_dies_leaves_what_is_in_its_pipe_to_another(
    hub: Hub, pool: AsynPool, pipes: Pipes, begin: Callable[..., list[Any]], gates: Path
) -> None:
    running = begin("a", "b")
    wait_until_begun(hub, running)
    behind = begin("c", "d")
    for job in running:
        os.kill(job._write_to.pid, signal.SIGKILL)
    hub.call_repeatedly(0.1, pool.maintain_pool)
    end(gates, "c", "d")

    assert results_of(hub, behind) == ["c", "d"]


@pytest.mark.parametrize("tasks_per_process", [5])
def test_processes_that_end_after_some_tasks_leave_what_is_in_their_pipes_to_others(
    hub: Hub, pool: AsynPool, pipes: Pipes, begin: Callable[..., list[Any]], gates: Path
) -> None:
    ids = [str(number) for number in range(60)]
    end(gates, *ids)
    hub.call_repeatedly(0.1, pool.maintain_pool)
    jobs: list[Any] = []
    for id_ in ids:
        turn_until(hub, lambda: sum(not job.ready() for job in jobs) < 2 * PROCESSES)
        jobs.extend(begin(id_))

    assert results_of(hub, jobs) == ids


def test_at_its_end_a_worker_still_gets_results_of_what_is_in_its_pipes(
    hub: Hub,
    consumer: SimpleNamespace,
    pipes: Pipes,
    begin: Callable[..., list[Any]],
    gates: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = begin("a", "b")
    wait_until_begun(hub, running)
    behind = begin("c", "d")
    monkeypatch.setattr(state, "should_stop", 0)
    consumer.pool.flush()
    end(gates, "a", "b", "c", "d")

    assert results_of(hub, [*running, *behind]) == ["a", "b", "c", "d"]
