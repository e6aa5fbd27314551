"""Definitions and a registry that several tests use."""

from __future__ import annotations

from typing import Any

from workflow_engine.nodes.loading import BUILT_IN
from workflow_engine.nodes.registry import NodeRegistry, RegisteredFunction


def charge(orderId: int, currency: str = "EUR") -> dict[str, Any]:  # noqa: N803 -- as definitions name it
    return {"receipt": f"r-{orderId}", "currency": currency}


def review(context: Any, notes: Any = None, summary: str = "") -> None:
    """Return the way out; the function has two."""


def registry_with_functions() -> NodeRegistry:
    """Return the built-in node types, `shop.charge` and `shop.review` (handles `approved` and `rejected`)."""
    registry = NodeRegistry()
    for node_type in BUILT_IN:
        registry.add(node_type)
    registry.add_function(RegisteredFunction("shop.charge", charge))
    registry.add_function(RegisteredFunction("shop.review", review, ("approved", "rejected")))
    return registry


REGISTRY = registry_with_functions()


def sound_definition() -> dict[str, Any]:
    """Return a trigger and an action after it."""
    return {
        "id": "sound",
        "nodes": [
            {"id": "start", "type": "trigger", "subType": "manual"},
            {"id": "work", "type": "action", "subType": "function", "config": {"expression": 1}},
        ],
        "edges": [{"source": "start", "target": "work"}],
    }


ORDER_FULFILMENT = """\
id: order-fulfilment
name: Order fulfilment
settings: {concurrency: 1, hops: spread}
variables: {currency: EUR}
nodes:
  - id: orderPlaced
    type: trigger
    subType: manual
    config: {schema: {type: object, required: [orderId, items]}}
  - id: inStock
    type: logic
    subType: condition
    label: Everything in stock?
    config: {expression: "{{ orderPlaced['items'] | map(attribute='stock') | min > 0 }}"}
  - id: charge
    type: action
    subType: python
    config:
      function: shop.charge
      arguments: {orderId: "{{ _trigger.orderId }}", currency: "{{ currency }}"}
  - id: backorder
    type: action
    subType: function
    config: {expression: "{{ {'later': orderPlaced.orderId} }}"}
  - {id: done, type: logic, subType: merge, config: {strategy: first}}
edges:
  - {source: orderPlaced, target: inStock}
  - {source: inStock, target: charge, sourceHandle: true}
  - {source: charge, target: done}
  - {source: inStock, target: backorder, sourceHandle: "false"}
  - {source: backorder, target: done}
"""
