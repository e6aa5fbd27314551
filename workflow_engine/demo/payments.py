"""The payment provider of the demo: an outside system that sends an event for every payment.

It has orders and no executions, so the id of the order is the correlation id of its events. An order with
PayPal is paid before it comes in: that event is kept for its wait. All others come while a node waits.
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
    """Confirms the payment of every order, each once."""

    client: WorkflowClient
    answers: Counter[str] = field(default_factory=Counter)
    """The number of its events that were `delivered` to a wait, or `kept` for one."""
    _known: set[str] = field(default_factory=set)
    """The ids of the orders that were confirmed, or will be."""
    _pending: deque[tuple[float, str]] = field(default_factory=deque)
    """When a payment will be confirmed, and the id of its order; the earliest first."""

    def take_prepayment(self, order: dict[str, Any]) -> None:
        """Confirm an order that is about to be placed, if it is paid already."""
        if order.get("paymentMethod") == PAID_BEFOREHAND:
            self._known.add(order["orderId"])
            self._confirm(order["orderId"])

    def collect(self, order: dict[str, Any]) -> None:
        """Take the payment of an order whose execution waits for it; a second call does nothing."""
        if order["orderId"] not in self._known:
            self._known.add(order["orderId"])
            self._pending.append((time.monotonic() + TIME_TO_CONFIRM, order["orderId"]))

    def confirm(self) -> None:
        """Confirm the payments that are due."""
        while self._pending and self._pending[0][0] <= time.monotonic():
            self._confirm(self._pending.popleft()[1])

    def _confirm(self, order_id: str) -> None:
        sent = self.client.send_event(order_id, EVENT, {"transaction": f"tx-{order_id}"}, actor="provider")
        self.answers[sent.accepted] += 1
