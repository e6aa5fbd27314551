"""The project's nodes, which the engine finds by the name of this module."""

from support.django_shop.models import Order
from workflow_engine import node


@node("django_shop.customer_of")
def customer_of(order_id: int) -> str:
    """Return the customer of an order."""
    return Order.objects.get(pk=order_id).customer
