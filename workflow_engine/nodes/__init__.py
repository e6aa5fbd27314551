"""The node types that come with the engine; importing this package registers them.

One module per family. They answer with a `NodeExecutionResult` and never touch a store, a lock or a queue.
"""

from __future__ import annotations

from workflow_engine.node_types import registry
from workflow_engine.nodes import condition, function, merge, python, switch, triggers

BUILT_IN = (
    *triggers.NODE_TYPES,
    condition.NODE_TYPE,
    switch.NODE_TYPE,
    merge.NODE_TYPE,
    function.NODE_TYPE,
    python.NODE_TYPE,
)

for node_type in BUILT_IN:
    registry.add(node_type)

__all__ = ["BUILT_IN"]
