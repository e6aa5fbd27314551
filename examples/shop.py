"""The Python nodes of the order workflow. They stand in for a shop's own code and for services it calls.

A node function is an ordinary function: its arguments come from the node's config, what it returns is the
node's output. It may run twice for one order if a worker dies at the wrong moment, so calls with effects
outside pass on the idempotency key, which stays the same.
"""

from __future__ import annotations

import hashlib
import random
import time
import zlib
from decimal import Decimal
from typing import Any

from workflow_engine import ExecutionContext, failure, node


@node("shop.validate")
def validate(items: list[dict[str, Any]], total: float) -> Any:
    """Check that the items cost the total. Return the number of pieces and the items not in stock."""
    due = sum((Decimal(str(item["price"])) * item["quantity"] for item in items), Decimal(0))
    if due != Decimal(str(total)):
        return failure("WRONG_TOTAL", f"the items cost {due}, but the order says {total}")
    return {
        "pieces": sum(item["quantity"] for item in items),
        "missing": [item["sku"] for item in items if item["stock"] < item["quantity"]],
    }


class ProviderBusy(ConnectionError):
    """The payment provider is busy; a later attempt succeeds."""


@node("shop.charge")
def charge(
    order_id: str, amount: float, currency: str, method: str, context: ExecutionContext
) -> dict[str, Any]:
    """Take the payment. A provider would recognise a second request by the key, and not charge twice."""
    _call_service(milliseconds=(20, 80))
    # One order in eight has to ask again, always the same ones on any worker.
    if context.attempt == 1 and zlib.crc32(order_id.encode()) % 8 == 0:
        raise ProviderBusy("the provider is busy")
    receipt = hashlib.sha256(context.idempotency_key.encode()).hexdigest()[:12]
    return {"receipt": f"pay_{receipt}", "amount": amount, "currency": currency, "method": method}


@node("shop.declare_for_customs")
def declare_for_customs(country: str, items: list[dict[str, Any]], warehouse: str) -> dict[str, Any]:
    """Register a parcel that leaves the union."""
    _call_service(milliseconds=(10, 30))
    return {
        "carrier": "FedEx",
        "days": 8,
        "from": warehouse,
        "declaration": {"to": country, "lines": len(items)},
    }


@node("shop.notify")
def notify(to: str, subject: str, text: str) -> dict[str, str]:
    """Pass a message to the mail service."""
    _call_service(milliseconds=(5, 15))
    return {"to": to, "subject": subject, "text": text}


def _call_service(milliseconds: tuple[int, int]) -> None:
    """Stand in for a request to another service: the worker waits."""
    time.sleep(random.uniform(*milliseconds) / 1000)  # noqa: S311 - nothing depends on it
