"""Django producers that are killed while they place an order and start its execution, as a program.

The first argument is the number of kills; the last line of the output has the numbers of kills and of
attempts.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from django.db import connections, transaction

from support.django_shop import settings as project
from support.django_shop.models import Order
from support.killed_producers import kill_producers
from workflow_engine.django import client, start
from workflow_engine.django.configuration import engine_settings
from workflow_engine.settings import read_project_settings


def place_an_order(number: int, say_ready: Callable[[], object]) -> None:
    """Store an order and start its execution, in one transaction."""
    client().workflow("order")
    say_ready()
    with transaction.atomic():
        Order.objects.create(customer=str(number))
        start("order", {"orderId": number})
    connections.close_all()  # or producers would inherit that of their parent


def main(count: int) -> None:
    """Kill `count` producers."""
    connections["default"].settings_dict.update(project.database(os.environ["DJANGO_SHOP_DATABASE"]))
    read_project_settings(engine_settings)
    sys.stdout.write(json.dumps(kill_producers(count, place_an_order)) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
