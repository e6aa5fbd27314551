"""`demo`: the example of the README, on embedded servers or those of the settings."""

from __future__ import annotations

import contextlib
import sys

import click

from workflow_engine.cli.invocation import Invocation, command


@command("demo")
@click.option("--once", is_flag=True, help="End when all executions have.")
@click.option(
    "--orders", type=click.IntRange(min=1), default=200, show_default=True, help="How many to start."
)
def demo(invocation: Invocation, once: bool, orders: int) -> int:
    """Run an example on real workers and watch it.

    Starts Postgres, Redis, two workers and Flower, and one execution for each order; stops all of them at
    the end. On a terminal it stays up until Ctrl-C. The status is 0 only if every execution completed.
    """
    from workflow_engine import demo as example

    _ = invocation.settings  # a malformed one is told before anything is started
    # As JSON only the outcome is the answer; what is there to watch moves to standard error.
    with contextlib.redirect_stdout(sys.stderr) if invocation.as_json else contextlib.nullcontext():
        status = example.run(once=once or invocation.as_json, orders=orders)
    if invocation.as_json:
        invocation.answer({"completed": status == 0, "exitStatus": status})
    return status
