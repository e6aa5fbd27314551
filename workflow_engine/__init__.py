"""Durable workflows on the Celery fleet you already run.

What is listed in `__all__` is the public surface; everything else may change between minor releases. Names
are loaded when they are first used: a program that only declares nodes, or prints a help text, does not pay
for Postgres, Redis and Celery.

The map, each package with its own list of files:

- `client`: what producers use
- `definition/`, `expressions/`, `nodes/`, `validation/`: what a workflow is
- `execution/`, `runner/`: what an execution is, and one node in this process
- `postgres/`, `redis/`, `broker/`: what each server keeps, and the only code that speaks to it
- `engine/`: one hop, from message to message; begin with `engine/executor.py`
- `control/`, `maintenance/`: what operators do, and what moves executions when no hop does
- `health/`: liveness, readiness, the doctor
- `presentation/`: executions as people see them, for terminals and pages
- `worker/`, `cli/`, `flower/`, `django/`, `dev/`, `demo/`, `embedded/`: ways in; `flower/` holds the pages
- `settings`, `errors`, `outages`, `json_values`, `paths`, `addresses/`, `telemetry/`: what all of them share
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflow_engine.canvas.durable import durable
    from workflow_engine.client import WorkflowClient
    from workflow_engine.control.moving import Move
    from workflow_engine.definition.builder import WorkflowBuilder
    from workflow_engine.definition.workflow import Edge, Node, Workflow
    from workflow_engine.engine.starts.given import Start
    from workflow_engine.errors import (
        BackingServiceUnavailable,
        ChildNotAwaited,
        DefinitionError,
        DefinitionInvalid,
        DefinitionUnreadable,
        ExecutionNotFound,
        IdempotencyConflict,
        IllegalMove,
        IllegalNodeMove,
        InvalidValue,
        ModuleFailed,
        NodeNotFound,
        Problem,
        SessionRefused,
        SettingsInvalid,
        StartRefused,
        StartsRefused,
        TriggerDataInvalid,
        TriggerNotFound,
        TriggerPaused,
        VersionDiffers,
        WaitTimeout,
        WorkflowEngineError,
        WorkflowInactive,
        WorkflowNotFound,
    )
    from workflow_engine.execution.context import ExecutionContext
    from workflow_engine.execution.records import StartedExecution
    from workflow_engine.execution.states import ExecutionStatus, NodeStatus, Operation
    from workflow_engine.nodes.contract import NodeExecutor, NodeTimedOut, NodeType
    from workflow_engine.nodes.registry import FreeConfig, node, registry
    from workflow_engine.nodes.results import NodeExecutionResult, failure, success, waiting
    from workflow_engine.postgres.events import SentEvent
    from workflow_engine.postgres.executions.filters import ExecutionFilter
    from workflow_engine.postgres.executions.moves import ExecutionEvent
    from workflow_engine.postgres.executions.queries import Execution, NodeExecution
    from workflow_engine.postgres.workflows.deployments import Deployment
    from workflow_engine.runner.interruption import NodeInterrupted
    from workflow_engine.settings import Settings, get_settings

__all__ = [
    # producers
    "WorkflowClient",
    "durable",
    "Deployment",
    "Start",
    "StartedExecution",
    "Execution",
    "NodeExecution",
    "ExecutionEvent",
    "ExecutionFilter",
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
    "FreeConfig",
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
    "ChildNotAwaited",
    "NodeNotFound",
    "VersionDiffers",
    "IllegalNodeMove",
    "StartRefused",
    "StartsRefused",
    "TriggerPaused",
    "WorkflowInactive",
    "TriggerNotFound",
    "WaitTimeout",
    "SettingsInvalid",
    "ModuleFailed",
    "BackingServiceUnavailable",
]

DISTRIBUTION = "celery-workflow-engine"
"""What the package is called in an index of packages, where "workflow-engine" is another project."""

_HOMES = {
    "definition.builder": "WorkflowBuilder",
    "client": "WorkflowClient",
    "canvas.durable": "durable",
    "engine.starts.given": "Start",
    "execution.context": "ExecutionContext",
    "definition.workflow": "Edge Node Workflow",
    "postgres.workflows.deployments": "Deployment",
    "errors": (
        "BackingServiceUnavailable DefinitionError DefinitionInvalid DefinitionUnreadable ExecutionNotFound "
        "ChildNotAwaited IdempotencyConflict IllegalMove InvalidValue ModuleFailed NodeNotFound Problem "
        "SessionRefused SettingsInvalid TriggerDataInvalid VersionDiffers WaitTimeout WorkflowEngineError "
        "WorkflowNotFound IllegalNodeMove StartRefused StartsRefused TriggerPaused WorkflowInactive "
        "TriggerNotFound"
    ),
    "postgres.events": "SentEvent",
    "postgres.executions.queries": "Execution NodeExecution",
    "execution.records": "StartedExecution",
    "runner.interruption": "NodeInterrupted",
    "nodes.contract": "NodeExecutor NodeTimedOut NodeType",
    "nodes.registry": "FreeConfig node registry",
    "nodes.results": "NodeExecutionResult failure success waiting",
    "postgres.executions.filters": "ExecutionFilter",
    "postgres.executions.moves": "ExecutionEvent",
    "control.moving": "Move",
    "settings": "Settings get_settings",
    "execution.states": "ExecutionStatus NodeStatus Operation",
}
"""Module → the public names that are defined in it."""

_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if (module := _MODULES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
