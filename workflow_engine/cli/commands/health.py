"""`health`: the check of a supervisor's probe, quick, with its result in the exit status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import click

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.health.heartbeat import Heartbeat, folder, heartbeats


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    subject: str
    is_well: bool
    answer: str


@command("health")
@click.option("--live", is_flag=True, help="Check only that the worker on this machine does its work.")
@click.option("--ready", is_flag=True, help="Check only that the servers work and the tables are current.")
@click.option(
    "--worker",
    metavar="NAME",
    help="Check this worker, by Celery's name for it, instead of all on this machine.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    help="Seconds to wait for the servers.",
)
def health(invocation: Invocation, live: bool, ready: bool, worker: str | None, timeout: float) -> ExitStatus:
    """Check, for a supervisor, that the local worker is alive and the servers are ready.

    --live decides whether to restart a worker, and asks no server: an outage is no reason to restart
    anything. --ready decides whether to start one, or anything else that needs the servers. Without either
    option, both are checked.

    The exit status is 0 if all is well, else 1.
    """
    checks: list[Check] = []
    if live or not ready:
        checks += _workers(worker)
    if ready or not live:
        checks += _servers(invocation, timeout)
    is_well = all(check.is_well for check in checks)
    if invocation.as_json:
        invocation.output({"healthy": is_well, "checks": [as_object(check) for check in checks]})
    else:
        for check in checks:
            click.echo(f"{'ok' if check.is_well else 'NO':2}  {check.subject}: {check.answer}")
    return ExitStatus.YES if is_well else ExitStatus.NO


def _workers(name: str | None) -> Iterator[Check]:
    found = [beat for beat in heartbeats() if name in (None, beat.worker, beat.worker.partition("@")[0])]
    if not found:
        yield Check(name or "Worker", False, f"no heartbeat in {folder()}")
    for beat in found:
        yield Check(f"{beat.worker} (process {beat.process})", beat.is_fresh, _describe(beat))


def _describe(beat: Heartbeat) -> str:
    if beat.is_fresh:
        return f"alive, {beat.age:.0f} s ago"
    return f"no heartbeat for {beat.age:.0f} s" if beat.age > 0 else "no heartbeat since the machine started"


def _servers(invocation: Invocation, timeout: float) -> Iterator[Check]:
    settings = invocation.settings
    from workflow_engine.health.readiness import ask_servers

    for server, answer in ask_servers(settings, timeout, invocation.app):
        lines = str(answer).splitlines() or [type(answer).__name__]
        yield Check(server, not isinstance(answer, Exception), lines[0])
