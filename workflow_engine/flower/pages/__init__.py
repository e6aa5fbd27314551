"""The pages, each with the pattern of its address and the name by which links find it.

- `executions`: the list, and the children of one execution
- `execution`: one execution: graph, timeline, context at any step, values, errors
- `actions`: what an operator may do to it, and what that would do
- `workflows`: deployed workflows, their versions, a start by a form
- `switches`: turns workflows and triggers off and on
- `statistics`: counts, failures and durations by node
- `queues`: queues, their workers and what waits in them
- `metrics`: the state of the installation for Prometheus
"""

from __future__ import annotations

from typing import Any

from workflow_engine.flower.assets import Asset
from workflow_engine.flower.pages.actions import ActionPage
from workflow_engine.flower.pages.execution import ExecutionPage, ValuePage
from workflow_engine.flower.pages.executions import ChildrenPage, ExecutionsPage
from workflow_engine.flower.pages.metrics import MetricsPage
from workflow_engine.flower.pages.queues import QueuesPage
from workflow_engine.flower.pages.statistics import StatisticsPage
from workflow_engine.flower.pages.switches import SwitchPage
from workflow_engine.flower.pages.workflows import WorkflowPage, WorkflowsPage

PAGES: list[tuple[str, Any, str]] = [
    (r"/executions", ExecutionsPage, "executions"),
    (r"/executions/([0-9a-fA-F-]+)", ExecutionPage, "execution"),
    (r"/executions/([0-9a-fA-F-]+)/children", ChildrenPage, "execution_children"),
    (r"/executions/([0-9a-fA-F-]+)/journal/([0-9]{1,9})", ValuePage, "execution_values"),
    (r"/executions/([0-9a-fA-F-]+)/actions/([a-z-]+)", ActionPage, "execution_action"),
    (r"/workflows", WorkflowsPage, "workflows"),
    (r"/workflows/([A-Za-z0-9_-]+)", WorkflowPage, "workflow"),
    (r"/workflows/([A-Za-z0-9_-]+)/switch", SwitchPage, "workflow_switch"),
    (r"/statistics", StatisticsPage, "statistics"),
    (r"/queues", QueuesPage, "queues"),
    (r"/workflow/metrics", MetricsPage, "workflow_metrics"),
    (r"/workflow-engine/static/([a-z.-]+)", Asset, "engine_asset"),
]
