"""A worker that cannot run nodes refuses to start, with the reason in one line, and takes no message."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from celery.app.defaults import NAMESPACES

from support.fleet import Fleet
from support.worker_processes import Worker
from workflow_engine import WorkflowBuilder

HERE = """
from workflow_engine import node


@node("test.echo")
def echo(value):
    import beside_it

    return beside_it.DOUBLE * value
"""
WELL_IN_THE_MAIN_PROCESS = """
from billiard import current_process

if current_process().name != "MainProcess":
    raise RuntimeError("a process of the pool does not get this")
"""
SPAWNING = """
from workflow_engine.worker.app import app

app.conf.worker_pool_start_method = "spawn"
"""
TEAM = """
from celery import Celery

app = Celery("team", broker={!r}, include=["workflow_engine.worker.tasks"])
"""
TIMEOUT = 60.0
"""Seconds within which a worker has to exit by itself."""


def ended(worker: Worker) -> None:
    """Wait until a worker has exited by itself, with a status for its supervisor."""
    assert worker.container.wait(TIMEOUT) == 1, worker.logs()


def written(fleet: Fleet, name: str, text: str) -> Path:
    path = fleet.folder / name
    path.write_text(text)
    return path


def deploy_one_node(fleet: Fleet) -> None:
    flow = WorkflowBuilder("one-node")
    flow.trigger("begin") >> flow.python("only", "test.echo", arguments={"value": "{{ begin.order }}"})
    fleet.client.deploy(flow.build())


def test_workers_that_cannot_run_nodes_refuse_to_start_and_leave_messages_to_others(own_fleet: Fleet) -> None:
    fleet = own_fleet
    deploy_one_node(fleet)
    execution_id = fleet.start("one-node", {"order": 42})
    broken = written(fleet, "broken.py", "\nimport a_module_it_lacks\n")
    written(fleet, "exits.py", "raise SystemExit(0)\n")
    written(fleet, "team.py", TEAM.format(fleet.settings.redis_url))
    reasons = {
        "missing": "module 'no_such_module' cannot be imported: ModuleNotFoundError: No module named",
        "broken": f"No module named 'a_module_it_lacks' ({broken}, line 2)",
        "exits": "module 'exits' cannot be imported: SystemExit: 0",
        "setting": "WORKFLOW_ENGINE_LOCK_EXPIRY: Input should be greater than or equal to 0.5",
        "team": "WORKFLOW_ENGINE_LOCK_EXPIRY: Input should be greater than or equal to 0.5",
    }

    refused = [
        fleet.add_worker("missing", WORKFLOW_ENGINE_IMPORTS="support.nodes.recorded,no_such_module"),
        fleet.add_worker("broken", "-P", "solo", WORKFLOW_ENGINE_IMPORTS="broken"),
        fleet.add_worker("exits", "-P", "threads", WORKFLOW_ENGINE_IMPORTS="exits"),
        fleet.add_worker("setting", WORKFLOW_ENGINE_LOCK_EXPIRY="0"),
        fleet.add_worker("team", "-Q", "workflow", app="team", WORKFLOW_ENGINE_LOCK_EXPIRY="0"),
    ]

    for worker, reason in zip(refused, reasons.values(), strict=True):
        ended(worker)
        [line] = worker.lines("This worker does not start: ")
        assert reason in line
        assert not worker.lines(" ready.")
        assert not worker.lines("Traceback")
    fleet.add_worker("able").ready()
    assert fleet.completed(execution_id).result == 42


def test_modules_of_the_current_directory_are_found_by_the_program_celery(own_fleet: Fleet) -> None:
    fleet = own_fleet
    written(fleet, "nodes_here.py", HERE)
    written(fleet, "beside_it.py", "DOUBLE = 2\n")
    deploy_one_node(fleet)
    program = [str(Path(sys.executable).parent / "celery")]

    fleet.add_worker("here", program=program, PYTHONPATH="", WORKFLOW_ENGINE_IMPORTS="nodes_here").ready()

    assert fleet.completed(fleet.start("one-node", {"order": 21})).result == 42


@pytest.mark.skipif(
    "pool_start_method" not in NAMESPACES["worker"], reason="Celery spawns processes of a pool since 5.7"
)
def test_a_pool_process_that_cannot_run_nodes_ends_its_worker(own_fleet: Fleet) -> None:
    fleet = own_fleet
    written(fleet, "spawning.py", SPAWNING)
    written(fleet, "brittle.py", WELL_IN_THE_MAIN_PROCESS)
    deploy_one_node(fleet)
    fleet.start("one-node", {"order": 42})
    queues = fleet.keys()

    ending = fleet.add_worker(
        "ending", app="spawning", concurrency=1, WORKFLOW_ENGINE_IMPORTS="support.nodes.recorded,brittle"
    )

    ended(ending)
    assert ending.lines("This process cannot run nodes: ", "RuntimeError: a process of the pool does not get")
    assert ending.lines("This worker ends: a process of its pool cannot be prepared to run nodes")
    assert fleet.keys() >= queues, "the message is where it was"
    fleet.wipe_redis()
