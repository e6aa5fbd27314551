"""The project's nodes; they use its tables and its tasks."""

from shop.models import Order
from shop.tasks import thank
from workflow_engine import node


@node("shop.charge")
def charge(order_id, context):
    """Write down a receipt, which stays the same if a crash makes this run twice."""
    receipt = f"r-{order_id}"
    if not Order.objects.filter(pk=order_id).update(receipt=receipt):
        raise LookupError(f"there is no order {order_id}")
    thank.delay(order_id)
    return {"receipt": receipt}
