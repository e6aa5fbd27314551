"""In a Django project `start_many` is part of `transaction.atomic()`, and takes the project's values."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings

from support.broker import Workers
from support.caller_database import Kept, Witness
from support.django_shop.models import Order
from workflow_engine import InvalidValue, SessionRefused, Start, StartsRefused
from workflow_engine.django import client
from workflow_engine.engine.starts.starting import BATCH

pytestmark = pytest.mark.usefixtures("deployed")


def keyed(*numbers: int) -> list[Start]:
    return [Start({"orderId": each}, idempotency_key=f"order-{each}") for each in numbers]


def test_all_commit_with_the_projects_rows_and_their_messages_follow(
    broker: Witness, workers: Workers, kept: Kept
) -> None:
    with transaction.atomic():
        Order.objects.create(customer="Ada")
        started = client().start_many("order", [Start({"orderId": each}) for each in range(BATCH + 1)])
        assert broker.published == []
        assert kept() == ([], [])

    assert broker.published == [each.id for each in started]
    workers.drain()
    assert client().get(started[-1].id).result == {"orderId": BATCH}


def test_none_is_there_after_a_rollback(broker: Witness, kept: Kept) -> None:
    with transaction.atomic():
        Order.objects.create(customer="Ada")
        client().start_many("order", [Start(), Start()])
        transaction.set_rollback(True)

    assert kept() == ([], [])
    assert broker.published == []


def test_outside_of_a_transaction_each_batch_commits_by_itself(broker: Witness) -> None:
    started = client().start_many("order", [Start()] * (BATCH + 1))

    assert broker.published == [each.id for each in started]


def test_a_key_that_is_used_or_given_twice_starts_once_and_each_place_has_its_execution(
    broker: Witness,
) -> None:
    first = client().start_many("order", keyed(1, 2))

    with transaction.atomic():
        again = client().start_many("order", keyed(3, 2, 1, 3))

    assert [each.is_new for each in again] == [True, False, False, False]
    assert [each.id for each in again] == [again[0].id, first[1].id, first[0].id, again[0].id]
    assert broker.published == [first[0].id, first[1].id, again[0].id]


def test_values_are_written_by_the_projects_encoder(workers: Workers) -> None:
    with override_settings(WORKFLOW_ENGINE={"ENCODER": "django.core.serializers.json.DjangoJSONEncoder"}):
        started = client().start_many("order", [Start({"total": Decimal("9.90")}), Start({"total": 1})])

    workers.drain()
    assert [client().get(each.id).result for each in started] == [{"total": "9.90"}, {"total": 1}]


def test_a_model_instance_refuses_all_with_advice(kept: Kept) -> None:
    ada: Any = Order(customer="Ada")

    with pytest.raises(StartsRefused, match="pk") as refused:
        client().start_many("order", [Start({"orderId": 1}), Start({"order": ada})])

    assert {place: type(error) for place, error in refused.value.refusals.items()} == {1: InvalidValue}
    assert kept() == ([], [])


def test_a_session_is_refused_with_what_to_do() -> None:
    with pytest.raises(SessionRefused, match=r"transaction\.atomic"):
        client().start_many("order", [Start()], session=object())
