"""The models read executions and their journal, and refuse to write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.broker import Workers
from workflow_engine.django import start
from workflow_engine.django.models import Execution, NodeExecution, ReadOnly

pytestmark = pytest.mark.usefixtures("deployed")


def test_an_execution_and_its_journal_are_queried_like_any_model(workers: Workers) -> None:
    first = start("order", {"orderId": 1}, metadata={"shop": "north"}, tags=["vip"])
    start("order", {"orderId": 2})
    workers.drain()

    found = Execution.objects.get(user_metadata__shop="north", tags__contains=["vip"])

    assert str(found.pk) == first.id
    assert (found.workflow_id, found.status, found.trigger_data) == ("order", "COMPLETED", {"orderId": 1})
    assert list(found.nodes.values_list("node_id", "output_data")) == [
        ("placed", {"orderId": 1}),
        ("noted", {"orderId": 1}),
    ]
    assert NodeExecution.objects.filter(execution__trigger_data__orderId=2, node_id="noted").count() == 1
    assert [each.trigger_data["orderId"] for each in Execution.objects.all()] == [2, 1]


def test_all_columns_are_there() -> None:
    start("order", {"orderId": 1})

    for model in (Execution, NodeExecution):
        names = [field.name for field in model._meta.concrete_fields]
        assert model.objects.values(*names).count() == 1
        assert list(model.objects.all())


WRITES: list[Callable[[Execution], object]] = [
    lambda execution: execution.save(),
    lambda execution: execution.delete(),
    lambda execution: Execution.objects.update(status="COMPLETED"),
    lambda execution: Execution.objects.all().delete(),
    lambda execution: Execution.objects.create(workflow_id="order"),
    lambda execution: Execution.objects.bulk_update([execution], ["status"]),
    lambda execution: execution.nodes.all().delete(),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_model_refuses_to_write(write: Callable[[Execution], object]) -> None:
    started = start("order", {"orderId": 1})
    execution = Execution.objects.get(pk=started.id)

    with pytest.raises(ReadOnly, match=r"use client\(\)\.control"):
        write(execution)

    assert Execution.objects.get().status == "PENDING"
