"""With the setting a worker writes only lines of JSON. Without it, its log stays as the app has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.fleet import Fleet
from support.polling import poll
from support.worker_processes import Worker
from workflow_engine import WorkflowBuilder

NODES = """
import logging

from workflow_engine import node

log = logging.getLogger("shop")


@node("test.echo")
def echo(value):
    print(f"printed {value}")
    log.warning("the bank\\nis slow: %s", value, extra={"bank": "Zürich"})
    if value < 0:
        raise ValueError("a refund")
    return value
"""

TEAM = """
import logging

from celery import Celery, signals

app = Celery("team", broker={broker!r}, include=["workflow_engine.worker.tasks"])
app.conf.worker_log_format = "TEAM %(message)s"
"""

SETS_UP_LOGGING = """

@signals.setup_logging.connect(weak=False)
def set_up(**_):
    logging.basicConfig(format="OWN %(message)s", level=logging.INFO)
"""

JSON = {"WORKFLOW_ENGINE_LOG_FORMAT": "json"}


@pytest.fixture
def fleet(own_fleet: Fleet) -> Fleet:
    """Start a fleet without workers, whose nodes log and print."""
    (own_fleet.folder / "shop.py").write_text(NODES)
    for value in (1, -1):
        flow = WorkflowBuilder(f"logs-{value}")
        flow.trigger("begin") >> flow.python("only", "test.echo", arguments={"value": value})
        own_fleet.client.deploy(flow.build())
    return own_fleet


def add_team_worker(fleet: Fleet, app: str, **environment: str) -> Worker:
    (fleet.folder / "team.py").write_text(app.format(broker=fleet.settings.redis_url))
    return fleet.add_worker(
        "team", "-Q", "workflow", app="team", WORKFLOW_ENGINE_IMPORTS="shop", **environment
    )


def run_both(fleet: Fleet) -> tuple[str, str]:
    """Start an execution that completes and one that fails. Return their ids."""
    completed, failed = fleet.start("logs-1"), fleet.start("logs--1")
    fleet.completed(completed)
    fleet.failed(failed)
    return completed, failed


def lines_after_end(worker: Worker) -> list[str]:
    """Return all lines of a worker from its start to its end."""
    poll(lambda: "ValueError: a refund" in worker.logs(), "the failure is logged")
    worker.terminate()
    return [line for line in worker.logs().splitlines() if line]


def test_a_worker_writes_only_lines_of_json_from_its_start_to_its_end(fleet: Fleet) -> None:
    worker = fleet.add_worker("json", WORKFLOW_ENGINE_IMPORTS="shop", **JSON)
    worker.ready()

    completed, failed = run_both(fleet)
    lines: list[dict[str, Any]] = [json.loads(line) for line in lines_after_end(worker)]

    assert all({"time", "level", "logger", "message", "process", "pid"} <= line.keys() for line in lines)
    own = {line["execution_id"]: line for line in lines if line["logger"] == "shop"}
    assert own.keys() == {completed, failed}
    assert own[completed]["message"] == "the bank\nis slow: 1"
    assert own[completed]["bank"] == "Zürich"
    assert (own[completed]["workflow"], own[completed]["node_id"]) == ("logs-1", "only")
    assert own[completed]["task_name"] == "logs-1/only"
    [failure] = [line for line in lines if "exception" in line]
    assert failure["exception"].endswith("ValueError: a refund")
    assert (failure["task_id"], failure["execution_id"]) == (own[failed]["task_id"], failed)
    messages = [line["message"] for line in lines]
    assert "printed 1" in messages
    assert "worker: Warm shutdown (MainProcess)" in messages


def test_a_team_s_worker_keeps_its_log_without_the_setting(fleet: Fleet) -> None:
    worker = add_team_worker(fleet, TEAM)
    worker.ready()

    run_both(fleet)
    lines = lines_after_end(worker)

    assert any(line.startswith("TEAM Task logs-1/only[") for line in lines)
    assert "[tasks]" in lines, "of the banner"
    assert not any(line.startswith("{") for line in lines)


def test_a_team_s_worker_writes_json_if_the_team_sets_it(fleet: Fleet) -> None:
    worker = add_team_worker(fleet, TEAM, **JSON)
    worker.ready()

    run_both(fleet)

    assert all(json.loads(line)["message"] for line in lines_after_end(worker))


def test_a_team_that_sets_up_logging_itself_keeps_its_log_in_any_case(fleet: Fleet) -> None:
    worker = add_team_worker(fleet, TEAM + SETS_UP_LOGGING, **JSON)
    worker.ready()

    run_both(fleet)
    lines = lines_after_end(worker)

    assert any(line.startswith("OWN Task logs-1/only[") for line in lines)
    assert "[tasks]" in lines, "of the banner"
    assert not any(line.startswith("{") for line in lines)
