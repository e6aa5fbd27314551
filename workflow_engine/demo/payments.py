"""The payment provider of the demo: the world outside, which tells of every payment by an event.

It knows orders and not executions, so its events go by the id of the order. Who pays with PayPal has paid
before the order comes in: that event is kept for its wait. All others come while they are waited for.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from workflow_engine.client import WorkflowClient

EVENT = "paymentConfirmed"
PAID_BEFOREHAND = "paypal"
TIME_TO_CONFIRM = 0.5
"""Seconds from asking for a payment to its confirmation, unless it was paid beforehand."""


@dataclass
class PaymentProvider:
    """Confirms the payment of every order it hears of, each once."""

    client: WorkflowClient
    answers: Counter[str] = field(default_factory=Counter)
    """What became of its events: `delivered` to a wait, or `kept` for one."""
    _known: set[str] = field(default_factory=set)
    """The ids of the orders that were confirmed, or will be."""
    _pending: deque[tuple[float, str]] = field(default_factory=deque)
    """When a payment will be confirmed, and the id of its order; the first to come in front."""

    def take_prepayment(self, order: dict[str, Any]) -> None:
        """Confirm an order that is about to be placed, if it is paid already."""
        if order.get("paymentMethod") == PAID_BEFOREHAND:
            self._known.add(order["orderId"])
            self._confirm(order["orderId"])

    def collect(self, order: dict[str, Any]) -> None:
        """Take the payment of an order whose execution has come to wait; asked again, it does nothing."""
        if order["orderId"] not in self._known:
            self._known.add(order["orderId"])
            self._pending.append((time.monotonic() + TIME_TO_CONFIRM, order["orderId"]))

    def confirm(self) -> None:
        """Confirm the payments whose time has come."""
        while self._pending and self._pending[0][0] <= time.monotonic():
            self._confirm(self._pending.popleft()[1])

    def _confirm(self, order_id: str) -> None:
        sent = self.client.send_event(order_id, EVENT, {"transaction": f"tx-{order_id}"}, actor="provider")
        self.answers[sent.accepted] += 1
