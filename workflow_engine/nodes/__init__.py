"""The node types that come with the engine; importing this package registers them.

One module per family. They answer with a `NodeExecutionResult` and never touch a store, a lock or a queue.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence

from workflow_engine.node_types import NodeRegistry, NodeType, registry
from workflow_engine.nodes import (
    condition,
    delay,
    function,
    merge,
    python,
    scheduler,
    switch,
    triggers,
    wait_events,
)

ENTRY_POINT_GROUP = "workflow_engine.nodes"
"""Packages list modules or `NodeType` objects here; loading one registers its node types."""

BUILT_IN = (
    *triggers.NODE_TYPES,
    scheduler.NODE_TYPE,
    condition.NODE_TYPE,
    switch.NODE_TYPE,
    merge.NODE_TYPE,
    delay.NODE_TYPE,
    wait_events.NODE_TYPE,
    function.NODE_TYPE,
    python.NODE_TYPE,
)

for node_type in BUILT_IN:
    registry.add(node_type)


def load_node_types(imports: Sequence[str] = ()) -> NodeRegistry:
    """Import the node types of installed packages and of the given modules, each once; all that are known."""
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        loaded = entry_point.load()
        if isinstance(loaded, NodeType):
            registry.add(loaded)
    for module in imports:
        importlib.import_module(module)
    return registry


__all__ = ["BUILT_IN", "load_node_types"]
