"""A team with a Celery app of its own includes the engine's task in it, and keeps everything it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from celery import Celery

from support.fleet import BOTH_WAYS, Fleet
from support.polling import poll
from workflow_engine import WorkflowBuilder, WorkflowClient
from workflow_engine.broker.inspection import ask_workers

CONFIGURATION = """
import os

broker_url = os.environ["WORKFLOW_ENGINE_REDIS_URL"]
task_default_queue = "team"
task_ignore_result = True
"""

APP = """
from celery import Celery

app = Celery("team", include=["team_tasks", "workflow_engine.worker.tasks"])
app.config_from_object("celeryconfig")  # a module of the same name as the engine's
"""

TASKS = """
from pathlib import Path

from celery import current_app, shared_task


@shared_task(name="team.greet")
def greet(name):
    Path("greeting").write_text(f"{current_app.main} greets {name}")
"""


STRICT_CONFIGURATION = """
task_acks_on_failure_or_timeout = False
task_retry_on_worker_lost = True
task_store_errors_even_if_ignored = True
result_backend = broker_url
"""

STRICT_APP = """
from pathlib import Path

from celery import Celery, Task


class TeamTask(Task):
    autoretry_for = (Exception,)
    retry_kwargs = {"max_retries": 5, "countdown": 0}

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        with Path("hooks").open("a") as hooks:
            hooks.write(f"{kwargs['node_id']} {exc!r}\\n")
        raise RuntimeError("a hook of the team's own that fails")


app = Celery("team", task_cls=TeamTask, include=["team_tasks", "workflow_engine.worker.tasks"])
app.config_from_object("celeryconfig")
"""


@pytest.fixture
def team(own_fleet: Fleet) -> Iterator[Fleet]:
    """Start a worker of the team's app, on the team's queue."""
    for file, text in (("celeryconfig.py", CONFIGURATION), ("team.py", APP), ("team_tasks.py", TASKS)):
        (own_fleet.folder / file).write_text(text)
    yield from _serving(own_fleet)


@pytest.fixture
def strict_team(own_fleet: Fleet) -> Iterator[Fleet]:
    """Start a worker whose app retries, stores and reports failures of its own tasks."""
    files = (
        ("celeryconfig.py", CONFIGURATION + STRICT_CONFIGURATION),
        ("team.py", STRICT_APP),
        ("team_tasks.py", TASKS),
    )
    for file, text in files:
        (own_fleet.folder / file).write_text(text)
    yield from _serving(own_fleet)


def _serving(own_fleet: Fleet) -> Iterator[Fleet]:
    settings = own_fleet.settings.model_copy(update={"queue": "team"})
    team = Fleet(settings, own_fleet.folder)
    team.add_worker("team", app="team").ready()
    yield team
    team.kill()


@pytest.mark.parametrize("celery_internals", [None, True], ids=["as it is", "with private parts"])
def test_nodes_and_the_tasks_of_the_team_run_in_the_same_workers(
    team: Fleet, celery_internals: bool | None
) -> None:
    flow = WorkflowBuilder("in-a-team")
    flow.trigger("begin") >> flow.python("only", "test.echo", arguments={"value": "{{ begin.order }}"})
    producer = Celery("team-producer", broker=team.settings.redis_url, set_as_current=False)
    client = WorkflowClient(team.settings, app=producer)
    client.deploy(flow.build())

    producer.send_task("team.greet", ["Ada"], queue="team")
    execution = client.wait(client.start("in-a-team", {"order": 42}).id, timeout=10)

    greeting = team.folder / "greeting"
    poll(lambda: greeting.exists() and greeting.read_text() == "team greets Ada", "the team's task ran")
    assert execution.result == 42
    [run] = team.runs(execution.id)
    assert run.process in team.workers[0].pool_pids
    [report] = poll(lambda: ask_workers(team.settings, timeout=1), "the worker reports")
    assert report.facts is not None
    assert report.facts.uses_celery_internals is bool(celery_internals)
    producer.close()


@BOTH_WAYS
def test_a_process_lost_in_a_team_s_worker_is_noticed(team: Fleet) -> None:
    flow = WorkflowBuilder("killed-in-a-team")
    flow.trigger("begin") >> flow.python("only", "test.gated")
    team.client.deploy(flow.build())
    execution_id = team.start("killed-in-a-team")

    os.kill(team.begun(execution_id, "only").process, signal.SIGKILL)

    team.begun(execution_id, "only", times=2)
    team.open_gate(execution_id, "only")
    team.completed(execution_id)


def test_what_a_team_does_with_failed_tasks_repeats_no_node_and_keeps_no_result(strict_team: Fleet) -> None:
    team = strict_team
    flow = WorkflowBuilder("fails-in-a-team")
    fails = flow.python("fails", "test.divides", arguments={"by": 0}, on_error="continue")
    flow.trigger("begin") >> fails >> flow.python("ends", "test.raises", arguments={"message": "no more"})
    team.client.deploy(flow.build())

    execution_id = team.start("fails-in-a-team")
    team.failed(execution_id)

    hooks = team.folder / "hooks"
    expected = ["fails ZeroDivisionError('division by zero')", "ends ValueError('no more')"]
    poll(lambda: hooks.exists() and expected[1] in hooks.read_text(), "the hook of the last node ran")
    poll(lambda: team.tasks(execution_id) == 2, "both tasks have ended")
    team.workers[0].terminate()
    # Celery calls a hook that fails once more, with the hook's own error.
    assert [line for line in hooks.read_text().splitlines() if "RuntimeError" not in line] == expected
    assert team.tasks(execution_id) == 2
    assert [row.node_id for row in team.journal(execution_id)] == ["begin", "fails", "ends"]
    of_the_broker = ("team", "unacked", "celery-task-meta-")
    left = sorted(key for key in team.keys() if key.startswith(of_the_broker))  # noqa: SIM118 - no mapping
    assert left == [], "neither a message nor a result is left"


def test_a_hard_time_limit_of_the_team_s_counts_each_kill_once_and_is_named(own_fleet: Fleet) -> None:
    limited = CONFIGURATION + "task_time_limit = 1\n"
    for file, text in (("celeryconfig.py", limited), ("team.py", APP), ("team_tasks.py", TASKS)):
        (own_fleet.folder / file).write_text(text)
    team = Fleet(
        own_fleet.settings.model_copy(update={"queue": "team", "max_recoveries": 1}), own_fleet.folder
    )
    flow = WorkflowBuilder("too-long")
    flow.trigger("begin") >> flow.python("slow", "test.sleeps")
    team.client.deploy(flow.build())
    team.add_worker("team", app="team").ready()
    try:
        execution = team.failed(team.start("too-long"), timeout=25)
    finally:
        team.kill()

    assert len(team.runs(execution.id)) == 2
    assert execution.error_details["type"] == "WORKER_LOST"
    assert "lost 2 times" in execution.error
    assert "Celery's hard time limit of 1 s (`task_time_limit`) ended it" in execution.error
    assert "memory" not in execution.error


def test_importing_the_engine_s_task_makes_no_second_app() -> None:
    program = """
import celery
team = celery.Celery("team")
import workflow_engine.worker.tasks
import workflow_engine.broker.dispatcher
assert celery.current_app._get_current_object() is team, celery.current_app
assert workflow_engine.worker.tasks.run_node.app is team
assert "celeryconfig" not in __import__("sys").modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
