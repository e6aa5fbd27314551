"""Which client starts a canvas for which its caller names none.

A web framework takes the place of the default here, before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflow_engine.client import WorkflowClient

_by_app: dict[Any, WorkflowClient] = {}
_of_project: Callable[[], WorkflowClient] | None = None


def use_client_of_project(client: Callable[[], WorkflowClient] | None) -> None:
    """Start every canvas with the client that a project has, whose transactions it joins; None: as before."""
    global _of_project  # noqa: PLW0603 - a process has one project
    _of_project = client


def client_of(app: Any) -> WorkflowClient:
    """Return the project's client; without a project, one for a Celery app, the same at each call."""
    if _of_project is not None:
        return _of_project()
    if app not in _by_app:
        from workflow_engine.client import WorkflowClient

        _by_app[app] = WorkflowClient(app=app)
    return _by_app[app]
