"""Processor time of a process and of its children, as the operating system counts it.

A process' first thread, its other threads, and its children are separate: in a Celery worker these are the
event loop of its main process, the timekeeper, and the pool.
"""

from __future__ import annotations

import sys
import time
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


def _of_all_threads(process: psutil.Process) -> float:
    """Return the seconds of a process so far, without its children. Raises `psutil.NoSuchProcess`."""
    if sys.platform == "linux":
        try:
            # The clock of another process, as clock_getcpuclockid(3) names it: in nanoseconds, while the
            # times that psutil reads are in hundredths of a second.
            return time.clock_gettime(~process.pid << 3 | 2)
        except OSError:
            raise psutil.NoSuchProcess(process.pid) from None
    times = process.cpu_times()
    return float(times.user + times.system)


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
        others = sum(each.user_time + each.system_time for each in process.threads() if each.id != pid)
        ended = process.cpu_times()
        children = ended.children_user + ended.children_system
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                children += _of_all_threads(child)
        return cls(_of_all_threads(process) - others, others, children)

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
