"""A team's tasks run as nodes in its own workers, on their own queues; a killed process loses none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery, chord

from support.fleet import Fleet
from workflow_engine import WorkflowClient, durable

CONFIGURATION = """
import os

broker_url = os.environ["WORKFLOW_ENGINE_REDIS_URL"]
task_default_queue = "team"
task_routes = {"team.pay": {"queue": "payments"}}
"""

TASKS = """
import os
import signal
from pathlib import Path

from celery import Celery

app = Celery("team_tasks", include=["workflow_engine.worker.tasks"])
app.config_from_object("celeryconfig")


def note(line):
    with Path("notes").open("a") as notes:
        notes.write(f"{line}\\n")


@app.task(name="team.add")
def add(x, y):
    note("add")
    return x + y


@app.task(name="team.pay", bind=True, max_retries=3)
def pay(self, amount):
    note(f"pay {self.request.retries} on {self.request.delivery_info['routing_key']}")
    if self.request.retries == 0:
        raise self.retry(exc=ConnectionError("busy"), countdown=0.3)
    return amount


@app.task(name="team.dies_once", bind=True)
def dies_once(self, x):
    note(f"dies_once {self.request.id}")
    if not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@app.task(name="team.total")
def total(numbers):
    note("total")
    return sum(numbers)
"""


@pytest.fixture
def team(own_fleet: Fleet) -> Iterator[Fleet]:
    """Start a worker of the team's app for its queue, and one for its payments."""
    for file, text in (("celeryconfig.py", CONFIGURATION), ("team_tasks.py", TASKS)):
        (own_fleet.folder / file).write_text(text)
    team = Fleet(own_fleet.settings.model_copy(update={"queue": "team"}), own_fleet.folder)
    for queue in ("team", "payments"):
        team.add_worker(queue, "-Q", queue, app="team_tasks")
    for worker in team.workers:
        worker.ready()
    yield team
    team.kill()


def test_a_canvas_of_a_team_survives_a_killed_process_and_runs_on_the_queues_of_its_tasks(
    team: Fleet,
) -> None:
    producer = Celery("producer", broker=team.settings.redis_url, set_as_current=False)
    producer.conf.task_routes = {"team.pay": {"queue": "payments"}}  # and none of the code
    client = WorkflowClient(team.settings, app=producer)
    add, pay, dies, total = (
        producer.signature(f"team.{name}", args)
        for name, args in (("add", (1, 2)), ("pay", (10,)), ("dies_once", (100,)), ("total", ()))
    )

    execution = durable(chord([add, pay, dies], total), client=client).start()
    alone = client.start_task("team.pay", [7])

    assert client.wait(execution.id, 30).result == 113
    assert client.wait(alone.id, 30).result == 7
    notes = (team.folder / "notes").read_text().splitlines()
    assert sorted(notes) == [
        "add",
        f"dies_once {execution.id}:dies_once_3:1",
        f"dies_once {execution.id}:dies_once_3:1",
        *["pay 0 on payments"] * 2,
        *["pay 1 on payments"] * 2,
        "total",
    ]
    producer.close()
