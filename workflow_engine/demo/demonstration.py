"""The demo from its first line to its last: orders go through the workflow, and their results are shown.

The last order, an error or a signal ends it; then everything that was started ends in reverse order.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from workflow_engine.client import WorkflowClient
from workflow_engine.definition.workflow import Workflow
from workflow_engine.demo.example import NODES, Example
from workflow_engine.demo.payments import PaymentProvider
from workflow_engine.demo.processes import DemoFailed, Interrupted, Interruption
from workflow_engine.demo.progress import Progress, executions_since
from workflow_engine.demo.screen import (
    Screen,
    durations_ms,
    flower_tasks_url,
    path_table,
    percentile,
    processes_table,
)
from workflow_engine.demo.stage import Stage, servers_to_start, set_up
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.settings import ENVIRONMENT_PREFIX

LOOK_INTERVAL = 0.2
STALL_TIMEOUT = 30.0
WIDTH_WITHOUT_TERMINAL = 110


def run(*, once: bool, orders: int = 200) -> int:
    """Run the demo in the foreground, and return its exit status.

    `orders`, at least 1, is the number of executions to start. On a terminal the demo runs until it is
    interrupted, unless `once`. The status is 0 if every execution completed, 128 plus the number of a signal
    that came before the demo was finished, else 1. Only the main thread can call this.
    """
    on_terminal = sys.stdout.isatty()
    screen = Screen(Console(width=None if on_terminal else WIDTH_WITHOUT_TERMINAL))
    with Interruption() as interruption:
        try:
            with ExitStack() as undo:
                undo.callback(screen.say, "Everything that the demo started has ended.")
                demonstration = Demonstration(screen, interruption)
                try:
                    return demonstration.perform(undo, orders, stays_up=on_terminal and not once)
                finally:
                    screen.say("\nStopping Flower, the workers and the servers")
        except Interrupted as interrupted:
            return 128 + interrupted.signum
        except WorkflowEngineError as error:
            screen.say(f"The demo failed: {error}", style="red")
            return 1


class Demonstration:
    """One run of the demo."""

    def __init__(self, screen: Screen, interruption: Interruption) -> None:
        self._screen = screen
        self._interruption = interruption

    def perform(self, undo: ExitStack, orders: int, *, stays_up: bool) -> int:
        """Run all of it, and return the exit status; `undo` ends what was started."""
        example = Example.find()
        sys.path.insert(0, str(example.folder))  # deploying checks the arguments of the Python nodes
        started = [*servers_to_start(), "two workers of two processes each"]
        self._screen.say(f"Starting {', '.join(started)} and Flower")
        stage = set_up(undo, self._interruption, NODES, example.folder)
        client = WorkflowClient(stage.settings)
        workflow = self._deploy(client, example)
        self._screen.say(f"Flower shows the executions: {stage.flower}/executions")
        progress = Progress(client, workflow.id, example.orders(orders), PaymentProvider(client))
        self._follow(progress, workflow, stage)
        completed = self._summarise(progress, stage)
        self._show_how_to_continue(progress, stage, stays_up=stays_up)
        if stays_up:
            self._stay(stage)
        return 0 if completed == orders else 1

    def _deploy(self, client: WorkflowClient, example: Example) -> Workflow:
        deployment = client.deploy(example.definition())
        workflow = client.workflow(deployment.workflow_id, deployment.version).workflow
        self._screen.say(f"Deployed {workflow.id}, version {deployment.version}: {len(workflow.nodes)} nodes")
        return workflow

    def _follow(self, progress: Progress, workflow: Workflow, stage: Stage) -> None:
        """Start the orders and show their progress until all have ended. Raises DemoFailed if they stall."""
        last_moved = time.monotonic()
        with self._screen.live():
            while not progress.is_complete:
                progress.start_orders()
                progress.provider.confirm()
                if progress.look():
                    last_moved = time.monotonic()
                elif time.monotonic() - last_moved > STALL_TIMEOUT:
                    logs = stage.processes.log_ends()
                    raise DemoFailed(f"no execution has moved for {STALL_TIMEOUT:g} s\n{logs}")
                self._screen.update(progress, workflow, stage.processes.name_of)
                stage.processes.check()
                self._interruption.pause(LOOK_INTERVAL)

    def _summarise(self, progress: Progress, stage: Stage) -> int:
        """Show totals and one execution, and return how many have completed."""
        name_of, say = stage.processes.name_of, self._screen.say
        # Not from what was seen on the way: Postgres is asked again, through a connection of its own.
        found = executions_since(WorkflowClient(stage.settings), progress.workflow_id, min(progress.started))
        ended = [execution for execution in found if execution.id in progress.started]
        totals = Counter(execution.status for execution in ended)
        durations = durations_ms(ended)
        say("")
        for status, count in totals.items():
            say(f"{count} of {len(progress.orders)} executions {status} in Postgres", style="bold")
        say(_waits_and_retries(progress))
        say(
            f"An execution took {percentile(durations, 0.5):.0f} ms (p50), {percentile(durations, 0.95):.0f} "
            f"ms (p95), waits included.\n"
            f"{progress.nodes:,} nodes ran in {progress.seconds:.1f} s, on these processes:\n"
        )
        self._screen.show_table(processes_table(progress, name_of))
        for failed in [execution for execution in ended if execution.status is ExecutionStatus.FAILED][:3]:
            say(f"\nExecution {failed.id} failed: {failed.error}", style="red")
        shown = progress.most_travelled
        say(f"\nThe path of order {progress.started[shown]['orderId']}, execution {shown}:\n")
        self._screen.show_table(path_table(progress.journals[shown], name_of))
        return totals[ExecutionStatus.COMPLETED]

    def _show_how_to_continue(self, progress: Progress, stage: Stage, *, stays_up: bool) -> None:
        say, shown = self._screen.say, progress.most_travelled
        if stays_up:
            say("\nFlower")
            say(f"  all executions         {stage.flower}/executions")
            say(f"  this execution         {stage.flower}/executions/{shown}")
            say(f"  this execution's tasks {flower_tasks_url(stage.flower, progress.workflow_id, shown)}")
        if stays_up or stage.outlives_the_demo:
            say("\nTo continue, in another terminal")
            for line in _commands(stage, shown):
                say(f"  {line}")
        else:
            say("\nOn a terminal, and without --once, everything keeps running for you to look around.")

    def _stay(self, stage: Stage) -> None:
        """Wait for Ctrl-C, the ordinary end. Raises Interrupted for any other signal."""
        self._screen.say("\nEverything keeps running until you press Ctrl-C.", style="bold")
        try:
            while True:
                stage.processes.check()
                self._interruption.pause(1)
        except Interrupted as interrupted:
            if interrupted.signum != signal.SIGINT:
                raise


def _waits_and_retries(progress: Progress) -> str:
    waits, early = progress.waits, progress.provider.answers["kept"]
    return (
        f"Nodes waited {waits['wait-events']} times for a payment and {waits['delay']} times for the "
        f"supplier, and held no worker.\n{early} payments were confirmed before anything waited for them. "
        f"{progress.retries} attempts failed and were retried."
    )


def _commands(stage: Stage, execution_id: str) -> list[str]:
    """Return lines to copy into a shell: the addresses of the servers, and commands to try."""
    settings = {
        f"{ENVIRONMENT_PREFIX}{name.upper()}": value.replace("postgresql+psycopg2:", "postgresql:")
        for name, value in stage.own.items()
        if name in ("database_url", "redis_url")
    }
    program = os.path.relpath(Path(sys.executable).with_name("workflow-engine"))
    table = f"{stage.settings.database_schema}.executions"
    # S608: it is only printed.
    count = f"SELECT status, count(*) FROM {table} GROUP BY status"  # noqa: S608
    return [
        *(f"export {name}={shlex.quote(value)}" for name, value in settings.items()),
        f"{program} show {execution_id}",
        f"{program} events {execution_id}",
        f"{program} list",
        f'psql "${ENVIRONMENT_PREFIX}DATABASE_URL" -c "{count}"',
    ]
