"""Equal starts under one idempotency key give one execution, over deployments in between too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import sqlalchemy

from workflow_engine import IdempotencyConflict, TriggerDataInvalid, Workflow, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.starts.given import NO_DATA
from workflow_engine.errors import InvalidValue, WorkflowNotFound


def orders(
    trigger: str = "placed",
    *others: str,
    variables: Mapping[str, Any] | None = None,
    required: str | None = None,
    node: str = "charge",
) -> Workflow:
    flow = WorkflowBuilder("orders", variables=variables)
    schema = {"required": [required]} if required else None
    charge = flow.function(node, 1)
    flow.trigger(trigger, schema=schema) >> charge
    for other in others:
        flow.trigger(other) >> charge
    return flow.build()


def start(client: WorkflowClient, data: Any = None, **options: Any) -> str:
    return client.start("orders", data, idempotency_key="order-7", **options).id


@pytest.mark.parametrize(
    ("data", "equal"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 0}, {"a": -0.0}),
        ({"a": 10**16}, {"a": 1e16}),
        ({"a": [{"x": {"y": 1, "z": 2.0}}]}, {"a": ({"x": {"z": 2, "y": 1.0}},)}),
        (NO_DATA, {}),
    ],
    ids=["order of keys", "1.0", "-0.0", "1e16", "nested", "none given"],
)
def test_equal_json_values_are_equal_starts(client: WorkflowClient, data: Any, equal: Any) -> None:
    client.deploy(orders())

    assert start(client, data) == start(client, equal) == start(client, data)


@pytest.mark.parametrize(
    ("data", "other"),
    [
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": None}, {}),
        ({"a": 2**53 + 1}, {"a": 2**53}),
    ],
    ids=["boolean", "text", "order of items", "null", "large integers"],
)
def test_other_values_are_a_conflict(client: WorkflowClient, data: Any, other: Any) -> None:
    client.deploy(orders())
    start(client, data)

    with pytest.raises(IdempotencyConflict):
        start(client, other)


def test_variables_are_compared_alike(client: WorkflowClient) -> None:
    client.deploy(orders())
    first = start(client, variables={"rate": 1, "currency": "EUR"})

    assert start(client, variables={"currency": "EUR", "rate": 1.0}) == first
    with pytest.raises(IdempotencyConflict):
        start(client, variables={"currency": "CHF", "rate": 1})
    with pytest.raises(IdempotencyConflict):
        start(client)


DEPLOYED_SINCE = {
    "another default of a variable": orders(variables={"currency": "CHF"}),
    "another variable": orders(variables={"currency": "EUR", "rate": 2}),
    "no variables": orders(),
    "a schema that refuses the data": orders(required="customer"),
    "another name of the trigger": orders("received"),
    "a second trigger": orders("placed", "imported"),
    "a node with the name of the variable": orders(node="rate"),
}


@pytest.mark.parametrize("since", DEPLOYED_SINCE.values(), ids=list(DEPLOYED_SINCE))
def test_a_deployment_in_between_changes_nothing(client: WorkflowClient, since: Workflow) -> None:
    client.deploy(orders(variables={"currency": "EUR"}))
    first = start(client, {"id": 7}, variables={"rate": 1})
    client.deploy(since)

    again = client.start("orders", {"id": 7}, variables={"rate": 1}, idempotency_key="order-7")

    assert (again.id, again.is_new) == (first, False)
    assert client.context(first).variables == {"currency": "EUR", "rate": 1}


def test_nor_does_it_within_a_transaction_of_the_callers(client: WorkflowClient, engine: Engine) -> None:
    client.deploy(orders())
    callers = sqlalchemy.create_engine(engine.settings.database_url)
    with callers.begin() as connection:
        first = client.start("orders", idempotency_key="order-7", session=connection)
        client.deploy(orders(required="customer"))
        again = client.start("orders", idempotency_key="order-7", session=connection)
    callers.dispose()

    assert (again.id, again.is_new) == (first.id, False)


def test_naming_the_only_trigger_makes_no_difference(client: WorkflowClient) -> None:
    client.deploy(orders())

    assert start(client) == start(client, trigger="placed") == start(client)


def test_another_trigger_is_another_start(client: WorkflowClient) -> None:
    client.deploy(orders("placed", "imported"))
    start(client, trigger="placed")

    with pytest.raises(IdempotencyConflict):
        start(client, trigger="imported")


REFUSED: dict[str, Callable[[WorkflowClient], Any]] = {
    "data": lambda client: start(client, {"id": 8}),
    "a variable": lambda client: start(client, {"id": 7, "customer": 1}, variables={"charge": 1}),
    "a trigger": lambda client: start(client, {"id": 7, "customer": 1}, trigger="imported"),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=list(REFUSED))
def test_a_start_that_was_not_made_before_is_refused_as_without_a_key(
    client: WorkflowClient, refused: Callable[[WorkflowClient], Any]
) -> None:
    client.deploy(orders(required="customer"))
    start(client, {"id": 7, "customer": 1})

    with pytest.raises((TriggerDataInvalid, InvalidValue, WorkflowNotFound)):
        refused(client)
