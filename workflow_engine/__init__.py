"""Durable workflows on the Celery fleet you already run.

What is listed here is the public surface; everything else may change between minor releases.
"""

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
    InvalidValue,
    Problem,
    TriggerDataInvalid,
    WaitTimeout,
    WorkflowEngineError,
    WorkflowNotFound,
)
from workflow_engine.execution_queries import Execution, NodeExecution
from workflow_engine.execution_state import StartedExecution
from workflow_engine.node import (
    NodeExecutionResult,
    NodeExecutor,
    NodeType,
    failure,
    node,
    registry,
    success,
    waiting,
)
from workflow_engine.settings import Settings, get_settings
from workflow_engine.states import ExecutionStatus, NodeStatus

__all__ = [
    # producers
    "WorkflowClient",
    "Deployment",
    "StartedExecution",
    "Execution",
    "NodeExecution",
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
    "WaitTimeout",
    "BackingServiceUnavailable",
]
