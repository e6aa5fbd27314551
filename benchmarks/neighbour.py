"""A busy neighbour: programs that keep every core busy while hops are measured beside them.

Production machines have neighbours. Each of these is a process of its own with ordinary priority, which ends
when the block does, and by itself if the benchmark is killed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

LONGEST = 600
"""Seconds after which a neighbour ends by itself."""

BUSY = """
import sys, time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    sum(range(10_000))
"""


@contextmanager
def busy_neighbour(seconds: float = LONGEST) -> Iterator[int]:
    """Keep every core busy during the block, for `seconds` at most. Yield the number of processes."""
    command = [sys.executable, "-c", BUSY, str(seconds)]
    processes = [subprocess.Popen(command) for _ in range(psutil.cpu_count() or 1)]
    try:
        yield len(processes)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
