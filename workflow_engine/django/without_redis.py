"""The services that keep something in Redis, for one thread that does without: nothing is cached or locked.

Every node rebuilds its context from Postgres, as it would after a wiped Redis, so its results are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from workflow_engine.engine.context_cache import ExecutionContextCache
from workflow_engine.execution.records import Snapshot
from workflow_engine.postgres.executions.state import ExecutionStateService
from workflow_engine.redis.cached_context import CachedContext
from workflow_engine.redis.lock import Claim, DistributedLockService, Holder, Unlocked
from workflow_engine.redis.results import Abandoned, LeaveResult, Missing
from workflow_engine.redis.running_nodes import Progress, RunningNode, RunningNodes

FREED = Unlocked(was_ours=True, was_contended=False)
LEFT = LeaveResult(was_updated=False, was_contended=False)


class NoLocks(DistributedLockService):
    """Locks that are always free, for there is no other thread."""

    def __init__(self) -> None:
        self._instance = "test"

    def acquire_or_mark_contended(self, execution_id: str) -> Claim:
        return self.new_claim(execution_id)

    def release_lock(self, claim: Claim) -> Unlocked:
        return FREED

    def release_abandoned(self, claim: Claim) -> Unlocked:
        return FREED

    def is_locked_by_me(self, claim: Claim) -> bool:
        return True

    def holds(self, claim: Claim) -> bool:
        return True

    def value_of(self, execution_id: str, place: str = "") -> None:
        return None

    def values_of(self, execution_id: str, places: Sequence[str]) -> list[bytes | None]:
        return [None] * len(places)


class NoContexts(ExecutionContextCache):
    """A cache in which nothing is ever found."""

    def __init__(self, state: ExecutionStateService) -> None:
        self._state = state

    def enter(self, claim: Claim, node_id: str, seq: int, needs: Sequence[str]) -> Missing:
        return Missing()

    def cache_context(
        self, claim: Claim, snapshot: Snapshot, walk: bytes, *, replaces_newer: bool = True
    ) -> bool:
        return False

    def update_context(self, *_: Any, **__: Any) -> LeaveResult:
        return LEFT

    def add_to_context(self, *_: Any, **__: Any) -> LeaveResult:
        return LEFT

    def add_jointly(self, *_: Any, **__: Any) -> LeaveResult:
        return LEFT

    def finish(self, claim: Claim, status: str) -> Unlocked:
        return FREED

    def discard(self, claim: Claim) -> Unlocked:
        return FREED

    def abandoned_run(self, execution_id: str, place: str = "") -> Abandoned | None:
        return None

    def in_hand_since(self, execution_id: str) -> Mapping[str, float]:
        return {}

    def note_in_hand(self, execution_id: str, node_ids: Sequence[str], seconds: float) -> None:
        pass

    def take_turned_away(self, execution_id: str) -> list[str]:
        return []

    def remove_from_cache(self, execution_id: str) -> None:
        pass

    def read_output(self, cached: CachedContext, node_id: str) -> Missing:
        return Missing()

    def read_whole(self, execution_id: str, seq: int | None = None) -> None:
        return None

    def announce_finished(self, execution_id: str, status: str) -> None:
        pass


class NoSignals(RunningNodes):
    """Nodes that no other process can reach."""

    def __init__(self) -> None:
        pass

    @contextmanager
    def running(self, claim: Claim, walked_to: str = "") -> Iterator[RunningNode]:
        yield RunningNode(claim)

    def interrupt(self, execution_id: str, holder: Holder) -> None:
        pass

    def progress(self, execution_id: str, holder: Holder) -> Progress | None:
        return None
