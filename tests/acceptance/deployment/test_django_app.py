"""Two changed lines make the tasks of a Django project durable, with the worker that it has."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.worker_processes import WorkerProcess
from workflow_engine.embedded import EmbeddedPostgres, EmbeddedRedis

PROJECT = Path(__file__).parent / "django_shop"
PROGRAMS = Path(sys.executable).parent

pytestmark = pytest.mark.timeout(240)

PLACE_AN_ORDER = """
import json
from django.db import transaction
from shop.models import Order
from shop.tasks import thank
from workflow_engine.django import client, start_task

with transaction.atomic():
    order = Order.objects.create(customer="Ada")
    execution = start_task(thank, [order.pk])
ended = client().wait(execution.id, timeout=40)
print(json.dumps([order.pk, ended.status.value]))
"""


class Project:
    """The project in a folder of its own, where only the settings have changed."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SHOP_FOLDER": str(folder),
            "PYTHONPATH": "",
            "TMPDIR": str(folder),
        }
        settings = folder / "shop" / "settings.py"
        lines = [line for line in settings.read_text().splitlines() if "WORKFLOW_ENGINE" not in line]
        # Connections are kept, without Django's health checks: the worst case for a worker that idles.
        kept = 'DATABASES["default"]["CONN_MAX_AGE"] = None'
        settings.write_text("\n".join([*lines, 'INSTALLED_APPS += ["workflow_engine.django"]', kept, ""]))
        celery = folder / "shop" / "celery.py"
        celery.write_text(celery.read_text().replace(', "workflow_engine.worker.tasks"', ""))

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [str(PROGRAMS / command[0]), *command[1:]],
            check=False,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, program: str) -> Any:
        """Run a program in the project; return what it prints last, as JSON."""
        printed = self.run("python", "manage.py", "shell", "--no-imports", "-c", program)
        return json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    """Return a server of this file alone, which may be restarted."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(scope="module")
def project(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("django_app") / "shop"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with EmbeddedRedis() as redis:
        project = Project(folder, postgres.url.replace("+psycopg2", ""), redis.url)
        project.run("python", "manage.py", "migrate", "-v", "0")
        assert "need" in project.run("workflow-engine", "-A", "shop", "db", "status")
        line = [str(PROGRAMS / "celery"), "-A", "shop", "worker", "-n", "shop@%h", "-c", "1", "-l", "INFO"]
        worker = WorkerProcess("shop", line, folder, project.environment)
        worker.start()
        try:
            worker.ready()
            yield project
        finally:
            worker.kill_group(signal.SIGKILL)
            worker.wait(10)


COUNT_THE_ORDERS = """
import json
from shop.tasks import count_orders
from workflow_engine.django import client, start_task
print(json.dumps(client().wait(start_task(count_orders).id, timeout=40).status.value))
"""


def test_a_task_started_beside_an_order_runs_on_the_worker_that_was_there(project: Project) -> None:
    key, status = project.shell(PLACE_AN_ORDER)

    assert status == "COMPLETED"
    assert (project.folder / "thanked").read_text() == f"{key}\n"


def test_a_node_works_after_postgres_has_restarted_while_the_worker_was_idle(
    project: Project, postgres: EmbeddedPostgres
) -> None:
    assert project.shell(COUNT_THE_ORDERS) == "COMPLETED"

    postgres.restart()

    assert project.shell(COUNT_THE_ORDERS) == "COMPLETED"
