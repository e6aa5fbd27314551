"""What a fault is, the scale at which it is caused, and its findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from faults.workload import nodes_of_an_order

if TYPE_CHECKING:
    from faults.record import Record
    from faults.stage import Stage


SLOW = "0.4-0.8"
"""The pace of nodes that have to be caught while they run."""


@dataclass(frozen=True)
class Scale:
    """How much of everything. Times are in seconds."""

    settings: Mapping[str, Any]
    """The engine's settings that are not its defaults."""
    pace: str
    """How long nodes take, at least and at most."""
    workers: int
    processes: int
    """In the pool of each worker."""
    executions: int
    """That come in at once."""
    rate: float
    """Executions that come in per second, where they come in one after another and have no loop."""
    trouble: float
    """How long faults are caused."""
    outage: float
    """How long a server is away."""
    repetitions: int
    """Of faults that are quick to cause and hit random points."""
    backlog: int
    """Executions that queue behind two busy processes."""
    timeout: float
    """How long to wait for the end of everything once no more faults are caused."""
    judges_times: bool
    """Whether the promises about times are judged, or the times only reported."""
    walk: str = "spread"
    """How the workers walk through the executions."""

    @property
    def order_rate(self) -> float:
        """Orders that come in per second: fewer where an order has more nodes.

        So the workers are as busy on each walk; behind a queue, nothing would be seen of a rescue.
        """
        return self.rate * nodes_of_an_order("spread") / nodes_of_an_order(self.walk)

    @property
    def load(self) -> int:
        """Executions that come in one after another while faults are caused."""
        return round(self.order_rate * self.trouble)


LONG = Scale(
    settings={},
    pace="0.2-0.5",
    workers=3,
    processes=5,
    executions=300,
    rate=2,
    trouble=60,
    outage=20,
    repetitions=500,
    backlog=5_000,
    timeout=240,
    judges_times=True,
)
SHORT = Scale(
    settings={"lock_expiry": 2, "stall_after": 2, "claim_lease": 2},
    pace="0.05-0.12",
    workers=2,
    processes=2,
    executions=24,
    rate=3,
    trouble=4,
    outage=1.5,
    repetitions=20,
    backlog=200,
    timeout=40,
    judges_times=False,
)


@dataclass(frozen=True)
class Findings:
    """What a fault led to, before the promises that hold for all are judged."""

    record: Record
    started: frozenset[str]
    """The executions that a `start` returned."""
    times: int
    """How often the fault was caused."""
    delays: Sequence[float] = ()
    """Seconds until things moved again."""
    problems: Sequence[str] = ()
    """Promises of this fault alone that were not kept."""
    also: Sequence[str] = ()
    """Further observations, in a few words each."""


@dataclass(frozen=True)
class Fault:
    """A line of the table."""

    name: str
    """For the command line."""
    title: str
    how: str
    """How it is caused."""
    promise: str
    """Its promise beside those that hold for all."""
    run: Callable[[Stage], Findings]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the engine that it needs at any scale."""
    deadline: float = 300.0
    """Seconds that its long form may take, start and end of the servers included."""
