"""Operators see the children of an execution, and move them with it."""

from __future__ import annotations

import pytest

from support.broker import Workers
from support.command_line import run, run_json
from support.parents import body, delay, function, line, loop
from workflow_engine import WorkflowClient


@pytest.fixture
def parent(client: WorkflowClient, workers: Workers) -> str:
    """Return a loop with three children: one has failed, one has completed, one waits; two are to come."""
    choose = {"id": "which", "type": "logic", "subType": "switch"}
    choose["config"] = {  # type: ignore[assignment]
        "field": "{{ item }}",
        "cases": [{"value": "slow", "handle": "slow"}, {"value": "bad", "handle": "bad"}],
    }
    inner = body(choose, delay("cool", 600), function("bad", "{{ 1 / 0 }}"), function("good", "{{ item }}"))
    inner["edges"] = [
        {"source": "which", "target": "cool", "sourceHandle": "slow"},
        {"source": "which", "target": "bad", "sourceHandle": "bad"},
        {"source": "which", "target": "good", "sourceHandle": "default"},
    ]
    items = ["good", "bad", "slow", "slow", "good"]
    client.deploy(line("parent", loop("each", items=items, concurrency=1, tolerate=1, body=inner)))
    execution = client.start("parent").id
    workers.drain()
    return execution


def test_show_counts_the_children_of_a_node(parent: str) -> None:
    shown = run("show", parent).stdout

    assert "✔ 1 · ▶ 1 · ✘ 1 of 5" in shown
    assert "for its children" in shown
    (node,) = [node for node in run_json("show", parent)["nodes"] if node["id"] == "each"]
    assert node["children"] == {"total": 5, "counts": {"COMPLETED": 1, "FAILED": 1, "WAITING": 1}}


def test_show_draws_a_child_and_names_its_parent(client: WorkflowClient, parent: str) -> None:
    child = client.children(parent)[1].id

    shown = run("show", child).stdout

    assert "parent#each version 1  FAILED" in shown
    assert f"parent     {parent}, as each[1]" in shown
    assert "bad" in shown


def test_list_shows_roots_or_the_children_of_one(client: WorkflowClient, parent: str) -> None:
    first, second, third = [child.id for child in client.children(parent)]

    roots = run_json("list")
    children = run_json("list", "--children-of", parent)
    failed = run_json("list", "--children-of", parent, "--status", "FAILED")
    rest = run_json("list", "--children-of", parent, "--after", first, "--limit", "1")

    assert ([each["id"] for each in roots["executions"]], roots["counts"]) == ([parent], {"WAITING": 1})
    assert [each["id"] for each in children["executions"]] == [first, second, third]
    assert [each["parentIndex"] for each in children["executions"]] == [0, 1, 2]
    assert children["counts"] == {"COMPLETED": 1, "FAILED": 1, "WAITING": 1}
    assert [each["id"] for each in failed["executions"]] == [second]
    assert [each["id"] for each in rest["executions"]] == [second]
    assert "It has no children." in run("list", "--children-of", first).stdout


def test_list_shows_children_beside_roots_if_asked(client: WorkflowClient, parent: str) -> None:
    first, second, third = [child.id for child in client.children(parent)]
    status = {child.id: child.status for child in client.children(parent)}
    error = client.get(second).error or ""

    def listed(*options: str) -> list[str]:
        return [each["id"] for each in run_json("list", *options)["executions"]]

    assert listed("--children") == [third, second, first, parent]
    assert listed("--children", "--limit", "2") == [third, second]
    assert listed("--children", "--before", second) == [first, parent]
    assert listed("--children", "--status", "FAILED") == [second]
    assert listed("--children", "--workflow", "parent", "--status", status[first]) == [first]
    assert listed("--children", "--text", error) == [second]
    assert listed("--children", "--text", third[:23]) == [third]
    assert listed("--text", error) == listed("--text", second) == []
    refused = run("list", "--children", "--children-of", parent)
    assert refused.exit_code != 0
    assert "--children-of goes with" in refused.output


def test_a_pause_reaches_the_children_if_it_says_so(client: WorkflowClient, parent: str) -> None:
    waiting = client.children(parent)[2].id

    run("pause", parent)
    assert client.get(waiting).status == "WAITING"
    run("resume", parent)
    run("pause", parent, "--children")
    assert client.get(waiting).status == "PAUSED"
    run("resume", parent, "--children")
    assert client.get(waiting).status == "WAITING"


def test_a_child_that_cannot_be_retried_by_itself_is_told_its_root(
    client: WorkflowClient, parent: str
) -> None:
    client.control.cancel(parent)
    failed = client.children(parent)[1].id

    refused = run("retry", failed)

    assert refused.exit_code != 0
    assert f"its root, execution {parent}" in refused.stderr
