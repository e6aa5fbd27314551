"""Hands a message over to a pool process with fewer detours than Celery's event loop makes.

Celery's pool queues a task, asks the kernel in the next turn of the loop which pipes can be written to, and
writes in the one after. A process waits for that between any two nodes, and the main process pays for it.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.concurrency.asynpool import AsynPool
from celery.worker import state


class Handover(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Part of the consumer, since the pool gets its handlers anew with every new connection."""

    requires = {"celery.worker.consumer.connection:Connection"}  # noqa: RUF012 - celery's way to order steps

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        pool = getattr(consumer.pool, "_pool", None)
        if isinstance(pool, AsynPool):
            _write_at_once(pool, hub)
            _leave_pipes_alone(pool, hub)


def _write_at_once(pool: Any, hub: Any) -> None:
    """Write a task as soon as it comes, if a process is idle; else the loop does it, as ever."""
    queue, write = pool._quick_put, hub.consolidate_callback
    inqueues, busy, written = pool._all_inqueues, pool._busy_workers, pool._active_writes

    def put(task: Any) -> None:
        queue(task)
        if state.should_stop is not None or state.should_terminate is not None:
            return  # the loop does not turn again to hear of it
        idle = next((pipe for pipe in inqueues if pipe not in busy and pipe not in written), None)
        if idle is not None:
            write([idle])

    pool._quick_put = put


def _leave_pipes_alone(pool: Any, hub: Any) -> None:
    """Spare the pool from unregistering the pipes of all its processes in every turn of the loop."""
    before_poll, tasks, registered = pool.on_poll_start, pool.outbound_buffer, hub.consolidate

    def before_poll_if_needed() -> None:
        if tasks or registered:
            before_poll()

    # The pool registers it with the first connection only.
    if before_poll in hub.on_tick:
        hub.on_tick.remove(before_poll)
        hub.on_tick.add(before_poll_if_needed)
