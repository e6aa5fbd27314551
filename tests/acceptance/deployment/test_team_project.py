"""A team with a package `workers`, a `celeryconfig` and migrations of its own keeps them beside the wheel."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.installation import Installation
from support.polling import poll
from support.repository import TESTS
from support.worker_processes import WorkerProcess

PROJECT = TESTS / "acceptance/deployment/alembic_shop"

PRODUCER = """
from workers import app
from workflow_engine import WorkflowClient

client = WorkflowClient(app=app)
print(client.wait(client.start("parcel", {"city": "Bergen"}).id, timeout=30).result)
"""


@dataclass(frozen=True)
class Project:
    """The team's folder, and the environment and the variables that its programs run with."""

    folder: Path
    installation: Installation
    variables: dict[str, str]

    def run(self, *command: str) -> str:
        """Run a program of the environment, which must succeed. Return what it prints."""
        done = self.installation.run(command, self.folder, **self.variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def prepare_the_engine(self) -> None:
        self.run("workflow-engine", "db", "upgrade")
        self.run("workflow-engine", "-A", "workers", "deploy", "parcel.yaml")

    def worker(self, app: str, *options: str, **more: str) -> AbstractContextManager[WorkerProcess]:
        return self.installation.worker(app, self.folder, *options, **self.variables, **more)

    @property
    def thanked(self) -> str:
        """Return the lines that the team's task has written."""
        path = self.folder / "thanked"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def project(least: Installation, empty_database_url: str, redis_url: str, tmp_path: Path) -> Project:
    folder = tmp_path / "shop"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    variables = {
        "DATABASE_URL": empty_database_url,
        "BROKER_URL": redis_url,
        "WORKFLOW_ENGINE_DATABASE_URL": empty_database_url,
        "WORKFLOW_ENGINE_REDIS_URL": redis_url,
    }
    return Project(folder, least, variables)


def test_its_migrations_app_and_tasks_work_as_before_and_its_workers_run_nodes(project: Project) -> None:
    project.run("alembic", "upgrade", "head")
    project.prepare_the_engine()

    assert "No new upgrade operations" in project.run("alembic", "check")
    with project.worker("workers", "--queues", "shop,workflow"):
        assert project.run("python", "-c", PRODUCER) == "To Bergen"
        project.run("celery", "-A", "workers", "call", "workers.tasks.thank", "--args", '["Ada"]')
        poll(lambda: project.thanked == "Ada by shop", "the team's task has run")
    project.run("alembic", "downgrade", "base")
    project.run("workflow-engine", "db", "status")


def test_the_engines_own_workers_run_beside_its_app_and_settings(project: Project) -> None:
    project.prepare_the_engine()

    with project.worker("workflow_engine.worker", WORKFLOW_ENGINE_IMPORTS="workers.tasks"):
        assert project.run("python", "-c", PRODUCER) == "To Bergen"
