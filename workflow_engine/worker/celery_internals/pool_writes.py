"""Writes tasks to pool processes with fewer detours than Celery's event loop makes.

Celery's pool queues a task until a process reports the end of its last one. In the loop's next iteration it
polls which pipes can be written to, and writes in the one after. A process waits for that between any two
nodes, and it costs the main process time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from celery import bootsteps
from celery.worker import state

from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.worker.celery_internals.compatibility import changes_for_pool_writes, is_wanted, warn


class DirectPoolWrites(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Part of the consumer, since the pool gets its handlers again with every new connection.

    Leaves the `Pipes` in the consumer's `pipes`, or None where Celery's own code writes, and the changes
    found in its `changed_internals`.
    """

    requires = {"celery.worker.consumer.connection:Connection"}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.pipes = None
        consumer.changed_internals = set()

    def include_if(self, consumer: Any) -> bool:
        return is_wanted(consumer)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        if changed := changes_for_pool_writes(consumer, hub):
            what_follows = (
                "Celery's event loop hands tasks to processes, and none is taken from a backlog early"
            )
            warn(consumer, changed, what_follows)
            return
        pool = consumer.pool._pool
        consumer.pipes = Pipes(pool, hub)
        consumer.pool.flush = consumer.pipes.flush
        _leave_pipes_alone(pool, hub)


class Waiting(NamedTuple):
    """One of Celery's requests, whose task waits in the pipe of a process or has not been written."""

    request: Any
    is_written: bool


class Pipes:
    """The pipes into which a worker's main process writes tasks, one for each process of its pool.

    A task is written as soon as it comes, if a process is idle. It may also be written ahead, behind one that
    still runs, so that the process need not wait for the main process then. It must be a node: a node's
    message is harmless when it comes twice, and a task written into a pipe cannot be taken out again.
    """

    writes_ahead = False
    """True if a process that runs a node is sent the next one."""

    def __init__(self, pool: Any, hub: Any) -> None:
        self._pool = pool
        self._written_ahead: set[int] = set()
        self._queue, self._write = pool._quick_put, hub.consolidate_callback
        pool._quick_put = self._put
        pool._mark_worker_as_available = self._mark_available

    def waiting(self) -> list[Waiting]:
        """Return the tasks that cannot begin before a process has ended its present one; the latest first."""
        jobs = list(self._pool._cache.values())
        running = {self._pipe_of(job) for job in jobs if job._accepted}
        is_full = bool(running) and running.issuperset(self._pool._all_inqueues)
        waiting = []
        for job in reversed(jobs):
            request, pipe = _request_of(job), self._pipe_of(job)
            is_stuck = pipe in running or (pipe is None and is_full)
            if request is not None and is_stuck and not job._accepted:
                waiting.append(Waiting(request, is_written=pipe is not None))
        return waiting

    def withdraw(self, request: Any) -> None:
        """Drop a task that has not been written."""
        pool = self._pool
        job = next(job for job in pool.outbound_buffer if _request_of(job) is request)
        pool.outbound_buffer.remove(job)
        job.discard()
        pool._putlock.release()

    def flush(self) -> None:
        """Drop the tasks that have not begun, as Celery's pool does when a connection to the broker ends.

        But keep those in a pipe at the worker's own end: the process would wait 30 s for the main process to
        read their results.
        """
        if _is_ending():
            for job in self._pool._cache.values():
                job._accepted = job._accepted or self._pipe_of(job) is not None
        self._pool.flush()

    def _put(self, task: Any) -> None:
        self._queue(task)
        if _is_ending():
            return  # the loop does not run again to read its result
        pipe = next(self._idle(), None)
        if pipe is None and self.writes_ahead and self._may_wait(task):
            pipe = next(self._with_room(), None)
            if pipe is not None:
                self._written_ahead.add(pipe)
        if pipe is not None:
            self._pool._busy_workers.discard(pipe)
            self._write([pipe])

    def _idle(self) -> Iterator[int]:
        busy, written = self._pool._busy_workers, self._pool._active_writes
        return (pipe for pipe in self._pool._all_inqueues if pipe not in busy and pipe not in written)

    def _with_room(self) -> Iterator[int]:
        ahead, written = self._written_ahead, self._pool._active_writes
        return (pipe for pipe in self._pool._all_inqueues if pipe not in ahead and pipe not in written)

    def _may_wait(self, task: Any) -> bool:
        """Return whether a task is a node and no other waits before it, which could be a team's own."""
        match task:
            case (_, (_, _, _, (name, *_), _)):  # as billiard packs it, and Celery its arguments
                return name == TASK_NAME and len(self._pool.outbound_buffer) == 1
        return False

    def _mark_available(self, pipe: int) -> None:
        self._written_ahead.discard(pipe)
        # A process reports the beginning of a task only after the result of the one before.
        jobs = self._pool._cache.values()
        if not any(not job._accepted and self._pipe_of(job) == pipe for job in jobs):
            self._pool._busy_workers.discard(pipe)

    def _pipe_of(self, job: Any) -> int | None:
        """Return the pipe into which a job was written; None if it is still to be written, or again."""
        is_to_write = job._write_to is None or job in self._pool.outbound_buffer
        return None if is_to_write else job._write_to.inqW_fd


def _request_of(job: Any) -> Any:
    """Return Celery's request behind a job; None for one of the pool's own, such as after its restart."""
    return getattr(job._accept_callback, "__self__", None)


def _is_ending() -> bool:
    return state.should_stop is not None or state.should_terminate is not None


def _leave_pipes_alone(pool: Any, hub: Any) -> None:
    """Spare the pool from unregistering the pipes of all its processes in every iteration of the loop."""
    before_poll, tasks, registered = pool.on_poll_start, pool.outbound_buffer, hub.consolidate

    def before_poll_if_needed() -> None:
        if tasks or registered:
            before_poll()

    # The pool registers it with the first connection only.
    if before_poll in hub.on_tick:
        hub.on_tick.remove(before_poll)
        hub.on_tick.add(before_poll_if_needed)
