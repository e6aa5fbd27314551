"""How quiet the machine was during a benchmark: what other processes used of it, and how often it switched.

Whatever a benchmark starts is a descendant of its process. All other processor time is that of others, which
makes its figures those of a busy machine.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

from benchmarks.processor_time import of_the_machine, of_the_tree

QUIET = 0.1
"""Cores that other processes may use on average; more makes a difference that a table shows."""


@dataclass(frozen=True)
class Load:
    """The use of the machine up to a time; as a difference, the use in between."""

    seconds: float
    machine: float
    """Seconds of processor time of all processes."""
    own: float
    """Seconds of processor time of this process and its descendants."""
    switches: int
    """Context switches of all processes."""

    @classmethod
    def now(cls) -> Load:
        return cls(
            time.monotonic(), of_the_machine(), of_the_tree(os.getpid()), psutil.cpu_stats().ctx_switches
        )

    def __sub__(self, earlier: Load) -> Load:
        return Load(
            self.seconds - earlier.seconds,
            self.machine - earlier.machine,
            self.own - earlier.own,
            self.switches - earlier.switches,
        )

    @property
    def others(self) -> float:
        """The number of cores that other processes used on average."""
        return max(0.0, (self.machine - self.own) / self.seconds)

    @property
    def is_quiet(self) -> bool:
        return self.others <= QUIET

    def text(self) -> str:
        """Return one or two sentences, of which the first says so if the machine was not quiet."""
        said = "" if self.is_quiet else "**The machine was not quiet**, so times are longer than its own. "
        return (
            f"{said}Other processes used {self.others:.2f} of {psutil.cpu_count()} cores meanwhile, and the "
            f"machine switched contexts {self.switches / self.seconds:,.0f} times a second."
        )
