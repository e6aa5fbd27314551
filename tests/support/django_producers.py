"""Django producers that are killed while they place an order and start its execution, as a program.

They are forked from one process, like those of a web server. Each connects, reports ready, and begins; its
parent kills it a random time later. The first argument is the number of kills; the last line of the output
has the numbers of kills and of attempts.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable

from django.db import connections, transaction

from support.django_shop import settings as project
from support.django_shop.models import Order
from workflow_engine.django import client, start
from workflow_engine.django.configuration import engine_settings
from workflow_engine.settings import read_project_settings

CALIBRATIONS = 10
"""Orders that are not killed, to see how long one takes."""


def place_an_order(number: int, say_ready: Callable[[], object]) -> None:
    """Store an order and start its execution, in one transaction."""
    client().workflow("order")
    say_ready()
    with transaction.atomic():
        Order.objects.create(customer=str(number))
        start("order", {"orderId": number})


def killed_or_not(number: int, after: float | None) -> tuple[float, bool]:
    """Fork a producer. Return how long it lived once ready, in seconds, and whether it was killed."""
    connections.close_all()
    reading, writing = os.pipe()
    if (producer := os.fork()) == 0:
        status = 1
        try:
            place_an_order(number, lambda: os.write(writing, b"r"))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    is_ready = os.read(reading, 1)
    os.close(reading)
    assert is_ready, "a producer could not connect"
    began = time.monotonic()
    if after is not None:
        time.sleep(after)
        os.kill(producer, signal.SIGKILL)
    _, status = os.waitpid(producer, 0)
    assert os.WIFSIGNALED(status) or status == 0, "a producer failed without being killed"
    return time.monotonic() - began, os.WIFSIGNALED(status)


def main(count: int) -> None:
    """Kill `count` producers."""
    connections["default"].settings_dict.update(project.database(os.environ["DJANGO_SHOP_DATABASE"]))
    read_project_settings(engine_settings)
    place_an_order(0, lambda: None)  # here, so that those forked find everything imported
    took = [killed_or_not(number, None)[0] for number in range(1, CALIBRATIONS + 1)]
    killed, attempts = 0, CALIBRATIONS + 1
    while killed < count:
        killed += killed_or_not(attempts, statistics.median(took) * random.random())[1]
        attempts += 1
    sys.stdout.write(json.dumps({"killed": killed, "attempts": attempts}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
