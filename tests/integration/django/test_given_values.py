"""Data is JSON: model instances are refused with advice, other values go by the encoder of the project."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.test import override_settings
from django.utils.translation import gettext_lazy

from support.broker import Workers
from support.django_shop.models import Order
from workflow_engine import InvalidValue
from workflow_engine.django import client, start, start_task

pytestmark = pytest.mark.usefixtures("deployed")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Order(pk=7), r"data.orders\[0\]: a model instance \(django_shop.Order\).*`order.pk`"),
        (Order.objects.all(), r"data.orders\[0\]: a query \(django_shop.Order\).*values_list\('pk'"),
        (gettext_lazy("Order"), r"data.orders\[0\]: a lazy translation .*str\(value\)"),
    ],
)
@pytest.mark.parametrize("encoder", [None, "django.core.serializers.json.DjangoJSONEncoder"])
def test_what_belongs_to_django_is_refused_with_advice(value: Any, message: str, encoder: str | None) -> None:
    with (
        override_settings(WORKFLOW_ENGINE={"ENCODER": encoder}),
        pytest.raises(InvalidValue, match=message),
    ):
        start("order", {"orders": [value]})


def test_arguments_of_a_task_may_not_be_model_instances_either() -> None:
    with pytest.raises(InvalidValue, match=r"args\[0\]: a model instance"):
        start_task("shop.charge", [Order(pk=7)])


def test_without_an_encoder_a_decimal_is_refused_as_everywhere() -> None:
    with pytest.raises(InvalidValue, match=r"data.price: .*Decimal is not JSON; use str\(value\)"):
        start("order", {"price": Decimal("9.90")})


def test_the_encoder_of_the_project_writes_what_json_does_not_know(workers: Workers) -> None:
    key = uuid.uuid4()
    given = {
        "price": Decimal("9.90"),
        "day": date(2026, 1, 2),
        "at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "keys": (key,),
    }
    with override_settings(WORKFLOW_ENGINE={"ENCODER": "django.core.serializers.json.DjangoJSONEncoder"}):
        execution = start("order", given)
        with pytest.raises(InvalidValue, match="the encoder DjangoJSONEncoder refuses it"):
            start("order", {"orders": [{1, 2}]})
    workers.drain()

    assert client().get(execution.id).result == {
        "price": "9.90",
        "day": "2026-01-02",
        "at": "2026-01-02T03:04:00Z",
        "keys": [str(key)],
    }
