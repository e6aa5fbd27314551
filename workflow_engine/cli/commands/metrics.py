"""`metrics`: what is stored and what is late, in the form that Prometheus reads."""

from __future__ import annotations

import signal
import threading

import click

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.invocation import Invocation, command
from workflow_engine.client import WorkflowClient


@command("metrics")
@click.option(
    "--serve",
    "port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Serve them on this port until the command is ended, instead of printing them once.",
)
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="Address of that port; 0.0.0.0 lets other machines read it.",
)
def metrics(invocation: Invocation, port: int | None, address: str) -> ExitStatus:
    """Print or serve the state of the installation for Prometheus.

    Executions by status and by why they do not move, what waits for limits, waits and schedules that are
    late, queues and their oldest messages: read from the servers at every scrape. Workers serve their own
    metrics where WORKFLOW_ENGINE_METRICS_PORT is set.
    """
    state = WorkflowClient(engine=invocation.engine()).state_metrics
    if port is None:
        text = state.exposition().decode()
        invocation.output({"exposition": text}, text.rstrip())
        return ExitStatus.YES
    from workflow_engine.telemetry.exposition import serve

    try:
        stop = serve(port, address, state.collector())
    except OSError as error:
        raise click.UsageError(f"cannot serve on {address}:{port}: {error}") from error
    click.echo(f"Serving metrics at http://{address}:{port}/metrics", err=True)
    is_ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: is_ended.set())
    is_ended.wait()
    stop()
    return ExitStatus.YES
