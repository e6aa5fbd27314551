"""The demo from its first line to its last: orders go through the workflow, and what became of them.

Whatever ends it, the last order, an error or a signal, all that was started is ended in reverse order.
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
from workflow_engine.definition import Workflow
from workflow_engine.demo.example import NODES, Example
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
from workflow_engine.demo.stage import PROCESSES_EACH, WORKERS, Stage, set_up
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.settings import ENVIRONMENT_PREFIX
from workflow_engine.states import ExecutionStatus

LOOK_INTERVAL = 0.2
STALL_PATIENCE = 30.0
WIDTH_WITHOUT_TERMINAL = 110


def run(*, once: bool, orders: int = 200) -> int:
    """Run the demo in the foreground; its exit status.

    `orders`, at least 1, is how many executions are started. On a terminal the demo stays up until it is
    interrupted, unless `once`. The status is 0 if every execution completed, 128 and the number of the signal
    if one came before the demo was through, else 1. Only the main thread can call this.
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
                    screen.say("\nEnding Flower, the workers and the servers")
        except Interrupted as interrupted:
            return 128 + interrupted.signum
        except WorkflowEngineError as error:
            screen.say(f"The demo failed: {error}", style="red")
            return 1


class Demonstration:
    """One showing of the demo."""

    def __init__(self, screen: Screen, interruption: Interruption) -> None:
        self._screen = screen
        self._interruption = interruption

    def perform(self, undo: ExitStack, orders: int, *, stays_up: bool) -> int:
        """Show all of it; the exit status. What `undo` is given ends what was started."""
        example = Example.find()
        sys.path.insert(0, str(example.folder))  # deploying checks how the Python nodes may be called
        self._screen.say("Starting Postgres, Redis, two workers of two processes each and Flower")
        stage = set_up(undo, self._interruption, NODES, example.folder)
        client = WorkflowClient(stage.settings)
        workflow = self._deploy(client, example)
        self._screen.say(f"Flower shows every node as a task: {stage.flower}/tasks")
        progress = Progress(client, workflow.id, example.orders(orders))
        self._follow(progress, workflow, stage)
        completed = self._summarise(progress, stage)
        self._tell_how_to_go_on(progress, stage, stays_up=stays_up)
        if stays_up:
            self._stay(stage)
        return 0 if completed == orders else 1

    def _deploy(self, client: WorkflowClient, example: Example) -> Workflow:
        deployment = client.deploy(example.definition())
        workflow = client.workflow(deployment.workflow_id, deployment.version).workflow
        self._screen.say(f"Deployed {workflow.id}, version {deployment.version}: {len(workflow.nodes)} nodes")
        return workflow
