"""`python -m faults`: causes every fault in full, prints the tables and writes them to docs/faults.md."""

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
from faults.verdict import judge, tell
from workflow_engine.settings import ENVIRONMENT_PREFIX

NAMES = [fault.name for fault in FAULTS]


class DeadlinePassed(Exception):
    """A fault takes longer than it may; it is reported as failed, and the others go on."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", "names", multiple=True, type=click.Choice(NAMES), help="These faults, in turn.")
@click.option("--inline", is_flag=True, help="Workers walk inline, which has its own tables.")
@click.option("--short", is_flag=True, help="As in the tests: short, and no time is judged.")
def main(names: tuple[str, ...], inline: bool, short: bool) -> None:
    """Break everything, and see that nothing is lost. Only a full run is written to docs/faults.md."""
    # What a developer has set for the engine or for Celery is not meant for this.
    for name in [name for name in os.environ if name.startswith((ENVIRONMENT_PREFIX, "CELERY_"))]:
        del os.environ[name]
    scale = replace(SHORT if short else LONG, hops="inline" if inline else "spread")
    verdicts = []
    with Servers() as servers:
        for fault in FAULTS:
            if names and fault.name not in names:
                continue
            tell(f"{fault.name} …")
            with _alarm(fault.deadline, fault.name):
                verdicts.append(judge(fault, scale, servers))
            click.echo(plain(verdicts[-1]))
        written = f"{tables(verdicts)}\n\n{described(scale, servers)}"
    click.echo(f"\n{written}")
    if not (names or short):
        write_into(DOCUMENT, scale.hops, written)
    if broken := [verdict.fault.name for verdict in verdicts if verdict.problems]:
        sys.exit("Promises not kept: " + ", ".join(broken))


@contextmanager
def _alarm(seconds: float, name: str) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise DeadlinePassed(f"{name} was not over within {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
