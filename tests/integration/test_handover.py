"""What the worker's main process does, and leaves out, to hand a task over to a process of its pool."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool
from celery.worker import state
from event_loop import turn_until
from kombu.asynchronous import Hub

from workers.handover import Handover

PROCESSES = 2


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def pool(hub: Hub) -> Iterator[AsynPool]:
    """A pool whose processes are up, with the handover."""
    pool = AsynPool(processes=PROCESSES, threads=False, sched_strategy="fair")
    register(pool, hub)
    turn_until(hub, lambda: len(pool._all_inqueues) == PROCESSES)
    yield pool
    pool.terminate()


def register(pool: AsynPool, hub: Hub) -> None:
    """As Celery does with every new connection to the broker."""
    pool.register_with_event_loop(hub)
    consumer = SimpleNamespace(pool=SimpleNamespace(_pool=pool))
    Handover(consumer).register_with_event_loop(consumer, hub)


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


def test_a_worker_that_is_to_end_hands_nothing_over(
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


def test_with_a_new_connection_to_the_broker_it_goes_on(hub: Hub, pool: AsynPool) -> None:
    before = pool.apply_async(abs, (-1,))
    hub.reset()
    register(pool, hub)
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
