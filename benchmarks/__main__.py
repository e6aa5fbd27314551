"""`python -m benchmarks [NAME…]`: measures, prints, and writes the documents' figures anew.

A full run fails if a target is missed. With --quick everything is small and nothing is judged or written:
it only shows, within a minute, that the benchmarks run.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

import click

from benchmarks import footprint, growth, hops, levers, memory, million, outside, setup, waiting, workloads
from benchmarks.fleet import BenchmarkFailed, Fleet
from benchmarks.machine import described
from benchmarks.report import CHART, printed, without_targets, write_into
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.settings import ENVIRONMENT_PREFIX

BENCHMARKS = {
    "hops": hops.measure,
    "workloads": workloads.measure,
    "growth": growth.measure,
    "memory": memory.measure,
    "outside": outside.measure,
    "levers": levers.measure,
    "waiting": waiting.measure,
    "setup": setup.measure,
    "footprint": footprint.measure,
    "million": million.measure,
}
WITHIN_A_MINUTE = tuple(name for name in BENCHMARKS if name != "waiting")
"""What a quick run that is given no names runs: waits cannot be hurried."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="A minute at most: small numbers, no target, nothing written.")
def main(names: tuple[str, ...], quick: bool) -> None:
    """Measure what the documents say about performance: the benchmarks named, or all."""
    # What a developer has set for the engine or for Celery is not meant for this.
    for name in [name for name in os.environ if name.startswith((ENVIRONMENT_PREFIX, "CELERY_"))]:
        del os.environ[name]
    missed: list[str] = []
    # One fleet for all saves most of a quick run's time; where it counts, each has tables of its own.
    with Fleet(keeps_workers=True) if quick else nullcontext() as common:
        for name in names or (WITHIN_A_MINUTE if quick else BENCHMARKS):
            click.echo(f"{name}{' (quick)' if quick else ''}", err=True)
            try:
                with nullcontext(common) if common else Fleet() as fleet:
                    section = BENCHMARKS[name](fleet, quick)
                    machine = described(fleet)
            except (BenchmarkFailed, WorkflowEngineError) as failure:
                sys.exit(f"{name}: {failure}")
            for title, part in {name: section, **section.further}.items():
                told = without_targets(part) if quick else part
                if not quick:
                    write_into(part.document, title, told, machine)
                    if part.chart:
                        CHART.write_text(part.chart)
                click.echo(printed(told, machine))
                missed += [f"{title}: {figure.name}" for figure in told.figures if figure.is_missed]
    if missed:
        sys.exit("Targets missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
