"""An operator at random, in a process of its own: what several of them do at once is for the test to judge.

The module imports nothing of the tests, because every spawned process imports it again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from workflow_engine import Settings, WorkflowClient
from workflow_engine.errors import IllegalMove

EVENT = "approved"
WEIGHTS = {"pause": 40, "resume": 40, "send_event": 15, "cancel": 3}
"""How often an operator does what; `resume` keeps up with `pause`, so that executions move in between."""


def operate(settings: Settings, executions: Sequence[str], seconds: float, seed: str) -> Counter[str]:
    """Move executions at random for some seconds; how often each operation was made, and how often refused.

    Only a refusal because of an execution's status counts as one; anything else is raised.
    """
    chance = random.Random(seed)
    client = WorkflowClient(settings)
    operations: dict[str, Callable[[str], object]] = {
        "pause": lambda each: client.pause(each, actor=seed),
        "resume": lambda each: client.resume(each, actor=seed),
        "cancel": lambda each: client.cancel(each, actor=seed),
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
