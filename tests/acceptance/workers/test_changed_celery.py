"""Workers on a Celery or kombu that has renamed what the engine uses of it run nodes as Celery runs tasks."""

from __future__ import annotations

import pytest

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import WorkflowBuilder
from workflow_engine.broker.inspection import ask_workers

TIMEOUT = 60.0
"""Seconds within which the executions end with a wide margin, even on a busy machine."""

RENAMED = """
import inspect

from celery.concurrency import asynpool, prefork
from kombu.transport import redis


def rename(module, old, new):
    source = inspect.getsource(module)
    assert old in source
    exec(compile(source.replace(old, new), module.__file__, "exec"), vars(module))


rename({module}, "{old}", "_of_a_later_release")
prefork.TaskPool.Pool = asynpool.AsynPool

from workflow_engine.worker.app import app
"""


@pytest.mark.parametrize(
    ("module", "old", "changed", "what_follows"),
    [
        (
            "asynpool",
            "_busy_workers",
            "AsynPool._busy_workers is missing",
            "event loop hands tasks to processes",
        ),
        ("redis", "_brpop_start", "Channel._brpop_start is missing", "Its own Redis transport is used"),
    ],
)
def test_a_worker_runs_nodes_says_what_has_changed_once_and_tells_the_doctor(
    own_fleet: Fleet, module: str, old: str, changed: str, what_follows: str
) -> None:
    fleet = own_fleet
    (fleet.folder / "renamed.py").write_text(RENAMED.format(module=module, old=old))
    flow = WorkflowBuilder("three")
    first, second, third = (flow.python(name, "test.echo") for name in ("first", "second", "third"))
    flow.trigger("begin") >> first >> second >> third
    fleet.client.deploy(flow.build())
    executions = [fleet.start("three") for _ in range(20)]

    worker = fleet.add_worker("renamed", app="renamed")

    for execution_id in executions:
        fleet.completed(execution_id, timeout=TIMEOUT)
        assert [run.node_id for run in fleet.runs(execution_id)] == ["first", "second", "third"]
    [line] = worker.lines("that this release supports")
    assert changed in line
    assert what_follows in line
    assert not worker.lines("Traceback")
    [report] = poll(lambda: ask_workers(fleet.settings, timeout=1), "the worker reports")
    assert report.facts is not None
    assert report.facts.changed_internals == [changed]
    assert report.facts.uses_celery_internals is (module == "redis"), "the pool is as it is known"
