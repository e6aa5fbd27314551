"""A Django project with tasks of its own follows the README, and keeps everything that Celery gave it."""

from __future__ import annotations

import html
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg2
import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from support.polling import poll
from support.repository import ROOT
from support.worker_processes import WorkerProcess
from workflow_engine import ExecutionStatus, Settings, WorkflowClient
from workflow_engine.embedded import EmbeddedRedis

PROJECT = Path(__file__).parent / "django_shop"
README = ROOT / "README.md"
PROGRAMS = Path(sys.executable).parent
BESIDE = ("-n", "shop@%h", "-c", "2", "-l", "INFO", "-E", "--without-gossip", "--without-mingle")
"""The options that the README leaves to the reader: a name, the size of the pool and a log file."""
BEAT = ("-B", "-s", "schedule")

pytestmark = pytest.mark.timeout(240)  # the first one follows the README, with a process for each step


class Project:
    """The project in a folder of its own, with its database, its Redis and its worker."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SHOP_FOLDER": str(folder),
            "PYTHONPATH": "",
            "TMPDIR": str(folder),
        }
        self.app = Celery("producer", broker=redis_url, backend=redis_url, set_as_current=False)
        self.app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
        self.client = WorkflowClient(Settings(database_url=database_url, redis_url=redis_url), app=self.app)
        self.worker: WorkerProcess | None = None

    def follow_the_readme(self) -> None:
        self.manage("migrate", "-v", "0")
        for step in steps_of_the_readme("console"):
            program, *arguments = step.removeprefix("$ ").split()
            if program == "celery":
                self.start_worker([program, *arguments])
            else:
                self.run(program, *arguments)

    def run(self, *command: str, **variables: str) -> str:
        """Run one of the environment's programs in the folder of the project; return what it prints."""
        done = subprocess.run(
            [str(PROGRAMS / command[0]), *command[1:]],
            check=False,
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def manage(self, *arguments: str, **variables: str) -> str:
        return self.run("python", "manage.py", *arguments, **variables)

    def start_worker(self, command: list[str]) -> None:
        line = [str(PROGRAMS / command[0]), *command[1:], *BESIDE, *BEAT]
        self.worker = WorkerProcess("shop", line, self.folder, self.environment)
        self.worker.start()
        self.worker.ready()

    def end(self) -> None:
        self.app.close()
        if self.worker is not None and self.worker.status == "running":
            self.worker.kill_group(signal.SIGKILL)
            self.worker.wait(10)

    def call(self, task: str, *arguments: Any) -> Any:
        """Send a task of the project to its worker."""
        return self.app.send_task(task, arguments)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            connection.commit()
            return cursor.fetchall()

    def order(self, customer: str) -> int:
        """Store an order and return its key."""
        columns = "(customer, receipt, counted)"
        [(key,)] = self.rows(f"INSERT INTO shop_order {columns} VALUES ('{customer}', '', 0) RETURNING id")
        return int(key)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


def steps_of_the_readme(language: str) -> list[str]:
    """Return the lines of a language in the README's section for teams with a project of their own."""
    section = README.read_text().split("## Add it to your Celery project")[1].split("\n## ")[0]
    blocks = re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def project(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Create a project with tables of its own, then add the engine as the README says."""
    folder = tmp_path_factory.mktemp("project") / "shop"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    name = f"django_shop_{uuid.uuid4().hex[:8]}"
    with closing(psycopg2.connect(postgres_server.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor, EmbeddedRedis() as redis:
            cursor.execute(f"CREATE DATABASE {name}")
            url = urlsplit(postgres_server)._replace(scheme="postgres", path=f"/{name}").geturl()
            project = Project(folder, url, redis.url)
            try:
                project.follow_the_readme()
                yield project
            finally:
                project.end()
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_the_project_is_laid_out_as_the_readme_says() -> None:
    code = "\n".join(path.read_text() for path in PROJECT.glob("shop/*.py"))

    for line in steps_of_the_readme("python"):
        assert line.partition("  #")[0] in code


def test_its_own_tests_and_migrations_are_as_they_were(project: Project) -> None:
    assert "OK" in project.manage("test")
    project.manage("migrate", "--check")


def test_a_task_starts_a_workflow_whose_nodes_use_the_project_s_tables_and_tasks(project: Project) -> None:
    key = project.order("Ada")

    execution_id = project.call("shop.tasks.fulfil", key).get(timeout=15)

    execution = project.client.wait(execution_id, timeout=20)
    assert execution.status is ExecutionStatus.COMPLETED
    assert execution.result == {"receipt": f"r-{key}"}
    assert project.rows(f"SELECT receipt FROM shop_order WHERE id = {key}") == [(f"r-{key}",)]
    poll(lambda: project.lines("thanked") == [str(key)], "the node's call of a task has run, once")


def test_retries_time_limits_results_and_beat_are_those_of_celery(project: Project) -> None:
    key = project.order("Grace")
    flaky, slow, stubborn = (project.call(f"shop.tasks.{name}") for name in ("flaky", "slow", "stubborn"))

    assert flaky.get(timeout=15) == 2
    with pytest.raises(SoftTimeLimitExceeded):
        slow.get(timeout=15)
    with pytest.raises(TimeLimitExceeded):
        stubborn.get(timeout=15)
    described, driver = project.call("shop.reports.report").get(timeout=15)
    assert re.fullmatch(r"\d+ orders?", described)
    assert driver == "psycopg"
    counted = f"SELECT counted FROM shop_order WHERE id = {key}"
    poll(lambda: project.rows(counted)[0][0] >= 2, "beat has sent its task twice")


def test_a_task_that_is_acknowledged_late_is_not_lost_with_a_killed_worker(project: Project) -> None:
    careful = project.call("shop.tasks.careful", "letter")
    poll(lambda: project.lines("careful") == ["letter"], "the task has begun")

    worker = project.worker
    assert worker is not None
    worker.kill_group(signal.SIGKILL)
    worker.wait(10)
    (project.folder / "go").touch()
    worker.start()
    worker.ready()

    assert careful.get(timeout=30) == "letter"
    assert project.lines("careful") == ["letter", "letter"]


def test_flower_shows_a_node_that_failed_as_failed_with_its_traceback(project: Project) -> None:
    line = [str(PROGRAMS / "celery"), "-A", "shop", "flower", "--address=127.0.0.1", "--port=0"]
    environment = project.environment | {"FLOWER_UNAUTHENTICATED_API": "true"}
    flower = WorkerProcess("flower", line, project.folder, environment)
    flower.start()
    try:
        found = poll(
            lambda: re.search(r"Visit me at (http://\S+)", flower.logs()), "Flower has a port", timeout=20
        )
        with httpx.Client(base_url=found[1], trust_env=False) as http:
            workers = {"params": {"json": "1"}}
            poll(
                lambda: http.get("/workers", **workers).json()["data"], "Flower knows the worker", timeout=20
            )
            execution_id = project.client.start("fulfilment", {"orderId": 0}).id
            failed = {"params": {"state": "FAILURE", "search": f"kwargs:execution_id={execution_id}"}}
            [task] = poll(
                lambda: http.get("/api/tasks", **failed).json().values(), "it has the failure", timeout=20
            )
            page = html.unescape(http.get(f"/task/{task['uuid']}").text)
    finally:
        flower.kill_group(signal.SIGKILL)
        flower.wait(10)

    assert task["name"] == "fulfilment/charge"
    assert task["exception"] == "LookupError('there is no order 0')"
    assert re.search(r'File ".*/shop/nodes.py", line \d+, in charge', task["traceback"])
    assert '<span class="badge text-bg-danger">FAILURE</span>' in page, "red"
    assert task["traceback"].strip() in page
    assert project.client.get(execution_id).status is ExecutionStatus.FAILED


def test_the_engine_works_beside_django_s_other_driver(project: Project) -> None:
    program = (
        "from django.db import connection\n"
        "from shop.models import Order\n"
        "from shop.workflows import client\n"
        "from workflow_engine import get_settings\n"
        "print(Order.objects.count(), connection.Database.__name__)\n"
        "print([each.status.value for each in client.list(limit=1)], get_settings().database_url)\n"
    )
    project.client.wait(project.client.start("fulfilment", {"orderId": 0}).id, timeout=20)

    told = project.manage("shell", "--no-imports", "-c", program, SHOP_DRIVER="psycopg2")

    url = project.database_url.replace("postgres://", "postgresql+psycopg2://")
    [(count,)] = project.rows("SELECT count(*) FROM shop_order")
    assert told.splitlines() == [f"{count} psycopg2", f"['FAILED'] {url}"]
