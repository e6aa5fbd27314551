"""Processor time of a process and of its children, as the operating system counts it.

A process' first thread, its other threads, and its children are separate: in a Celery worker these are the
event loop of its main process, the timekeeper, and the pool.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import psutil

# On Linux, what guests used is in `user` too.
NOT_BUSY = ("idle", "iowait", "guest", "guest_nice")


def of_the_machine() -> float:
    """Return the seconds for which its cores have been busy."""
    times = psutil.cpu_times()
    return float(sum(times) - sum(getattr(times, idle, 0) for idle in NOT_BUSY))


def of_the_tree(pid: int) -> float:
    """Return the seconds of a process and all its descendants so far, including those that have ended."""
    root = psutil.Process(pid)
    seconds = 0.0
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()  # those of children that were waited for are part of it
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of processor time."""

    first_thread: float
    other_threads: float
    children: float

    @classmethod
    def of(cls, pid: int) -> ProcessorTime:
        """Return the use of a process and its children so far, including children that have ended."""
        process = psutil.Process(pid)
        threads = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
        first = threads.pop(pid)
        own = process.cpu_times()
        children = own.children_user + own.children_system
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                children += times.user + times.system
        return cls(first, sum(threads.values()), children)

    @property
    def total(self) -> float:
        return self.first_thread + self.other_threads + self.children

    def __add__(self, other: ProcessorTime) -> ProcessorTime:
        return ProcessorTime(
            self.first_thread + other.first_thread,
            self.other_threads + other.other_threads,
            self.children + other.children,
        )

    def __sub__(self, other: ProcessorTime) -> ProcessorTime:
        return ProcessorTime(
            self.first_thread - other.first_thread,
            self.other_threads - other.other_threads,
            self.children - other.children,
        )
