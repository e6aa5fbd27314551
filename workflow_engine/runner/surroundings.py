"""What is called around each node in this process: what a web framework does around a request.

A walk inline runs many nodes within one Celery task, so what Celery does around a task is not enough.
"""

from __future__ import annotations

from collections.abc import Callable

CALLED_AROUND_NODES: list[Callable[[], None]] = []
"""Called before and after each node, in its thread; must not raise."""
