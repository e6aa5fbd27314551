"""Hands messages over to pool processes with fewer detours than Celery's event loop makes.

Celery's pool queues a task until it has heard from a process that it has run its last one, asks the kernel in
the next turn of the loop which pipes can be written to, and writes in the one after. A process waits for that
between any two nodes, and the main process pays for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from celery import bootsteps
from celery.concurrency.asynpool import AsynPool
from celery.worker import state

from workflow_engine.dispatch import TASK_NAME


class Handover(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Part of the consumer, since the pool gets its handlers anew with every new connection.

    Leaves the `Pipes` in the consumer's `pipes`, or None where processes have none.
    """

    requires = {"celery.worker.consumer.connection:Connection"}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.pipes = None

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        pool = getattr(consumer.pool, "_pool", None)
        if isinstance(pool, AsynPool):
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
    still runs: nobody waits for the main process then. It must be a node, as a message for one does no harm
    when it comes twice, and what has been written into a pipe cannot be taken out again.
    """

    writes_ahead = False
    """Whether a process that runs a node is given the next one."""

    def __init__(self, pool: Any, hub: Any) -> None:
        self._pool = pool
        self._written_ahead: set[int] = set()
        self._queue, self._write = pool._quick_put, hub.consolidate_callback
        pool._quick_put = self._put
        pool._mark_worker_as_available = self._answered

    def waiting(self) -> list[Waiting]:
        """What cannot begin before a process has ended the task that it runs; the latest first."""
        jobs = list(self._pool._cache.values())
        running = {self._pipe_of(job) for job in jobs if job._accepted}
        is_full = bool(running) and running.issuperset(self._pool._all_inqueues)
        waiting = []
        for job in reversed(jobs):
            pipe = self._pipe_of(job)
            if not job._accepted and (pipe in running or (pipe is None and is_full)):
                waiting.append(Waiting(job._accept_callback.__self__, is_written=pipe is not None))
        return waiting

    def withdraw(self, request: Any) -> None:
        """Forget a task that has not been written."""
        pool = self._pool
        job = next(job for job in pool.outbound_buffer if job._accept_callback.__self__ is request)
        pool.outbound_buffer.remove(job)
        job.discard()
        pool._putlock.release()

    def flush(self) -> None:
        """Forget what has not begun, as Celery's pool does when a connection to the broker ends.

        But not what is in a pipe at the worker's own end: the process would wait 30 s for somebody to hear
        that it has run that.
        """
        if _is_ending():
            for job in self._pool._cache.values():
                job._accepted = job._accepted or self._pipe_of(job) is not None
        self._pool.flush()

    def _put(self, task: Any) -> None:
        self._queue(task)
        if _is_ending():
            return  # the loop does not turn again to hear of it
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
        """What has come before it goes first, and could be a task of a team's own."""
        _, (_, _, _, arguments, _) = task
        return bool(len(self._pool.outbound_buffer) == 1 and arguments[:1] == (TASK_NAME,))

    def _answered(self, pipe: int) -> None:
        self._written_ahead.discard(pipe)
        # A process says that it begins a task only after its answer to the one before.
        jobs = self._pool._cache.values()
        if not any(not job._accepted and self._pipe_of(job) == pipe for job in jobs):
            self._pool._busy_workers.discard(pipe)

    def _pipe_of(self, job: Any) -> int | None:
        """Into which a job was written; not if it is to be written anew, as that process has ended."""
        is_to_write = job._write_to is None or job in self._pool.outbound_buffer
        return None if is_to_write else job._write_to.inqW_fd


def _is_ending() -> bool:
    return state.should_stop is not None or state.should_terminate is not None


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
