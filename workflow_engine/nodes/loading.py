"""The node types that come with the engine; importing this package registers them.

One module per family. They return a `NodeExecutionResult` and never touch a store, a lock or a queue.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from workflow_engine.errors import ModuleFailed
from workflow_engine.nodes.action import api_call, celery_task, function, python
from workflow_engine.nodes.contract import NodeType
from workflow_engine.nodes.logic import (
    condition,
    delay,
    fail,
    loop,
    merge,
    sub_workflow,
    switch,
    wait_events,
)
from workflow_engine.nodes.logic import set as set_variables
from workflow_engine.nodes.module_imports import import_failure, import_named
from workflow_engine.nodes.registry import NodeRegistry, registry
from workflow_engine.nodes.trigger import direct, scheduler

ENTRY_POINT_GROUP = "workflow_engine.nodes"
"""Packages list modules or `NodeType` objects here; loading one registers its node types."""

BUILT_IN = (
    *direct.NODE_TYPES,
    scheduler.NODE_TYPE,
    condition.NODE_TYPE,
    switch.NODE_TYPE,
    merge.NODE_TYPE,
    delay.NODE_TYPE,
    wait_events.NODE_TYPE,
    set_variables.NODE_TYPE,
    fail.NODE_TYPE,
    sub_workflow.NODE_TYPE,
    loop.NODE_TYPE,
    function.NODE_TYPE,
    python.NODE_TYPE,
    celery_task.NODE_TYPE,
    api_call.NODE_TYPE,
)

for node_type in BUILT_IN:
    registry.add(node_type)


def load_node_types(imports: Sequence[str] = ()) -> NodeRegistry:
    """Import the node types of installed packages and of the given modules; return all known ones.

    Raises `ModuleFailed` for the first module that cannot be imported.
    """
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        import_named(entry_point.module)
        try:
            loaded = entry_point.load()
        except AttributeError as error:
            raise ModuleFailed(entry_point.value, import_failure(error), error) from error
        if isinstance(loaded, NodeType):
            registry.add(loaded)
    for module in imports:
        import_named(module)
    return registry


__all__ = ["BUILT_IN", "load_node_types"]
