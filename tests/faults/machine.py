"""The machine, versions and settings of a run, without which its figures mean nothing."""

from __future__ import annotations

from benchmarks import machine
from faults.fault import Scale
from faults.servers import Servers
from faults.stage import Stage


def described(scale: Scale, servers: Servers) -> str:
    """Return one paragraph: date, machine, versions, settings and workload."""
    with Stage.opened(scale, servers) as stage:
        on = machine.described(stage)
        settings = ", ".join(
            f"{name} {getattr(stage.settings, name):g}"
            for name in ("lock_expiry", "stall_after", "claim_lease", "max_recoveries")
        )
    return (
        f"{on} {scale.workers} workers of {scale.processes} processes unless stated otherwise, nodes of "
        f"{scale.pace.replace('-', ' to ')} s, {scale.order_rate:g} orders a second; {settings}."
    )
