"""Durable workflows on the Celery fleet you already run.

What is listed here is the public surface; everything else may change between minor releases.
Names are loaded when they are first used: a program that only declares nodes, or prints a help text, does
not pay for Postgres, Redis and Celery.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflow_engine.builder import WorkflowBuilder
    from workflow_engine.client import WorkflowClient
    from workflow_engine.context import ExecutionContext
    from workflow_engine.definition import Edge, Node, Workflow
    from workflow_engine.deployments import Deployment
    from workflow_engine.errors import (
        BackingServiceUnavailable,
        DefinitionError,
        DefinitionInvalid,
        DefinitionUnreadable,
        ExecutionNotFound,
        IdempotencyConflict,
        IllegalMove,
        InvalidValue,
        NodeNotFound,
        Problem,
        SessionRefused,
        TriggerDataInvalid,
        VersionDiffers,
        WaitTimeout,
        WorkflowEngineError,
        WorkflowNotFound,
    )
    from workflow_engine.events import SentEvent
    from workflow_engine.execution_queries import Execution, NodeExecution
    from workflow_engine.execution_records import StartedExecution
    from workflow_engine.interruption import NodeInterrupted
    from workflow_engine.node_types import (
        NodeExecutionResult,
        NodeExecutor,
        NodeType,
        failure,
        node,
        registry,
        success,
        waiting,
    )
    from workflow_engine.operator_moves import ExecutionEvent
    from workflow_engine.operators import Move, Operation
    from workflow_engine.settings import Settings, get_settings
    from workflow_engine.states import ExecutionStatus, NodeStatus
    from workflow_engine.time_limits import NodeTimedOut

__all__ = [
    # producers
    "WorkflowClient",
    "Deployment",
    "StartedExecution",
    "Execution",
    "NodeExecution",
    "ExecutionEvent",
    "Move",
    "Operation",
    "SentEvent",
    "ExecutionStatus",
    "NodeStatus",
    # definitions
    "WorkflowBuilder",
    "Workflow",
    "Node",
    "Edge",
    # node types
    "node",
    "success",
    "failure",
    "waiting",
    "ExecutionContext",
    "NodeExecutionResult",
    "NodeExecutor",
    "NodeType",
    "registry",
    "NodeTimedOut",
    "NodeInterrupted",
    # settings
    "Settings",
    "get_settings",
    # errors
    "WorkflowEngineError",
    "DefinitionError",
    "DefinitionUnreadable",
    "DefinitionInvalid",
    "Problem",
    "InvalidValue",
    "TriggerDataInvalid",
    "WorkflowNotFound",
    "ExecutionNotFound",
    "IdempotencyConflict",
    "SessionRefused",
    "IllegalMove",
    "NodeNotFound",
    "VersionDiffers",
    "WaitTimeout",
    "BackingServiceUnavailable",
]

_HOMES = {
    "builder": "WorkflowBuilder",
    "client": "WorkflowClient",
    "context": "ExecutionContext",
    "definition": "Edge Node Workflow",
    "deployments": "Deployment",
    "errors": (
        "BackingServiceUnavailable DefinitionError DefinitionInvalid DefinitionUnreadable ExecutionNotFound "
        "IdempotencyConflict IllegalMove InvalidValue NodeNotFound Problem SessionRefused TriggerDataInvalid "
        "VersionDiffers WaitTimeout WorkflowEngineError WorkflowNotFound"
    ),
    "events": "SentEvent",
    "execution_queries": "Execution NodeExecution",
    "execution_records": "StartedExecution",
    "interruption": "NodeInterrupted",
    "node_types": "NodeExecutionResult NodeExecutor NodeType failure node registry success waiting",
    "operator_moves": "ExecutionEvent",
    "operators": "Move Operation",
    "settings": "Settings get_settings",
    "states": "ExecutionStatus NodeStatus",
    "time_limits": "NodeTimedOut",
}
"""Module → the public names that are defined in it."""

_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if (module := _MODULES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
