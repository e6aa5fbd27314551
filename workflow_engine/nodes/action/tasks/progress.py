"""A task's `update_state` as the progress of its node, which `workflow-engine show` displays.

Celery passes the state to the result backend, and offers no place in between for one run of a task. So its
method is replaced once per process. A task that runs as an ordinary Celery task gets Celery's behaviour.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from celery.app.task import Task

from workflow_engine.execution.context import ExecutionContext

CONTEXT = "workflow_engine"
"""The attribute of `self.request` that holds the execution context."""

TEXTS = ("message", "status", "description")
"""Keys of a state's `meta` that say what the task does."""


def report_states_as_progress() -> None:
    """Make `update_state` of a task that runs as a node report its progress."""
    original = Task.update_state
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def update_state(
        self: Task, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        context = self.request.get(CONTEXT)
        if isinstance(context, ExecutionContext) and task_id in (None, self.request.id):
            context.report_progress(_fraction(meta), _message(state, meta))
        else:
            original(self, task_id, state, meta, **kwargs)

    Task.update_state = update_state


def _fraction(meta: Any) -> float | None:
    """Return `current` as a part of `total`, or `percent`, if the task's state has such numbers."""
    if not isinstance(meta, Mapping):
        return None
    current, total = _number(meta.get("current")), _number(meta.get("total"))
    if not total:
        current, total = _number(meta.get("percent")), 100.0
    return min(1.0, max(0.0, current / total)) if current is not None and total > 0 else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _message(state: str | None, meta: Any) -> str:
    texts = [meta[key] for key in TEXTS if meta.get(key)] if isinstance(meta, Mapping) else [meta]
    named = [state] if state not in (None, "PROGRESS") else []
    return ": ".join(str(each) for each in (*named, *texts[:1]) if each is not None)
