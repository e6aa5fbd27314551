"""Changed content makes a new version; known content makes its version current again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Workers
from workflow_engine import DefinitionInvalid, Workflow, WorkflowBuilder, WorkflowClient, WorkflowNotFound
from workflow_engine.postgres.workflows.deployments import Deployment

Sql = Callable[..., list[tuple[Any, ...]]]


def orders(answer: Any, *, triggers: tuple[str, ...] = ("placed",), **options: Any) -> Workflow:
    flow = WorkflowBuilder("orders", **options)
    end = flow.function("answer", answer)
    for trigger in triggers:
        flow.trigger(trigger) >> end
    return flow.build()


def test_the_same_content_twice_is_one_version(client: WorkflowClient, sql: Sql) -> None:
    assert client.deploy(orders(1)) == Deployment("orders", 1, is_new=True, was_current=False)
    assert client.deploy(orders(1)) == Deployment("orders", 1, is_new=False, was_current=True)
    assert sql("SELECT count(*) FROM workflow_versions") == [(1,)]


def test_changed_content_is_a_new_version_and_the_old_one_stays_as_it_was(client: WorkflowClient) -> None:
    client.deploy(orders(1))
    assert client.deploy(orders(2)) == Deployment("orders", 2, is_new=True, was_current=False)

    assert client.workflow("orders").version == 2
    assert client.workflow("orders").workflow == orders(2)
    old = client.workflow("orders", 1)
    assert (old.workflow, old.is_current) == (orders(1), False)


def test_content_of_an_earlier_version_makes_that_one_current_again(client: WorkflowClient, sql: Sql) -> None:
    client.deploy(orders(1))
    client.deploy(orders(2))

    assert client.deploy(orders(1)) == Deployment("orders", 1, is_new=False, was_current=False)

    assert client.workflow("orders").version == 1
    assert client.deploy(orders(3)).version == 3, "numbers are never used again"
    assert sql("SELECT count(*) FROM workflow_versions") == [(3,)]


def test_the_order_of_keys_makes_no_version_and_the_order_of_edges_does(client: WorkflowClient) -> None:
    definition = orders(1, triggers=("placed", "paid")).to_dict()
    client.deploy(definition)
    turned = {key: definition[key] for key in reversed(definition)}
    turned["nodes"] = [dict(reversed(node.items())) for node in definition["nodes"]]

    assert not client.deploy(turned).is_new
    assert client.deploy({**definition, "edges": definition["edges"][::-1]}).is_new


def test_running_executions_keep_their_version(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(orders("old"))
    before = client.start("orders").id
    client.deploy(orders("new"))
    after = client.start("orders").id
    workers.drain()

    assert (client.get(before).version, client.get(before).result) == (1, "old")
    assert (client.get(after).version, client.get(after).result) == (2, "new")


def test_deployments_at_once_make_every_version_once(client: WorkflowClient, sql: Sql) -> None:
    together = threading.Barrier(4)
    made: list[Deployment] = []

    def deploy(answer: int) -> None:
        together.wait()
        made.append(client.deploy(orders(answer)))

    threads = [threading.Thread(target=deploy, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(deployment.version for deployment in made) == [1, 1, 2, 2]
    assert sum(deployment.is_new for deployment in made) == 2
    assert sql("SELECT version FROM workflow_versions ORDER BY 1") == [(1,), (2,)]
    assert sql("SELECT count(*) FROM triggers") == [(1,)]


def test_a_trigger_keeps_its_id_through_all_versions_and_is_active_in_those_that_have_it(
    client: WorkflowClient, sql: Sql
) -> None:
    triggers = "SELECT node_id, id, active FROM triggers ORDER BY node_id"
    client.deploy(orders(1, triggers=("paid", "placed")))
    (_, paid, _), (_, placed, _) = sql(triggers)

    client.deploy(orders(2, triggers=("placed",)))
    assert sql(triggers) == [("paid", paid, False), ("placed", placed, True)]

    client.deploy(orders(1, triggers=("paid", "placed")))
    assert sql(triggers) == [("paid", paid, True), ("placed", placed, True)]


def test_the_trigger_of_an_old_version_still_starts_it(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(orders("old", triggers=("paid",)))
    client.deploy(orders("new", triggers=("placed",)))
    execution = client.start("orders", version=1).id
    workers.drain()

    assert client.get(execution).trigger_node_id == "paid"
    assert client.get(execution).result == "old"


def test_a_definition_with_problems_is_not_deployed(client: WorkflowClient, sql: Sql) -> None:
    with pytest.raises(DefinitionInvalid) as refusal:
        client.deploy({"id": "orders", "nodes": [{"id": "a", "type": "logic", "subType": "marge"}]})

    assert len(refusal.value.problems) >= 2
    assert sql("SELECT count(*) FROM workflows") == [(0,)]


def test_workflows_are_listed_with_their_current_version(client: WorkflowClient) -> None:
    client.deploy(orders(1, name="Orders"))
    client.deploy(orders(2, name="All orders"))
    flow = WorkflowBuilder("another")
    flow.trigger("start") >> flow.function("end", 1)
    client.deploy(flow.build())

    listed = client.workflows()

    assert [(each.id, each.name, each.current_version) for each in listed] == [
        ("another", None, 1),
        ("orders", "All orders", 2),
    ]


def test_what_was_never_deployed_is_refused_with_what_to_do(client: WorkflowClient) -> None:
    client.deploy(orders(1))

    with pytest.raises(WorkflowNotFound, match="'nothing' is not deployed; `workflow-engine deploy FILE`"):
        client.workflow("nothing")
    with pytest.raises(WorkflowNotFound, match="'orders' has no version 7"):
        client.workflow("orders", 7)
