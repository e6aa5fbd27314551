"""What nodes really did, recorded outside the engine while they did it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from support.json_lines import append, lines_of
from workflow_engine import ExecutionContext

FILE = "effects"


class EffectKind(StrEnum):
    ENTERED = "entered"
    """A node begins to run."""
    DONE = "done"
    """Its side effect."""
    FAILED = "failed"
    """It raises, as its workflow expects."""


@dataclass(frozen=True)
class Effect:
    """A line of the file; `at` is in seconds since the epoch, `key` the idempotency key."""

    kind: EffectKind
    execution_id: str
    node_id: str
    key: str
    attempt: int
    process: int
    at: float


def write_down(folder: Path, kind: EffectKind, context: ExecutionContext) -> None:
    append(
        folder / FILE,
        {
            "kind": kind,
            "execution_id": context.execution_id,
            "node_id": context.current_node_id,
            "key": context.idempotency_key,
            "attempt": context.attempt,
            "process": os.getpid(),
            "at": time.time(),
        },
    )


def effects_in(folder: Path) -> list[Effect]:
    """Return all effects so far, in the order in which they were written."""
    return [Effect(**{**line, "kind": EffectKind(line["kind"])}) for line in lines_of(folder / FILE)]


def running_in(effects: Sequence[Effect], processes: Collection[int], at: float) -> list[Effect]:
    """Return the runs that were going on in these processes at a time."""
    last: dict[int, Effect] = {}
    for effect in effects:
        if effect.at <= at and effect.process in processes:
            last[effect.process] = effect
    return [effect for effect in last.values() if effect.kind is EffectKind.ENTERED]
