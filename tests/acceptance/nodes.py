"""The functions that the tests' nodes call; workers load them through WORKFLOW_ENGINE_IMPORTS.

What really ran is written to a file outside of the engine, so that a test can hold the journal against it.
A gated node waits for a file that the test makes, so that a test decides how long a node runs.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery.signals import task_postrun
from json_lines import append

from workflow_engine import ExecutionContext, node, waiting

FOLDER_VARIABLE = "ACCEPTANCE_FOLDER"
FOLDER = Path(os.environ.get(FOLDER_VARIABLE, os.devnull))
"""Set for workers; tests load this module to deploy workflows, and call none of it."""
RUNS, TASKS = "runs", "tasks"
"""The files in it: the calls of nodes' functions, and the Celery tasks."""
GATE_PATIENCE = 60.0
"""Seconds after which a gated node gives up, for a test that has failed and opens no gate any more."""


def _write_down_run(context: ExecutionContext) -> None:
    append(
        FOLDER / RUNS,
        {
            "execution_id": context.execution_id,
            "node_id": context.current_node_id,
            "key": context.idempotency_key,
            "process": os.getpid(),
        },
    )


@task_postrun.connect(weak=False)
def _write_down_task(kwargs: Any = None, **_: Any) -> None:
    append(FOLDER / TASKS, {"execution_id": kwargs.get("execution_id"), "process": os.getpid()})


@node("test.echo")
def echo(context: ExecutionContext, value: Any = None) -> Any:
    _write_down_run(context)
    return value


@node("test.grow")
def grow(previous: int) -> dict[str, Any]:
    return {"count": previous + 1, "text": "x" * 1000}


@node("test.gated")
def gated(context: ExecutionContext, value: Any = None) -> Any:
    """Begins, and ends when the test opens the gate of this node."""
    _write_down_run(context)
    gate = FOLDER / f"{context.execution_id}.{context.current_node_id}.open"
    deadline = time.monotonic() + GATE_PATIENCE
    while not gate.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody opened the gate")
        time.sleep(0.01)
    return value


@node("test.outputs")
def outputs(context: ExecutionContext, of: list[str]) -> dict[str, Any]:
    """Reads outputs that its config does not name, so that they are fetched while it runs."""
    _write_down_run(context)
    return {node_id: context.node_outputs[node_id] for node_id in of}


@node("test.raises")
def raises(message: str) -> None:
    raise ValueError(message)


@node("test.not_json")
def not_json() -> Any:
    return {"receipt": {"lines": [object()]}}


@node("test.too_large")
def too_large() -> str:
    return "x" * 2_000_000


@node("test.kills_its_process")
def kills_its_process(context: ExecutionContext) -> None:
    _write_down_run(context)
    os.kill(os.getpid(), signal.SIGKILL)


@node("test.sleeps")
def sleeps(context: ExecutionContext) -> None:
    _write_down_run(context)
    time.sleep(60)


@node("test.ignores_signals")
def ignores_signals() -> None:
    """What is raised inside does not end it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(Exception):
            time.sleep(60)


@node("test.holds_the_interpreter")
def holds_the_interpreter() -> None:
    """Stays in C code, in which no Python signal handler can run."""
    sum(range(10**12))


@node("test.waits")
def waits(context: ExecutionContext, seconds: float) -> Any:
    """Waits once, and answers why it went on."""
    _write_down_run(context)
    return waiting(seconds=seconds) if context.wake is None else context.wake.reason


@node("test.takes")
def takes(context: ExecutionContext, seconds: float) -> float:
    _write_down_run(context)
    time.sleep(seconds)
    return seconds


@node("test.succeeds_at_last")
def succeeds_at_last(context: ExecutionContext, attempt: int) -> int:
    """Fails until this attempt, counted from 1."""
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt} is not the one that succeeds")
    return attempt
