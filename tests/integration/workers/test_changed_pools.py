"""A pool that is not the one the engine knows is used as Celery uses it, and one line in the log says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import billiard.pool
import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

from support.event_loop import turn_until
from workflow_engine.broker.internals import Internal
from workflow_engine.worker.celery_internals.compatibility import POOL_WRITES
from workflow_engine.worker.celery_internals.pool_writes import DirectPoolWrites

HIDDEN = object()


class Altered:
    """An object with some attributes changed or hidden, as they might be in a later Celery."""

    def __init__(self, whole: Any, **changes: Any) -> None:
        vars(self).update(_whole=whole, _changes=changes)

    def __getattr__(self, name: str) -> Any:
        value = self._changes[name] if name in self._changes else getattr(self._whole, name)
        if value is HIDDEN:
            raise AttributeError(name)
        return value


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with closing(Hub()) as hub:
        yield hub


@pytest.fixture(scope="module")
def pool(hub: Hub) -> Iterator[AsynPool]:
    """Start a pool with one process."""
    pool = AsynPool(processes=1, threads=False, sched_strategy="fair")
    pool.register_with_event_loop(hub)
    turn_until(hub, lambda: len(pool._all_inqueues) == 1)
    yield pool
    for process in pool._pool:  # or the pool waits for it a while
        os.kill(process.pid, signal.SIGKILL)
    pool.terminate()


def consumer_of(pool: Any) -> SimpleNamespace:
    """Return as much of Celery's consumer as direct writes need."""
    return SimpleNamespace(pool=SimpleNamespace(_pool=pool, flush=pool.flush))


@pytest.mark.parametrize("internal", POOL_WRITES, ids=lambda internal: f"{internal.of}.{internal.name}")
def test_without_one_of_the_attributes_it_knows_tasks_reach_the_pool_as_celery_sends_them(
    hub: Hub,
    pool: AsynPool,
    internal: Internal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    consumer, seen_hub, lacking = consumer_of(pool), hub, {internal.name: HIDDEN}
    if internal.of == "TaskPool":
        consumer.pool = Altered(consumer.pool, **lacking)
    elif internal.of == "AsynPool":
        consumer.pool._pool = Altered(pool, **lacking)
    elif internal.of == "Worker":
        consumer.pool._pool = Altered(pool, _pool=[Altered(pool._pool[0], **lacking)])
    elif internal.of == "ApplyResult":
        result = Altered(billiard.pool.ApplyResult({}, None), **lacking)
        monkeypatch.setattr(billiard.pool, "ApplyResult", lambda *_: result)
    else:
        seen_hub = Altered(hub, **lacking)
    step, put, ticks = DirectPoolWrites(consumer), pool._quick_put, set(hub.on_tick)

    for _ in range(2):  # with the first connection to the broker, and with the next
        step.register_with_event_loop(consumer, seen_hub)
    monkeypatch.undo()

    [line] = caplog.messages
    assert f"{internal.of}.{internal.name} is missing" in line
    assert "Celery's event loop hands tasks to processes" in line
    assert consumer.pipes is None
    assert (pool._quick_put, hub.on_tick) == (put, ticks)
    job = pool.apply_async(abs, (-1,))
    turn_until(hub, job.ready)
    assert job.get() == 1


def test_an_attribute_of_another_kind_counts_as_changed(
    hub: Hub, pool: AsynPool, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = consumer_of(Altered(pool, _busy_workers=[], _quick_put=lambda task, process: None))

    DirectPoolWrites(consumer).register_with_event_loop(consumer, hub)

    [line] = caplog.messages
    assert "AsynPool._busy_workers is another (list)" in line
    assert "AsynPool._quick_put is another (function)" in line
    assert consumer.pipes is None


def test_a_pool_as_it_is_known_is_written_to_and_nothing_is_logged(
    hub: Hub, pool: AsynPool, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = consumer_of(pool)

    DirectPoolWrites(consumer).register_with_event_loop(consumer, hub)

    assert consumer.pipes is not None
    assert consumer.changed_internals == set()
    assert caplog.messages == []
