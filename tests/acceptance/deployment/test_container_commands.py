"""The commands of the containers work with what the environment file says, the example included."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.polling import poll
from support.repository import ROOT
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.embedded import EmbeddedServers

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
ORDER = (ROOT / "examples" / "orders.jsonl").read_text().splitlines()[0]
PAYLOAD = ["--payload", '{"transaction":"tx-1"}']
COMMANDS = [
    ["workflow-engine", "deploy", "examples/order_fulfilment.yaml"],
    ["workflow-engine", "send-event", "paymentConfirmed", "--correlation-id", "SO-26031", *PAYLOAD],
    ["workflow-engine", "start", "order-fulfilment", "--data", "@-", "--wait", "60"],
]
"""The commands of examples/README.md for a container."""


class Containers:
    """The folder /app of the image and the services' environment, without Docker."""

    def __init__(self, folder: Path, servers: EmbeddedServers) -> None:
        self._app = folder / "app"
        self._app.mkdir()
        stage = (ROOT / "Dockerfile").read_text().rpartition("WORKDIR /app\n")[2]
        for source, target in re.findall(r"^COPY (\S+) (\S+)$", stage, re.MULTILINE):
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, self._app / target)
        self._folder = folder
        self._servers = servers

    def environment(self, service: str) -> dict[str, str]:
        """Return a filled-in .env file that names the tests' servers."""
        assert SERVICES[service]["env_file"] == [".env"]
        assert "WORKFLOW_ENGINE_IMPORTS" not in SERVICES[service]["environment"]
        filled_in = (
            (ROOT / ".env.example")
            .read_text()
            .replace("# WORKFLOW_SECRET_API_KEY=", "WORKFLOW_SECRET_API_KEY=key-4711")
        )
        lines = [line.partition("=") for line in filled_in.splitlines() if line and not line.startswith("#")]
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("WORKFLOW_")},
            **{name: value for name, _, value in lines},
            "WORKFLOW_ENGINE_DATABASE_URL": self._servers.database_url,
            "WORKFLOW_ENGINE_REDIS_URL": self._servers.redis_url,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self._app),
            "PYTHONSAFEPATH": "1",
            "TMPDIR": str(self._folder),
        }

    def run(
        self, service: str, command: list[str], stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker compose exec` would."""
        return subprocess.run(
            command,
            cwd=self._app,
            env=self.environment(service),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service."""
        command = SERVICES[service]["command"]
        with (self._folder / f"{service}.log").open("wb") as log:
            return subprocess.Popen(
                command, cwd=self._app, env=self.environment(service), stdout=log, stderr=subprocess.STDOUT
            )


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[tuple[Containers, EmbeddedServers]]:
    with EmbeddedServers() as servers:
        yield Containers(tmp_path, servers), servers


def test_the_example_and_a_secret_run_as_the_containers_run_them(
    containers: tuple[Containers, EmbeddedServers],
) -> None:
    docker, servers = containers
    migrated = docker.run("migrate", SERVICES["migrate"]["command"])
    assert migrated.returncode == 0, migrated.stderr
    client = WorkflowClient(Settings(database_url=servers.database_url, redis_url=servers.redis_url))
    flow = WorkflowBuilder("secretive")
    flow.trigger("begin") >> flow.function("known", "{{ _secrets.API_KEY == 'key-4711' }}")
    client.deploy(flow.build())

    worker = docker.start("worker")
    try:
        probe = SERVICES["worker"]["healthcheck"]["test"]
        assert probe[0] == "CMD"
        poll(lambda: docker.run("worker", probe[1:]).returncode == 0, "the worker is alive", timeout=60)
        for command in COMMANDS:
            done = docker.run("worker", command, ORDER)
            assert done.returncode == 0, done.stdout + done.stderr
        assert client.wait(client.start("secretive").id, timeout=30).result is True
    finally:
        worker.terminate()
        worker.wait(timeout=30)
