"""The nodes of a shop that has a bad day, for pages that show it."""

from __future__ import annotations

from typing import Any

from workflow_engine import ExecutionContext, failure, node


class BankRefused(Exception):
    """The bank does not pay."""


def _ask_bank(card: str) -> str:
    if card.endswith("13"):
        raise BankRefused(f"card {card[-4:]} has expired")
    return f"receipt-{card[-4:]}"


@node("pages.reserve")
def reserve(items: int) -> dict[str, Any]:
    return {"shelf": "A7", "items": items}


@node("pages.charge")
def charge(card: str, amount: float) -> dict[str, Any]:
    return {"receipt": _ask_bank(card), "amount": amount}


@node("pages.label")
def label(item: Any, context: ExecutionContext) -> Any:
    if item == "broken":
        return failure("LabelTorn", "the label printer has no paper", {"printer": "P2"})
    return f"label for {item}"


@node("pages.render")
def render() -> str:
    return "never: no worker consumes its queue"
