"""`python -m faults`: cause every fault in full, print the tables and write them to docs/faults.md."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click

from faults.catalogue import FAULTS
from faults.fault import LONG, SHORT
from faults.machine import described
from faults.report import DOCUMENT, plain, tables, write_into
from faults.servers import Servers
from faults.verdict import judge, print_step
from workflow_engine.settings import ENVIRONMENT_PREFIX

NAMES = [fault.name for fault in FAULTS]


class DeadlinePassed(Exception):
    """A fault took longer than its deadline; it is reported as failed, and the others continue."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", "names", multiple=True, type=click.Choice(NAMES), help="Only these faults.")
@click.option("--inline", "walk", flag_value="inline", help="Workers walk inline; has tables of its own.")
@click.option("--parallel", "walk", flag_value="parallel", help="Branches run at once; has its own, too.")
@click.option("--short", is_flag=True, help="As in the tests: shorter, and times are not judged.")
def main(names: tuple[str, ...], walk: str | None, short: bool) -> None:
    """Break everything and check that nothing is lost. Only a full run is written to docs/faults.md."""
    # A developer's own settings of the engine and of Celery must not change the run.
    for name in [name for name in os.environ if name.startswith((ENVIRONMENT_PREFIX, "CELERY_"))]:
        del os.environ[name]
    scale = replace(SHORT if short else LONG, walk=walk or "spread")
    verdicts = []
    with Servers.started() as servers:
        for fault in FAULTS:
            if names and fault.name not in names:
                continue
            print_step(f"{fault.name} …")
            with _alarm(fault.deadline, fault.name):
                verdicts.append(judge(fault, scale, servers))
            click.echo(plain(verdicts[-1]))
        written = f"{tables(verdicts)}\n\n{described(scale, servers)}"
    click.echo(f"\n{written}")
    if not (names or short):
        write_into(DOCUMENT, scale.walk, written)
    if broken := [verdict.fault.name for verdict in verdicts if verdict.problems]:
        sys.exit("Promises not kept: " + ", ".join(broken))


@contextmanager
def _alarm(seconds: float, name: str) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise DeadlinePassed(f"{name} took longer than {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
