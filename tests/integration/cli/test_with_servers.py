"""The command line deploys, starts, shows and lists, in words for people and in JSON for programs."""

from __future__ import annotations

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
import redis

from support.broker import Broker, Workers
from support.command_line import run, run_json
from support.polling import poll
from support.repository import ROOT
from support.workflows import line
from workflow_engine.broker.inspection import ask_workers
from workflow_engine.definition.workflow import Edge, Node, Workflow
from workflow_engine.engine.assembly import Engine
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
def _in_a_folder_with_a_definition(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text(SHOP)


@pytest.fixture
def work(engine: Engine, workers: Workers, broker: Broker) -> Callable[[str], None]:
    """Return a function that runs an execution to its end; the command line's messages stay in Redis."""

    def work(execution_id: str) -> None:
        engine.executor.resume_execution(execution_id)
        workers.drain()

    return work


@pytest.fixture
def deployed() -> None:
    assert run("deploy", "shop.yaml").exit_code == 0


# -- definitions -------------------------------------------------------------------------------------------


def test_deploying_reports_whether_it_made_a_version() -> None:
    assert run("deploy", "shop.yaml").stdout == "shop version 1: new\n"
    assert run("deploy", "shop.yaml").stdout == "shop version 1: already current\n"

    Path("shop.yaml").write_text(SHOP.replace("EUR", "CHF"))
    assert run_json("deploy", "shop.yaml")["deployed"] == [
        {"workflowId": "shop", "version": 2, "isNew": True, "wasCurrent": False, "state": "ACTIVE"}
    ]
    Path("shop.yaml").write_text(SHOP)
    assert run("deploy", "shop.yaml").stdout == "shop version 1: current again\n"
    assert [(each["id"], each["currentVersion"]) for each in run_json("workflows")["workflows"]] == [
        ("shop", 1)
    ]


def test_nothing_is_deployed_if_one_definition_has_a_problem() -> None:
    Path("bad.yaml").write_text(SHOP.replace("id: shop", "id: bad").replace("target: done", "target: dune"))

    result = run("deploy", "shop.yaml", "bad.yaml")

    assert result.exit_code == 1
    assert "Nothing was deployed." in result.stdout
    assert "shop.yaml" not in result.stdout
    assert run_json("workflows") == {"workflows": []}


# -- start -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("deployed")
def test_start_prints_the_id_that_show_takes() -> None:
    started = run_json("start", "shop", "--data", IN_STOCK)

    assert started["isNew"] is True
    shown = run_json("show", started["id"])
    assert shown["execution"]["status"] == "PENDING"
    assert [node["id"] for node in shown["nodes"] if node["isDue"]] == ["inStock"]


@pytest.mark.usefixtures("deployed")
def test_data_may_come_from_a_file_and_from_standard_input() -> None:
    Path("order.json").write_text(IN_STOCK)

    assert run("start", "shop", "--data", "@order.json").exit_code == 0
    assert run("start", "shop", "--data", "@-", stdin=IN_STOCK).exit_code == 0


@pytest.mark.usefixtures("deployed")
def test_the_same_key_gives_the_same_execution_and_other_data_is_refused() -> None:
    first = run_json("start", "shop", "--data", IN_STOCK, "--key", "order-7")
    again = run_json("start", "shop", "--data", IN_STOCK, "--key", "order-7")
    refused = run_json("start", "shop", "--data", OUT_OF_STOCK, "--key", "order-7", status=1)

    assert (again["id"], again["isNew"]) == (first["id"], False)
    assert refused["error"]["type"] == "IdempotencyConflict"
    assert refused["error"]["executionId"] == first["id"]


@pytest.mark.usefixtures("deployed")
def test_each_line_of_a_file_is_a_start_and_a_second_run_starts_what_is_missing() -> None:
    lines = [f'{{"data": {IN_STOCK}, "key": "order-{number}"}}' for number in range(3)]
    Path("orders.jsonl").write_text("\n".join(lines[:2]) + "\n")
    first = run_json("start", "shop", "--many", "orders.jsonl")

    again = run("start", "shop", "--many", "-", stdin="\n".join(lines))

    assert [each["isNew"] for each in first] == [True, True]
    assert "Started 1 executions; 2 keys had already started theirs" in again.output


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"data": {}}', "line 2: trigger"),
        ('{"dta": 1}', "line 2 has an unknown key 'dta'; did you mean 'data'?"),
        ("7", 'line 2 is no object; write {"data": 7}'),
        ("", "line 2 is not JSON"),
        ('{"tags": "vip"}', "line 2: tags is a list of texts, not 'vip'"),
        ('{"data": 1, "data": 2}', "the key 'data' occurs twice"),
    ],
)
def test_a_line_that_is_refused_starts_nothing_and_is_named(line: str, message: str) -> None:
    good = f'{{"data": {IN_STOCK}}}'

    refused = run("start", "shop", "--many", "-", stdin=f"{good}\n{line}\n{good}\n")

    assert refused.exit_code != 0
    assert message in " ".join(refused.output.split())
    assert run_json("list")["executions"] == []


@pytest.mark.usefixtures("deployed")
def test_many_starts_take_no_options_of_a_single_one() -> None:
    refused = run("start", "shop", "--many", "-", "--key", "order-7", stdin="{}")

    assert refused.exit_code == 2
    assert "--many takes all but --version from its lines" in " ".join(refused.output.split())


@pytest.mark.usefixtures("deployed")
def test_data_that_the_trigger_refuses_starts_nothing_and_every_problem_is_reported() -> None:
    refused = run_json("start", "shop", "--data", "{}", status=1)

    assert refused["error"]["type"] == "TriggerDataInvalid"
    assert len(refused["error"]["problems"]) == 1
    assert run_json("list")["executions"] == []


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
def test_a_wait_that_times_out_fails_and_names_the_execution() -> None:
    refused = run_json("start", "shop", "--data", IN_STOCK, "--wait", "0.2", status=1)

    assert refused["error"]["type"] == "WaitTimeout"
    assert run_json("show", refused["error"]["executionId"])["execution"]["status"] == "PENDING"


# -- show and list -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("deployed")
def test_show_draws_what_each_node_did(work: Callable[[str], None]) -> None:
    execution = run_json("start", "shop", "--data", IN_STOCK, "--variable", 'currency="CHF"')["id"]
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
    execution = run_json("start", "shop", "--data", IN_STOCK)["id"]
    work(execution)

    shown = run_json("show", execution, "--context")

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
    execution = run_json("start", "shop", "--data", OUT_OF_STOCK)["id"]
    work(execution)

    text = run("show", execution).stdout

    assert "FAILED" in text.splitlines()[0]
    node, error = next(
        pair
        for pair in zip(text.splitlines(), text.splitlines()[1:], strict=False)
        if "✘ backorder" in pair[0]
    )
    assert "FAILED" in node
    assert "divides by zero" in error


def test_show_has_the_input_and_the_traceback_of_a_failed_node_without_secrets(
    engine: Engine, work: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", "s3cr3t")

    def refuses(token: str, order: int) -> None:
        raise ValueError(f"401 for {token}")

    arguments = {"token": "{{ _secrets.TOKEN }}", "order": "{{ start.order }}"}
    engine.deployments.deploy(line(refuses, id="refused", arguments=arguments))
    execution = run_json("start", "refused", "--data", '{"order": 42}')["id"]
    work(execution)

    value, text = run_json("show", execution), run("show", execution).stdout

    node = value["nodes"][-1]
    assert node["inputData"]["arguments"] == {"token": "***", "order": 42}
    assert node["errorDetails"]["traceback"].endswith("ValueError: 401 for ***\n")
    section = text[text.index("refuses ValueError\ninput ") :]
    assert '"order": 42' in section
    assert ", in refuses\n" in section
    assert section.endswith("ValueError: 401 for ***\n")
    assert "s3cr3t" not in text + str(value)


@pytest.mark.usefixtures("deployed")
def test_a_node_is_shown_running_while_its_lock_is_held(engine: Engine) -> None:
    execution = run_json("start", "shop", "--data", IN_STOCK)["id"]
    claim = engine.locks.acquire_lock(execution)
    assert claim is not None

    shown = run_json("show", execution)
    engine.locks.release_lock(claim)

    running = [node for node in shown["nodes"] if node["status"] == "RUNNING"]
    assert [node["id"] for node in running] == ["inStock"]
    assert running[0]["worker"].endswith(f":{os.getpid()}")


@pytest.mark.usefixtures("deployed")
def test_show_and_list_work_without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    execution = run_json("start", "shop", "--data", IN_STOCK)["id"]
    monkeypatch.setenv("WORKFLOW_ENGINE_REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()

    assert run_json("show", execution, "--context")["context"]["variables"] == {"currency": "EUR"}
    assert len(run_json("list")["executions"]) == 1


@pytest.mark.usefixtures("deployed")
def test_list_filters_and_leads_to_the_next_page(work: Callable[[str], None]) -> None:
    ids = [run_json("start", "shop", "--data", data)["id"] for data in (IN_STOCK, OUT_OF_STOCK, IN_STOCK)]
    for execution in ids[:2]:
        work(execution)

    def listed(*options: str) -> list[str]:
        return [each["id"] for each in run_json("list", *options)["executions"]]

    assert listed() == ids[::-1]
    assert listed("--limit", "2") == [ids[2], ids[1]]
    assert listed("--before", ids[1]) == [ids[0]]
    assert listed("--status", "failed", "--status", "PENDING") == [ids[2], ids[1]]
    assert listed("--workflow", "other") == []
    assert run_json("list")["counts"] == {"COMPLETED": 1, "FAILED": 1, "PENDING": 1}
    text = run("list", "--limit", "1").stdout
    assert f"--before {ids[2]}" in text
    assert "In all: 1 PENDING, 1 COMPLETED, 1 FAILED" in text


def test_an_execution_that_does_not_exist_is_refused_with_status_1() -> None:
    for wrong in ("nonsense", "0199aaaa-0000-7000-8000-000000000001"):
        assert run_json("show", wrong, status=1)["error"]["type"] == "ExecutionNotFound"


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
    first, second = run_json("db", "upgrade"), run_json("db", "upgrade")

    assert (first["before"], second["before"]) == (None, first["current"])
    assert run_json("db", "status") == {
        "current": first["current"],
        "newest": first["current"],
        "isCurrent": True,
        "schema": "elsewhere",
    }


# -- doctor ------------------------------------------------------------------------------------------------


def findings(status: int) -> dict[str, dict[str, Any]]:
    findings = run_json("doctor", status=status)["findings"]
    return {f"{finding['topic'].split()[0]}: {finding['question']}": finding for finding in findings}


def test_doctor_asks_the_servers_and_misses_the_worker() -> None:
    found = findings(status=1)

    assert found["Postgres: Can it be reached?"]["severity"] == "ok"
    assert found["Postgres: Are the migrations current?"]["severity"] == "ok"
    assert found["Redis: Does it keep what it stores?"]["severity"] == "ok"
    assert found["Workers: Can the broker be reached?"]["severity"] == "ok"
    assert found["Workers: Is there a worker?"]["severity"] == "problem"


def test_doctor_reports_missing_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_SCHEMA", "nowhere")
    get_settings.cache_clear()

    assert findings(status=1)["Postgres: Are the migrations current?"]["severity"] == "problem"


@contextmanager
def running_worker() -> Iterator[None]:
    celery = [sys.executable, "-m", "celery", "-A", "workflow_engine.worker"]
    command = [*celery, "worker", "-c", "1", "-l", "WARNING"]
    process = subprocess.Popen([*command, "--without-gossip", "--without-mingle"], cwd=ROOT)
    try:
        poll(lambda: ask_workers(Settings(), timeout=0.5), "the worker reports")
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_a_start_warns_of_code_that_no_worker_has_and_show_of_the_node_that_waits_for_it(
    engine: Engine,
) -> None:
    start = Node(id="start", type="trigger", sub_type="manual")
    render = Node(id="render", type="action", sub_type="shop.render")
    edge = Edge(source="start", target="render")
    engine.deployments.deploy(Workflow(id="newer", nodes=(start, render), edges=(edge,)))

    with running_worker():
        started = run("start", "newer")
        execution = re.findall(r"[0-9a-f-]{36}", started.stdout)[0]
        deadline = time.monotonic() + 30
        while "WAITING" not in (shown := run("show", execution).stdout):
            assert time.monotonic() < deadline, shown
        found = findings(status=1)

    assert started.stderr.startswith("No running worker has 'action/shop.render'")
    assert "for a worker that has 'action/shop.render' until 20" in shown
    known = found["Workers: Do the workers have the code of deployed workflows?"]
    assert known["answer"] == "none has action/shop.render, which newer needs"


@pytest.mark.usefixtures("deployed")
def test_with_a_worker_the_doctor_finds_no_problem_and_executions_run_to_their_end() -> None:
    with running_worker():
        found = findings(status=0)
        completed = run("start", "shop", "--data", IN_STOCK, "--wait", "20")
        failed = run_json("start", "shop", "--data", OUT_OF_STOCK, "--wait", "20", status=1)

    assert [name for name, finding in found.items() if finding["severity"] == "problem"] == []
    assert found["Workers: Is the queue 'workflow' consumed?"]["severity"] == "ok"
    assert found["Workers: Does the broker deliver a message only once?"]["severity"] == "ok"
    assert completed.exit_code == 0
    assert "result     25" in completed.stdout
    assert failed["execution"]["status"] == "FAILED"
    assert failed["execution"]["errorDetails"]["nodeId"] == "backorder"


# -- a team's app ------------------------------------------------------------------------------------------


def test_with_an_app_messages_go_to_its_broker_with_the_options_of_its_transport(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, redis_client: redis.Redis, deployed: None
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    options = {"global_keyprefix": "team:", "priority_steps": [0, 3], "sep": "#"}
    Path("team_app.py").write_text(
        "from celery import Celery\n"
        f"app = Celery('team', broker={settings.redis_url!r}, set_as_current=False)\n"
        f"app.conf.broker_transport_options = {options!r}\n"
    )

    run_json("-A", "team_app", "start", "shop", "--data", IN_STOCK)

    queues = [key.decode() for key in redis_client.scan_iter("*workflow*")]
    redis_client.delete(*queues)  # a queue has no expiry
    sys.modules.pop("team_app")
    assert queues == ["team:workflow#3"]
