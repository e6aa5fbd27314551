"""What the faults were caused on: figures without machine, versions and settings say nothing."""

from __future__ import annotations

from typing import cast

import benchmarks.fleet
from benchmarks import machine
from faults.fault import Scale
from faults.servers import Servers
from faults.stage import Stage


def described(scale: Scale, servers: Servers) -> str:
    """One paragraph: when, on what machine, with which versions, settings and workload."""
    with Stage(scale, servers) as stage:
        # It asks engine and Redis of a benchmark's fleet, and a stage has both.
        on = machine.described(cast(benchmarks.fleet.Fleet, stage))
        settings = ", ".join(
            f"{name} {getattr(stage.settings, name):g}"
            for name in ("lock_expiry", "stall_after", "claim_lease", "max_recoveries")
        )
    return (
        f"{on} {scale.workers} workers of {scale.processes} processes where nothing else is said, nodes of "
        f"{scale.pace.replace('-', ' to ')} s, {scale.rate:g} orders a second; {settings}."
    )
