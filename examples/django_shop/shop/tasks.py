"""What is done for an order."""

import time

from celery import shared_task
from django.conf import settings
from django.core.mail import send_mail

from shop.models import Order

Status = Order.Status


@shared_task
def reserve(order_id):
    """Put the goods aside."""
    Order.objects.filter(pk=order_id).update(status=Status.RESERVED)


@shared_task
def charge(order_id):
    """Have the bank charge an order, and return the receipt. Charged again, it is the same receipt."""
    Order.objects.filter(pk=order_id).update(status=Status.CHARGING)
    time.sleep(settings.BANK_SECONDS)
    receipt = f"receipt-{order_id}"
    Order.objects.filter(pk=order_id).update(status=Status.CHARGED, receipt=receipt)
    return receipt


@shared_task
def confirm(receipts):
    """Mail the receipts: one, or a list of them."""
    for receipt in receipts if isinstance(receipts, list) else [receipts]:
        order = Order.objects.get(receipt=receipt)
        send_mail("Your order", receipt, "shop@shop.example", [f"{order.customer}@mail.example"])
        Order.objects.filter(pk=order.pk).update(status=Status.CONFIRMED)
