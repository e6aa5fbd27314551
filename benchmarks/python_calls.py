"""The Python calls of a hop, counted in the pool: exact, where a percent of its time is lost in noise.

A worker that imports this module and knows the folder counts the calls from one hop to the next, in each
process of its pool. The median hop is the same in every run if no hop overlaps with another.
"""

from __future__ import annotations

import os
import statistics
import sys
from array import array
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from celery.signals import worker_process_init

FOLDER_VARIABLE = "BENCHMARKS_PYTHON_CALLS"
"""The environment variable that names the folder of the counts."""

HOP = ("run_node", os.path.join("worker", "tasks.py"))
"""The function by which every hop begins, and the end of its file's path."""

OF_LIMITS = (
    os.path.join("preconditions", "slots.py"),
    os.path.join("runner", "limits.py"),
    os.path.join("postgres", "limits.py"),
)
"""The ends of the paths of the code for limits."""


class Calls(NamedTuple):
    """The Python calls of the median hop."""

    all: int
    of_limits: int


class _Profile:
    """Counts the calls of a thread, and appends those of each hop to a file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._calls = self._of_limits = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code.co_name == HOP[0] and code.co_filename.endswith(HOP[1]):
            os.write(self._file, array("l", (self._calls, self._of_limits)).tobytes())
            self._calls = self._of_limits = 0
        self._calls += 1
        self._of_limits += code.co_filename.endswith(OF_LIMITS)


@worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]  # celery has no types
def _count(**_: object) -> None:
    if (folder := os.environ.get(FOLDER_VARIABLE)) is not None:
        sys.setprofile(_Profile(Path(folder, str(os.getpid()))))


def of_median_hop(folder: Path) -> Calls:
    """Return the calls of the median hop of all processes that have counted into this folder."""
    numbers = array("l")
    for path in folder.iterdir():
        numbers.frombytes(path.read_bytes())
    return Calls(_median(numbers[0::2]), _median(numbers[1::2]))


def _median(numbers: Iterable[int]) -> int:
    return statistics.median_low(numbers)
