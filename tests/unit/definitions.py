"""Definitions and a registry that several tests use."""

from __future__ import annotations

from typing import Any

from workflow_engine.node import NodeRegistry, RegisteredFunction
from workflow_engine.nodes import BUILT_IN


def charge(orderId: int, currency: str = "EUR") -> dict[str, Any]:  # noqa: N803 -- as definitions name it
    return {"receipt": f"r-{orderId}", "currency": currency}


def review(context: Any, notes: Any = None, summary: str = "") -> None:
    """A function with two ways out."""


def registry_with_functions() -> NodeRegistry:
    """The built-in node types, `shop.charge` and `shop.review` (handles `approved` and `rejected`)."""
    registry = NodeRegistry()
    for node_type in BUILT_IN:
        registry.add(node_type)
    registry.add_function(RegisteredFunction("shop.charge", charge))
    registry.add_function(RegisteredFunction("shop.review", review, ("approved", "rejected")))
    return registry


REGISTRY = registry_with_functions()


def sound_definition() -> dict[str, Any]:
    """A trigger and an action after it."""
    return {
        "id": "sound",
        "nodes": [
            {"id": "start", "type": "trigger", "subType": "manual"},
            {"id": "work", "type": "action", "subType": "function", "config": {"expression": 1}},
        ],
        "edges": [{"source": "start", "target": "work"}],
    }
