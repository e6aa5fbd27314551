"""The project's own tasks, with what Celery guarantees for them."""

import os
import time
from pathlib import Path

from celery import shared_task
from django.db.models import F

from shop.models import Order
from shop.workflows import client

FOLDER = Path(os.environ.get("SHOP_FOLDER", os.devnull))


@shared_task
def fulfil(order_id):
    """Start the workflow of an order."""
    return client.start("fulfilment", {"orderId": order_id}, idempotency_key=f"order-{order_id}").id


@shared_task
def thank(order_id):
    """Write a line for each call."""
    with (FOLDER / "thanked").open("a") as file:
        file.write(f"{order_id}\n")


@shared_task(bind=True, autoretry_for=(ConnectionError,), max_retries=3, default_retry_delay=0)
def flaky(self):
    """Succeed with the third try."""
    if self.request.retries < 2:
        raise ConnectionError("the bank does not answer")
    return self.request.retries


@shared_task(soft_time_limit=1, time_limit=10)
def slow():
    """Take longer than the soft limit."""
    time.sleep(20)


@shared_task(soft_time_limit=None, time_limit=1)
def stubborn():
    """Take longer than the hard limit."""
    time.sleep(20)


@shared_task(acks_late=True)
def careful(name):
    """Begin, and wait until a file is there; a killed worker must not lose this."""
    with (FOLDER / "careful").open("a") as file:
        file.write(f"{name}\n")
    deadline = time.monotonic() + 3
    while not (FOLDER / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return name


@shared_task
def count_orders():
    """Count the orders; beat runs this."""
    Order.objects.update(counted=F("counted") + 1)
