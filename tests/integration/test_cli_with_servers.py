"""The command line with Postgres, Redis and, where a test says so, a real worker."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fleet_in_process import Broker, Workers

from workflow_engine.cli import main
from workflow_engine.dispatch import ask_workers
from workflow_engine.engine import Engine
from workflow_engine.settings import Settings, get_settings

SHOP = """
id: shop
variables: {currency: EUR}
nodes:
  - {id: orderPlaced, type: trigger, subType: manual, config: {schema: {type: object, required: [orderId]}}}
  - {id: inStock, type: logic, subType: condition, config: {expression: "{{ orderPlaced.stock > 0 }}"}}
  - {id: charge, type: action, subType: function, config: {expression: "{{ 100 // orderPlaced.stock }}"}}
  - {id: backorder, type: action, subType: function, config: {expression: "{{ 1 // 0 }}"}}
  - {id: done, type: logic, subType: merge, config: {strategy: first}}
edges:
  - {source: orderPlaced, target: inStock}
  - {source: inStock, target: charge, sourceHandle: "true"}
  - {source: inStock, target: backorder, sourceHandle: "false"}
  - {source: charge, target: done}
  - {source: backorder, target: done}
"""
IN_STOCK = '{"orderId": 7, "stock": 4}'
OUT_OF_STOCK = '{"orderId": 8, "stock": 0}'


@pytest.fixture(autouse=True)
def _this_process_uses_the_servers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings
) -> Iterator[None]:
    monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("WORKFLOW_ENGINE_REDIS_URL", settings.redis_url)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    Path("shop.yaml").write_text(SHOP)
    yield
    get_settings.cache_clear()


def run(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answer(*arguments: str, status: int = 0) -> Any:
    """What a program reads: standard output has to be one JSON document and nothing else."""
    result = run(*arguments, "--json")
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


@pytest.fixture
def work(engine: Engine, workers: Workers, broker: Broker) -> Callable[[str], None]:
    """Lets workers run an execution to its end; the messages that the command line sent stay in Redis."""

    def work(execution_id: str) -> None:
        engine.executor.resume_execution(execution_id)
        workers.drain()

    return work


@pytest.fixture
def deployed() -> None:
    assert run("deploy", "shop.yaml").exit_code == 0


# -- definitions -------------------------------------------------------------------------------------------


def test_deploying_tells_whether_it_made_a_version() -> None:
    assert run("deploy", "shop.yaml").stdout == "shop version 1: new\n"
    assert run("deploy", "shop.yaml").stdout == "shop version 1: already current\n"

    Path("shop.yaml").write_text(SHOP.replace("EUR", "CHF"))
    assert answer("deploy", "shop.yaml")["deployed"] == [
        {"workflowId": "shop", "version": 2, "isNew": True, "wasCurrent": False}
    ]
    Path("shop.yaml").write_text(SHOP)
    assert run("deploy", "shop.yaml").stdout == "shop version 1: current again\n"
    assert [(each["id"], each["currentVersion"]) for each in answer("workflows")["workflows"]] == [
        ("shop", 1)
    ]


def test_nothing_is_deployed_if_one_definition_has_a_problem() -> None:
    Path("bad.yaml").write_text(SHOP.replace("id: shop", "id: bad").replace("target: done", "target: dune"))

    result = run("deploy", "shop.yaml", "bad.yaml")

    assert result.exit_code == 1
    assert "Nothing was deployed." in result.stdout
    assert "shop.yaml" not in result.stdout
    assert answer("workflows") == {"workflows": []}


# -- start -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("deployed")
def test_start_gives_the_id_that_show_takes() -> None:
    started = answer("start", "shop", "--data", IN_STOCK)

    assert started["isNew"] is True
    shown = answer("show", started["id"])
    assert shown["execution"]["status"] == "PENDING"
    assert [node["id"] for node in shown["nodes"] if node["isDue"]] == ["inStock"]


@pytest.mark.usefixtures("deployed")
def test_data_may_come_from_a_file_and_from_standard_input() -> None:
    Path("order.json").write_text(IN_STOCK)

    assert run("start", "shop", "--data", "@order.json").exit_code == 0
    assert run("start", "shop", "--data", "@-", stdin=IN_STOCK).exit_code == 0


@pytest.mark.usefixtures("deployed")
def test_the_same_key_gives_the_same_execution_and_other_data_is_refused() -> None:
    first = answer("start", "shop", "--data", IN_STOCK, "--key", "order-7")
    again = answer("start", "shop", "--data", IN_STOCK, "--key", "order-7")
    refused = answer("start", "shop", "--data", OUT_OF_STOCK, "--key", "order-7", status=1)

    assert (again["id"], again["isNew"]) == (first["id"], False)
    assert refused["error"]["type"] == "IdempotencyConflict"
    assert refused["error"]["executionId"] == first["id"]


@pytest.mark.usefixtures("deployed")
def test_data_that_the_trigger_refuses_starts_nothing_and_every_problem_is_told() -> None:
    refused = answer("start", "shop", "--data", "{}", status=1)

    assert refused["error"]["type"] == "TriggerDataInvalid"
    assert len(refused["error"]["problems"]) == 1
    assert answer("list")["executions"] == []


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(
    "wrong",
    [
        ["other"],
        ["shop", "--version", "9"],
        ["shop", "--trigger", "inStock"],
        ["shop", "--variable", "charge=1"],
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(wrong: list[str]) -> None:
    result = run("start", *wrong, "--data", IN_STOCK)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("deployed")
def test_waiting_for_what_does_not_end_in_time_is_a_no_that_names_the_execution() -> None:
    refused = answer("start", "shop", "--data", IN_STOCK, "--wait", "0.2", status=1)

    assert refused["error"]["type"] == "WaitTimeout"
    assert answer("show", refused["error"]["executionId"])["execution"]["status"] == "PENDING"


# -- show and list -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("deployed")
def test_show_draws_what_each_node_did(work: Callable[[str], None]) -> None:
    execution = answer("start", "shop", "--data", IN_STOCK, "--variable", 'currency="CHF"')["id"]
    work(execution)

    lines = run("show", execution, "--context").stdout.splitlines()

    assert lines[0] == "shop version 1  COMPLETED"
    assert lines[1] == execution
    assert "result     25" in lines
    assert 'variables  currency = "CHF"' in lines
    nodes = [re.sub(r" +[0-9.]+ m?s +1", "", line) for line in lines[lines.index("") + 2 :]]
    worker = f"  {socket.gethostname()}:{os.getpid()}"
    assert [" ".join(line.removesuffix(worker).split()) for line in nodes] == [
        "✔ orderPlaced COMPLETED",
        "✔ inStock COMPLETED",
        "├─ true ✔ charge COMPLETED",
        "└─ false ○ backorder SKIPPED",
        "✔ done ← charge COMPLETED",
    ]


@pytest.mark.usefixtures("deployed")
def test_show_as_json_has_the_facts_of_every_node_and_the_whole_context(work: Callable[[str], None]) -> None:
    execution = answer("start", "shop", "--data", IN_STOCK)["id"]
    work(execution)

    shown = answer("show", execution, "--context")

    assert shown["execution"]["result"] == 25
    nodes = {node["id"]: node for node in shown["nodes"]}
    assert {node_id: node["status"] for node_id, node in nodes.items()} == {
        "orderPlaced": "COMPLETED",
        "inStock": "COMPLETED",
        "charge": "COMPLETED",
        "backorder": "SKIPPED",
        "done": "COMPLETED",
    }
    assert nodes["inStock"]["handles"] == ["true"]
    assert nodes["done"]["sources"] == ["charge"]
    assert nodes["charge"]["worker"].endswith(f":{os.getpid()}")
    assert nodes["backorder"]["attempt"] is None
    assert shown["context"]["nodeOutputs"]["charge"] == 25


@pytest.mark.usefixtures("deployed")
def test_a_failed_execution_shows_its_error_under_the_node(work: Callable[[str], None]) -> None:
    execution = answer("start", "shop", "--data", OUT_OF_STOCK)["id"]
    work(execution)

    told = run("show", execution).stdout

    assert "FAILED" in told.splitlines()[0]
    node, error = next(
        pair
        for pair in zip(told.splitlines(), told.splitlines()[1:], strict=False)
        if "✘ backorder" in pair[0]
    )
    assert "FAILED" in node
    assert "divides by zero" in error


@pytest.mark.usefixtures("deployed")
def test_a_node_is_shown_running_while_its_lock_is_held(engine: Engine) -> None:
    execution = answer("start", "shop", "--data", IN_STOCK)["id"]
    claim = engine.locks.acquire_lock(execution)
    assert claim is not None

    shown = answer("show", execution)
    engine.locks.release_lock(claim)

    running = [node for node in shown["nodes"] if node["status"] == "RUNNING"]
    assert [node["id"] for node in running] == ["inStock"]
    assert running[0]["worker"].endswith(f":{os.getpid()}")


@pytest.mark.usefixtures("deployed")
def test_show_and_list_work_without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    execution = answer("start", "shop", "--data", IN_STOCK)["id"]
    monkeypatch.setenv("WORKFLOW_ENGINE_REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()

    assert answer("show", execution, "--context")["context"]["variables"] == {"currency": "EUR"}
    assert len(answer("list")["executions"]) == 1


@pytest.mark.usefixtures("deployed")
def test_list_filters_and_leads_to_the_next_page(work: Callable[[str], None]) -> None:
    ids = [answer("start", "shop", "--data", data)["id"] for data in (IN_STOCK, OUT_OF_STOCK, IN_STOCK)]
    for execution in ids[:2]:
        work(execution)

    def listed(*options: str) -> list[str]:
        return [each["id"] for each in answer("list", *options)["executions"]]

    assert listed() == ids[::-1]
    assert listed("--limit", "2") == [ids[2], ids[1]]
    assert listed("--before", ids[1]) == [ids[0]]
    assert listed("--status", "failed", "--status", "PENDING") == [ids[2], ids[1]]
    assert listed("--workflow", "other") == []
    assert answer("list")["counts"] == {"COMPLETED": 1, "FAILED": 1, "PENDING": 1}
    told = run("list", "--limit", "1").stdout
    assert f"--before {ids[2]}" in told
    assert "In all: 1 PENDING, 1 COMPLETED, 1 FAILED" in told


def test_an_execution_that_does_not_exist_is_a_no() -> None:
    for wrong in ("nonsense", "0199aaaa-0000-7000-8000-000000000001"):
        assert answer("show", wrong, status=1)["error"]["type"] == "ExecutionNotFound"


# -- db ----------------------------------------------------------------------------------------------------


def test_upgrade_makes_the_tables_and_is_safe_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_SCHEMA", "elsewhere")
    get_settings.cache_clear()

    before = run("db", "status")
    assert before.exit_code == 1
    assert "run `workflow-engine db upgrade`" in before.stdout
    refused = run("list")
    assert refused.exit_code == 1
    assert "run `workflow-engine db upgrade`" in refused.stderr
    first, second = answer("db", "upgrade"), answer("db", "upgrade")

    assert (first["before"], second["before"]) == (None, first["current"])
    assert answer("db", "status") == {
        "current": first["current"],
        "newest": first["current"],
        "isCurrent": True,
        "schema": "elsewhere",
    }


# -- doctor ------------------------------------------------------------------------------------------------


def findings(status: int) -> dict[str, dict[str, Any]]:
    told = answer("doctor", status=status)["findings"]
    return {f"{finding['topic'].split()[0]}: {finding['question']}": finding for finding in told}


def test_doctor_asks_the_servers_and_misses_the_worker() -> None:
    found = findings(status=1)

    assert found["Postgres: Can it be reached?"]["severity"] == "ok"
    assert found["Postgres: Are the migrations current?"]["severity"] == "ok"
    assert found["Redis: Does it keep what it is given?"]["severity"] == "ok"
    assert found["Workers: Can the broker be reached?"]["severity"] == "ok"
    assert found["Workers: Is there a worker?"]["severity"] == "problem"


def test_doctor_tells_of_tables_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_SCHEMA", "nowhere")
    get_settings.cache_clear()

    assert findings(status=1)["Postgres: Are the migrations current?"]["severity"] == "problem"


@contextmanager
def running_worker() -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", "workers", "worker", "-c", "1", "-l", "WARNING"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen([*command, "--without-gossip", "--without-mingle"], cwd=root)
    try:
        deadline = time.monotonic() + 30
        while not ask_workers(Settings(), timeout=0.5):
            assert process.poll() is None, "the worker ended by itself"
            assert time.monotonic() < deadline, "the worker answers nobody"
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.usefixtures("deployed")
def test_with_a_worker_the_doctor_is_content_and_executions_run_to_their_end() -> None:
    with running_worker():
        found = findings(status=0)
        completed = run("start", "shop", "--data", IN_STOCK, "--wait", "20")
        failed = answer("start", "shop", "--data", OUT_OF_STOCK, "--wait", "20", status=1)

    assert [name for name, finding in found.items() if finding["severity"] == "problem"] == []
    assert found["Workers: Is the queue 'workflow' consumed?"]["severity"] == "ok"
    assert found["Workers: Does the broker deliver a message only once?"]["severity"] == "ok"
    assert completed.exit_code == 0
    assert "result     25" in completed.stdout
    assert failed["execution"]["status"] == "FAILED"
    assert failed["execution"]["errorDetails"]["nodeId"] == "backorder"
