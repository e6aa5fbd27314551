"""`python -m benchmarks [NAME…]`: measure, print, and rewrite the documents' figures.

A full run fails if a target is missed. With --quick everything is small and nothing is judged or written:
the run only shows, within a minute, that the benchmarks work.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

import click

from benchmarks import (
    brokers,
    calls,
    children,
    desk,
    footprint,
    growth,
    hops,
    internals,
    levers,
    memory,
    million,
    outside,
    parallel,
    setup,
    starts,
    tasks,
    telemetry,
    waiting,
    workloads,
)
from benchmarks.machine import described
from benchmarks.quietness import Load
from benchmarks.report import CHART, printed, without_targets, write_into
from benchmarks.testbed import BenchmarkFailed, Testbed
from workflow_engine.embedded.rabbitmq import rabbitmq_programs
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.settings import ENVIRONMENT_PREFIX

BENCHMARKS = {
    "hops": hops.measure,
    "brokers": brokers.measure,
    "workloads": workloads.measure,
    "growth": growth.measure,
    "memory": memory.measure,
    "outside": outside.measure,
    "parallel": parallel.measure,
    "children": children.measure,
    "tasks": tasks.measure,
    "calls": calls.measure,
    "internals": internals.measure,
    "levers": levers.measure,
    "telemetry": telemetry.measure,
    "waiting": waiting.measure,
    "starts": starts.measure,
    "setup": setup.measure,
    "footprint": footprint.measure,
    "million": million.measure,
    "desk": desk.measure,
}
WITHIN_A_MINUTE = tuple(name for name in BENCHMARKS if name not in ("waiting", "brokers"))
"""The benchmarks of a quick run without names; neither waits nor the start of RabbitMQ can be hurried."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="A minute at most: small numbers, no targets, nothing written.")
def main(names: tuple[str, ...], quick: bool) -> None:
    """Measure the figures of the documents: the benchmarks named, or all."""
    # A developer's own settings of the engine and of Celery must not change the figures.
    for name in [name for name in os.environ if name.startswith((ENVIRONMENT_PREFIX, "CELERY_"))]:
        del os.environ[name]
    missed: list[str] = []
    disturbed: list[str] = []
    # One testbed for all saves most of a quick run's time; where it counts, each has tables of its own.
    with Testbed(keeps_workers=True) if quick else nullcontext() as common:
        for name in names or (WITHIN_A_MINUTE if quick else _possible()):
            click.echo(f"{name}{' (quick)' if quick else ''}", err=True)
            before = Load.now()
            try:
                with nullcontext(common) if common else Testbed() as testbed:
                    section = BENCHMARKS[name](testbed, quick)
                    load = Load.now() - before
                    machine = f"{described(testbed)} {load.text()}"
            except (BenchmarkFailed, WorkflowEngineError) as failure:
                sys.exit(f"{name}: {failure}")
            for title, part in {name: section, **section.further}.items():
                shown = without_targets(part) if quick else part
                if not quick:
                    write_into(part.document, title, shown, machine)
                    if part.chart:
                        CHART.write_text(part.chart)
                click.echo(printed(shown, machine))
                disturbed += [] if load.is_quiet else [f"{name} ({load.others:.2f} cores)"]
                missed += [f"{title}: {figure.name}" for figure in shown.figures if figure.is_missed]
    if disturbed:
        click.echo("Not measured on a quiet machine: " + ", ".join(dict.fromkeys(disturbed)), err=True)
    if missed:
        sys.exit("Targets missed: " + "; ".join(missed))


def _possible() -> list[str]:
    """Return the benchmarks for which this machine has the servers."""
    if rabbitmq_programs() is not None:
        return list(BENCHMARKS)
    click.echo("brokers is left out: this machine has no rabbitmq-server", err=True)
    return [name for name in BENCHMARKS if name != "brokers"]


if __name__ == "__main__":
    main()
