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

from celery.exceptions import Reject
from celery.signals import task_failure, task_postrun, task_retry

from support.json_lines import append
from workflow_engine import ExecutionContext, failure, node, waiting

FOLDER_VARIABLE = "ACCEPTANCE_FOLDER"
FOLDER = Path(os.environ.get(FOLDER_VARIABLE, os.devnull))
"""Set for workers; tests load this module to deploy workflows, and call none of it."""
RUNS, TASKS, SIGNALS = "runs", "tasks", "signals"
"""The files in it: the calls of nodes' functions, the Celery tasks, and Celery's signals about failures."""
GATE_TIMEOUT = 60.0
"""Seconds after which a gated node gives up, for a test that failed and does not open its gate."""


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


@task_failure.connect(weak=False)
def _write_down_failure(
    task_id: str = "", exception: Any = None, kwargs: Any = None, einfo: Any = None, **_: Any
) -> None:
    _write_down_signal("task_failure", task_id, exception, kwargs["node_id"], str(einfo))


@task_retry.connect(weak=False)
def _write_down_retry(request: Any = None, reason: Any = None, einfo: Any = None, **_: Any) -> None:
    _write_down_signal("task_retry", request.id, reason.exc, request.kwargs["node_id"], str(einfo))


def _write_down_signal(signal: str, task_id: str, error: Any, node_id: str, traceback: str) -> None:
    fields = {"signal": signal, "task_id": task_id, "error": repr(error), "traceback": traceback}
    append(FOLDER / SIGNALS, {**fields, "node_id": node_id, "process": os.getpid()})


@node("test.echo")
def echo(context: ExecutionContext, value: Any = None) -> Any:
    _write_down_run(context)
    return value


@node("test.grow")
def grow(previous: int) -> dict[str, Any]:
    return {"count": previous + 1, "text": "x" * 1000}


@node("test.gated")
def gated(context: ExecutionContext, value: Any = None) -> Any:
    """Begin, and end when the test opens the gate of this node."""
    _write_down_run(context)
    gate = FOLDER / f"{context.execution_id}.{context.current_node_id}.open"
    deadline = time.monotonic() + GATE_TIMEOUT
    while not gate.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody opened the gate")
        time.sleep(0.01)
    return value


@node("test.outputs")
def outputs(context: ExecutionContext, of: list[str]) -> dict[str, Any]:
    """Read outputs that the config does not name, so that they are loaded while the node runs."""
    _write_down_run(context)
    return {node_id: context.node_outputs[node_id] for node_id in of}


@node("test.raises")
def raises(message: str) -> None:
    raise ValueError(message)


@node("test.divides")
def divides(by: int) -> float:
    return 1 / by


class Declined(Exception):
    """An error that cannot be unpickled, since it takes another argument than it passes on."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")


@node("test.declines")
def declines() -> None:
    raise Declined(402, "card expired")


@node("test.says_no")
def says_no() -> Any:
    return failure("OUT_OF_STOCK", "none left")


@node("test.rejects_its_message")
def rejects_its_message() -> None:
    """Raise the error that would make Celery requeue the message."""
    raise Reject("again", requeue=True)


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
    """Go on after everything that is raised inside."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(Exception):
            time.sleep(60)


@node("test.holds_the_interpreter")
def holds_the_interpreter() -> None:
    """Stay in C code, in which no Python signal handler can run."""
    sum(range(10**12))


@node("test.waits_for_seconds")
def waits_for_seconds(context: ExecutionContext, seconds: float) -> Any:
    """Wait once, and return why the node went on."""
    _write_down_run(context)
    return waiting(seconds=seconds) if context.wake is None else context.wake.reason


@node("test.takes")
def takes(context: ExecutionContext, seconds: float) -> float:
    _write_down_run(context)
    time.sleep(seconds)
    return seconds


@node("test.succeeds_at_last")
def succeeds_at_last(context: ExecutionContext, attempt: int) -> int:
    """Fail until this attempt, counted from 1."""
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt} is not the one that succeeds")
    return attempt
