"""Django producers killed at any moment leave an order with its execution, or neither."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from support.django_shop.models import Order
from support.repository import ROOT, TESTS
from workflow_engine import Settings
from workflow_engine.django.models import Execution

pytestmark = pytest.mark.usefixtures("deployed")


@pytest.mark.parametrize("kills", [20, pytest.param(500, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_order_and_execution_are_both_there_or_neither(settings: Settings, kills: int) -> None:
    environment = {
        **os.environ,
        "DJANGO_SHOP_DATABASE": settings.database_url.replace("+psycopg2", ""),
        "DJANGO_SHOP_BROKER": settings.redis_url,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT)]),
    }
    run = subprocess.run(
        [sys.executable, "-m", "support.django_producers", str(kills)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])

    placed = {int(customer) for customer in Order.objects.values_list("customer", flat=True)}
    started = {data["orderId"] for data in Execution.objects.values_list("trigger_data", flat=True)}
    assert placed == started
    assert told["killed"] == kills
    assert told["attempts"] - len(placed) > 0, "some were killed before the commit"
