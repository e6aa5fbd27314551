"""A random operator in a process of its own; the test judges what several of them do at once.

The module imports nothing of the tests, because every spawned process imports it again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from workflow_engine import Settings, WorkflowClient
from workflow_engine.errors import ChildNotAwaited, ExecutionMoved, IllegalMove

EVENT = "approved"
WEIGHTS = {"pause": 40, "resume": 40, "send_event": 15, "cancel": 3}
"""The weight of each operation; `resume` keeps up with `pause`, so that executions move in between."""


def operate(settings: Settings, executions: Sequence[str], seconds: float, seed: str) -> Counter[str]:
    """Move executions at random for some seconds. Return how often each operation was made and refused.

    Only a refusal because of an execution's status counts; any other error is raised.
    """
    chance = random.Random(seed)
    client = WorkflowClient(settings)
    operations: dict[str, Callable[[str], object]] = {
        "pause": lambda each: client.control.pause(each, actor=seed),
        "resume": lambda each: client.control.resume(each, actor=seed),
        "cancel": lambda each: client.control.cancel(each, actor=seed),
        "send_event": lambda each: client.send_event(execution_id=each, name=EVENT, payload=seed, actor=seed),
    }
    made: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        (operation,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        try:
            operations[operation](chance.choice(executions))
            made[operation] += 1
        except IllegalMove:
            made[f"{operation} refused"] += 1
    return made


TREE_WEIGHTS = {"pause": 20, "resume": 30, "send_event": 10, "cancel": 4, "retry": 20}


def operate_on_trees(settings: Settings, roots: Sequence[str], seconds: float, seed: str) -> Counter[str]:
    """Move parents and their children at random for some seconds; an event goes to several of them."""
    chance = random.Random(seed)
    client = WorkflowClient(settings)
    operations: dict[str, Callable[[str], object]] = {
        "pause": lambda each: client.control.pause(each, children=chance.random() < 0.3, actor=seed),
        "resume": lambda each: client.control.resume(each, children=chance.random() < 0.3, actor=seed),
        "cancel": lambda each: client.control.cancel(each, actor=seed),
        "retry": lambda each: client.control.retry(each, actor=seed),
        "send_event": lambda each: client.send_event(f"tree-{chance.randrange(5)}", EVENT, actor=seed),
    }
    made: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        (operation,) = chance.choices(list(TREE_WEIGHTS), list(TREE_WEIGHTS.values()))
        root = chance.choice(roots)
        children = [child.id for child in client.children(root)]
        try:
            operations[operation](chance.choice([root, *children]))
            made[operation] += 1
        except (IllegalMove, ChildNotAwaited, ExecutionMoved):
            made[f"{operation} refused"] += 1
    return made
