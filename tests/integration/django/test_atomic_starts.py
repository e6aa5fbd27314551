"""A start inside `transaction.atomic()` commits or rolls back with Django's rows; its message follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from celery import chain
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction
from django.test import AsyncClient, Client, override_settings

from support.broker import Workers
from support.caller_database import Witness
from support.django_shop.celery import app
from support.django_shop.models import Order
from workflow_engine import (
    ExecutionStatus,
    IdempotencyConflict,
    SessionRefused,
    TriggerDataInvalid,
    Workflow,
    WorkflowBuilder,
    durable,
)
from workflow_engine.django import client, start, start_task

Kept = Callable[[], tuple[list[str], list[str]]]

pytestmark = pytest.mark.usefixtures("deployed")


def place(customer: str, using: str = "default") -> int:
    return Order.objects.using(using).create(customer=customer).pk


def test_order_and_execution_commit_together_and_the_message_follows(
    broker: Witness, workers: Workers, kept: Kept
) -> None:
    with transaction.atomic():
        execution = start("order", {"orderId": place("Ada")})
        assert client().get(execution.id).status is ExecutionStatus.PENDING, "its own transaction sees it"
        assert kept() == ([], [])
        assert broker.published == []

    assert broker.published == [execution.id]
    assert kept() == (["Ada"], [execution.id])
    workers.drain()
    assert client().get(execution.id).status is ExecutionStatus.COMPLETED


def test_neither_is_there_after_a_rollback(broker: Witness, kept: Kept) -> None:
    with transaction.atomic():
        start("order", {"orderId": place("Ada")})
        transaction.set_rollback(True)

    assert kept() == ([], [])
    assert broker.published == []


def test_outside_of_a_transaction_a_start_commits_by_itself(broker: Witness, kept: Kept) -> None:
    execution = start("order", {"orderId": 1})

    assert kept() == ([], [execution.id])
    assert broker.published == [execution.id]


def test_a_savepoint_that_rolls_back_takes_its_execution_and_message_along(
    broker: Witness, kept: Kept
) -> None:
    with transaction.atomic():
        first = start("order", {"orderId": place("Ada")})
        with transaction.atomic():
            start("order", {"orderId": place("Hedy")})
            transaction.set_rollback(True)
        with transaction.atomic():
            third = start("order", {"orderId": place("Grace")})
        assert broker.published == []

    assert kept() == (["Ada", "Grace"], [first.id, third.id])
    assert broker.published == [first.id, third.id]


def test_a_durable_block_is_as_good_as_any(broker: Witness, kept: Kept) -> None:
    with transaction.atomic(durable=True):
        execution = start("order", {"orderId": place("Ada")})

    assert kept() == (["Ada"], [execution.id])
    assert broker.published == [execution.id]


def test_a_transaction_in_another_database_is_refused_by_name(broker: Witness, kept: Kept) -> None:
    with transaction.atomic(using="other"):
        with pytest.raises(SessionRefused, match=r"atomic\(using='other'\).*tables are in 'default'"):
            start("order", {"orderId": place("Ada", using="other")})
        with transaction.atomic(using="default"):
            execution = start("order", {"orderId": 1})

    assert kept() == ([], [execution.id])
    assert broker.published == [execution.id]


def test_without_autocommit_a_start_is_refused_as_django_reports_no_commit(kept: Kept) -> None:
    transaction.set_autocommit(False)
    try:
        with pytest.raises(SessionRefused, match="autocommit is off"):
            start("order", {"orderId": 1})
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)

    assert kept() == ([], [])


def test_the_session_of_another_library_is_refused() -> None:
    with pytest.raises(SessionRefused, match="leave `session` out"):
        client().start("order", session=object())


@pytest.mark.parametrize("error", ["schema", "key"])
def test_the_transaction_stays_usable_after_a_refused_start(error: str, broker: Witness, kept: Kept) -> None:
    with transaction.atomic():
        execution = start("order", {"orderId": place("Ada")}, idempotency_key="ada")
        with pytest.raises((TriggerDataInvalid, IdempotencyConflict)):
            start("order", 7 if error == "schema" else {"orderId": -1}, idempotency_key="ada")
        place("Grace")

    assert kept() == (["Ada", "Grace"], [execution.id])
    assert broker.published == [execution.id]


@pytest.mark.parametrize("what", ["task", "canvas"])
def test_tasks_and_canvases_are_part_of_the_transaction_as_well(
    what: str, broker: Witness, kept: Kept
) -> None:
    def begin(order_id: int) -> str:
        if what == "task":
            return start_task("django_shop.charge", [order_id]).id
        charge = app.signature("django_shop.charge", args=[order_id])
        return durable(chain(charge, app.signature("django_shop.thank"))).start().id

    with transaction.atomic():
        begin(place("Ada"))
        transaction.set_rollback(True)
    assert kept() == ([], [])

    with transaction.atomic():
        execution_id = begin(place("Ada"))
    assert kept() == (["Ada"], [execution_id])
    assert broker.published == [execution_id]


def test_a_key_that_was_used_before_returns_its_execution(broker: Witness, kept: Kept) -> None:
    with transaction.atomic():
        first = start("order", {"orderId": 1}, idempotency_key="ada")
        again = start("order", {"orderId": 1}, idempotency_key="ada")
    later = start("order", {"orderId": 1}, idempotency_key="ada")

    assert (first.is_new, again.is_new, later.is_new) == (True, False, False)
    assert first.id == again.id == later.id
    assert kept() == ([], [first.id])


def test_atomic_requests_make_a_view_and_its_execution_one_transaction(broker: Witness, kept: Kept) -> None:
    connections["default"].settings_dict["ATOMIC_REQUESTS"] = True
    try:
        execution_id = Client().get("/order/Ada").content.decode()
        Client(raise_request_exception=False).get("/order-and-fail/Grace")
    finally:
        connections["default"].settings_dict["ATOMIC_REQUESTS"] = False

    assert kept() == (["Ada"], [execution_id])
    assert broker.published == [execution_id]


def test_an_async_view_starts_by_sync_to_async(broker: Witness, kept: Kept) -> None:
    async def call() -> str:
        with pytest.raises(SynchronousOnlyOperation):
            start("order", {"orderId": 1})
        return (await AsyncClient().get("/order-async/Ada")).content.decode()

    execution_id = asyncio.run(call())

    assert kept() == (["Ada"], [execution_id])
    assert broker.published == [execution_id]


def test_a_coroutine_starts_in_the_thread_of_django_s_connection(broker: Witness, kept: Kept) -> None:
    async def call() -> str:
        with pytest.raises(SessionRefused, match="leave `session` out"):
            await client().start_async("order", {"orderId": 1}, session=object())
        return (await client().start_async("order", {"orderId": 1})).id

    execution_id = asyncio.run(call())

    assert kept() == ([], [execution_id])
    assert broker.published == [execution_id]


def test_a_broker_that_is_away_costs_the_request_no_error(broker: Witness, kept: Kept) -> None:
    broker.is_away = True

    with transaction.atomic():
        inside = start("order", {"orderId": place("Ada")})
    outside = start("order", {"orderId": 2})

    assert kept() == (["Ada"], [inside.id, outside.id])


def test_an_event_sent_in_a_transaction_is_part_of_it() -> None:
    with transaction.atomic():
        client().send_event("order-1", "packed", {"parcel": 1}, event_id="once")
        transaction.set_rollback(True)

    again = client().send_event("order-1", "packed", {"parcel": 1}, event_id="once")
    assert again.accepted == "kept", "the first one is gone"


def test_a_workflow_deployed_in_a_transaction_that_rolled_back_leaves_nothing_behind(
    workers: Workers,
) -> None:
    def doubling(factor: int) -> Workflow:
        flow = WorkflowBuilder("doubling")
        flow.trigger("asked") >> flow.function("doubled", f"{{{{ {factor} * 2 }}}}")
        return flow.build()

    with transaction.atomic():
        client().deploy(doubling(1))
        start("doubling")
        transaction.set_rollback(True)
    client().deploy(doubling(2))
    execution = start("doubling")
    workers.drain()

    assert client().get(execution.id).result == 4


@override_settings(USE_TZ=False)
def test_times_have_their_zone_whatever_django_uses() -> None:
    execution = start("order", {"orderId": 1})

    assert client().get(execution.id).created_at == execution.created_at
