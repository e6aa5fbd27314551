"""Two changed lines make the tasks of a Django project durable, with the worker that it has."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from support.worker_processes import WorkerProcess
from workflow_engine.embedded import EmbeddedRedis

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
        settings.write_text("\n".join([*lines, 'INSTALLED_APPS += ["workflow_engine.django"]\n']))
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


@pytest.fixture(scope="module")
def project(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("django_app") / "shop"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    name = f"django_app_{uuid.uuid4().hex[:8]}"
    with (
        closing(psycopg2.connect(postgres_server.replace("+psycopg2", ""))) as connection,
        EmbeddedRedis() as redis,
    ):
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        url = urlsplit(postgres_server)._replace(scheme="postgres", path=f"/{name}").geturl()
        project = Project(folder, url, redis.url)
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
            connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_task_started_beside_an_order_runs_on_the_worker_that_was_there(project: Project) -> None:
    key, status = json.loads(
        project.run("python", "manage.py", "shell", "--no-imports", "-c", PLACE_AN_ORDER).splitlines()[-1]
    )

    assert status == "COMPLETED"
    assert (project.folder / "thanked").read_text() == f"{key}\n"
