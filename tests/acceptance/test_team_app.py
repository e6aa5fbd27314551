"""A team with a Celery app of its own adds `workers.tasks` to its `include`, and keeps everything it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from celery import Celery
from fleet import Fleet, poll

from workflow_engine import WorkflowBuilder, WorkflowClient

CONFIGURATION = """
import os

broker_url = os.environ["WORKFLOW_ENGINE_REDIS_URL"]
task_default_queue = "team"
task_ignore_result = True
"""

APP = """
from celery import Celery

app = Celery("team", include=["team_tasks", "workers.tasks"])
app.config_from_object("celeryconfig")  # a module of the same name as the engine's
"""

TASKS = """
from pathlib import Path

from celery import current_app, shared_task


@shared_task(name="team.greet")
def greet(name):
    Path("greeting").write_text(f"{current_app.main} greets {name}")
"""


@pytest.fixture
def team(own_fleet: Fleet) -> Iterator[Fleet]:
    """A worker of the team's app, on the team's queue."""
    for file, text in (("celeryconfig.py", CONFIGURATION), ("team.py", APP), ("team_tasks.py", TASKS)):
        (own_fleet.folder / file).write_text(text)
    settings = own_fleet.settings.model_copy(update={"queue": "team"})
    team = Fleet(settings, own_fleet.folder)
    team.add_worker("team", app="team").ready()
    yield team
    team.kill()


def test_nodes_and_the_tasks_of_the_team_run_in_the_same_workers(team: Fleet) -> None:
    flow = WorkflowBuilder("in-a-team")
    flow.trigger("begin") >> flow.python("only", "test.echo", arguments={"value": "{{ begin.order }}"})
    producer = Celery("team-producer", broker=team.settings.redis_url, set_as_current=False)
    client = WorkflowClient(team.settings, app=producer)
    client.deploy(flow.build())

    producer.send_task("team.greet", ["Ada"], queue="team")
    execution = client.wait(client.start("in-a-team", {"order": 42}).id, timeout=10)

    greeting = team.folder / "greeting"
    poll(lambda: greeting.exists() and greeting.read_text() == "team greets Ada", 5, "the team's task ran")
    assert execution.result == 42
    [run] = team.runs(execution.id)
    assert run.process in team.workers[0].pool_pids
    producer.close()


def test_a_process_lost_in_a_team_s_worker_is_noticed(team: Fleet) -> None:
    flow = WorkflowBuilder("killed-in-a-team")
    flow.trigger("begin") >> flow.python("only", "test.gated")
    team.client.deploy(flow.build())
    execution_id = team.start("killed-in-a-team")

    os.kill(team.begun(execution_id, "only").process, signal.SIGKILL)

    team.begun(execution_id, "only", times=2)
    team.open_gate(execution_id, "only")
    team.completed(execution_id)


def test_importing_the_engine_s_task_makes_no_second_app() -> None:
    program = """
import celery
team = celery.Celery("team")
import workers.tasks
import workflow_engine.dispatch
assert celery.current_app._get_current_object() is team, celery.current_app
assert workers.tasks.run_node.app is team
assert "celeryconfig" not in __import__("sys").modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
