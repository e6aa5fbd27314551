"""With the setting, the command line logs as lines of JSON to standard error; its output stays the same."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.workflows import line
from workflow_engine import WorkflowClient

MAIN = "from workflow_engine.cli import main; main()"
UNREACHABLE = "redis://127.0.0.1:1"


def only() -> None: ...


@pytest.fixture
def start(client: WorkflowClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a command that starts an execution while the broker is away."""
    client.deploy(line(only))
    monkeypatch.setenv("WORKFLOW_ENGINE_BROKER_URL", UNREACHABLE)
    return [sys.executable, "-c", MAIN, "start", "line", "--json"]


def test_what_the_command_line_logs_is_json(start: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_LOG_FORMAT", "json")

    done = subprocess.run(start, capture_output=True, text=True, check=True)

    execution_id = json.loads(done.stdout)["id"]
    [logged] = [json.loads(line) for line in done.stderr.splitlines()]
    assert (logged["event"], logged["level"], logged["service"]) == ("outage_began", "WARNING", "broker")
    assert (logged["execution_id"], logged["workflow"]) == (execution_id, "line")


def test_without_the_setting_it_is_text(start: list[str]) -> None:
    done = subprocess.run(start, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["id"] in done.stderr
    assert not done.stderr.startswith("{")
