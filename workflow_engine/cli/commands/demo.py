"""`demo`: the README's example, on embedded servers or on those of the settings."""

from __future__ import annotations

import contextlib
import sys

import click

from workflow_engine.cli.extras import require_flower
from workflow_engine.cli.invocation import Invocation, command


@command("demo")
@click.option("--once", is_flag=True, help="Exit when all executions have ended.")
@click.option(
    "--orders", type=click.IntRange(min=1), default=200, show_default=True, help="How many to start."
)
def demo(invocation: Invocation, once: bool, orders: int) -> int:
    """Run an example on real workers and watch it.

    Starts Postgres, Redis, two workers and Flower, and one execution for each order; stops everything at the
    end. On a terminal it runs until Ctrl-C. The exit status is 0 only if every execution completed.
    """
    from workflow_engine import demo as example

    require_flower()
    _ = invocation.settings  # a malformed setting is refused before anything is started
    # With --json, standard output has the outcome alone, so the screen moves to standard error.
    with contextlib.redirect_stdout(sys.stderr) if invocation.as_json else contextlib.nullcontext():
        status = example.run(once=once or invocation.as_json, orders=orders)
    if invocation.as_json:
        invocation.output({"completed": status == 0, "exitStatus": status})
    return status
