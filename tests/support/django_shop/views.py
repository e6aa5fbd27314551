"""Views that start an execution beside a row."""

from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from support.django_shop.models import Order
from workflow_engine.django import start


def order(request: HttpRequest, customer: str) -> HttpResponse:
    """Store an order and start its execution; `ATOMIC_REQUESTS` makes both one transaction."""
    placed = Order.objects.create(customer=customer)
    return HttpResponse(start("order", {"orderId": placed.pk}).id)


def order_and_fail(request: HttpRequest, customer: str) -> HttpResponse:
    """Do the same, then fail."""
    order(request, customer)
    raise RuntimeError("the view fails")


@transaction.atomic
def _place(customer: str) -> str:
    placed = Order.objects.create(customer=customer)
    return start("order", {"orderId": placed.pk}).id


@transaction.non_atomic_requests
async def order_async(request: HttpRequest, customer: str) -> HttpResponse:
    """Do the same in an async view."""
    return HttpResponse(await sync_to_async(_place)(customer))
