"""GroupCommit: siblings that end at the same moment in one process are committed by one statement.

The commits of one execution take turns at its row, and each turn lasts until Postgres has flushed its log. So
while the statement of one thread is on its way, those of other threads would only queue there. They are
collected instead, and the next statement commits all of them: one round trip, one turn, one flush.

Each commit keeps its own row, number, token and check of the journal, and each thread waits until its own is
stored. A process that runs one node at a time never finds another thread's statement on its way.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from workflow_engine.execution.records import NodeCommit
from workflow_engine.postgres.database import Row

MOST_CHARACTERS = 1_000_000
"""Characters of documents in a statement for several commits; more are left to the next one."""


def may_join_others(commit: NodeCommit) -> bool:
    """Return whether a commit may share a transaction with those of siblings.

    A commit with further rows, or one that passes on a crash, depends on what comes before it.
    """
    return (
        commit.only_appends
        and commit.shared_since is not None
        and not (commit.before or commit.passes_crash_to)
    )


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class _Offer:
    """The commit of one thread."""

    document: str
    turn: threading.Lock = field(default_factory=_held_lock)
    """Released once the result is there, or this thread has to send what is in `group`."""
    group: Sequence[_Offer] = ()
    result: Row | None = None


class GroupCommit:
    """The commits under way in this process. `send` makes those of these documents in one statement."""

    def __init__(self, send: Callable[[Sequence[str]], Sequence[Row]]) -> None:
        self._send = send
        self._forget_parent()
        _instances.add(self)

    def commit(self, execution_id: str, document: str) -> Row:
        """Make a commit, perhaps together with others of its execution, and return its row of the result.

        Raises what `send` raises for this commit alone.
        """
        offer = _Offer(document)
        if not self._is_first(execution_id, offer):
            offer.turn.acquire()
        if offer.group:
            self._send_group(execution_id, offer.group)
        # Without a result one of the group could not be made, or Postgres is away: each finds out for itself.
        return offer.result if offer.result is not None else self._send([document])[0]

    def _is_first(self, execution_id: str, offer: _Offer) -> bool:
        """Return whether no statement is on its way; else the offer is collected for the next one."""
        with self._guard:
            collected = self._collected.get(execution_id)
            if collected is not None:
                collected.append(offer)
                return False
            self._collected[execution_id] = []
            offer.group = (offer,)
            return True

    def _send_group(self, execution_id: str, group: Sequence[_Offer]) -> None:
        try:
            results = self._send([offer.document for offer in group])
            for offer, result in zip(group, results, strict=True):
                offer.result = result
        except Exception:
            if len(group) == 1:
                raise
        finally:
            self._pass_on(execution_id)
            for offer in group[1:]:
                offer.turn.release()

    def _pass_on(self, execution_id: str) -> None:
        """Let the first thread that waits send what was collected meanwhile."""
        with self._guard:
            collected = self._collected.pop(execution_id)
            if not collected:
                return
            number = _number_that_fit(collected)
            group, self._collected[execution_id] = collected[:number], collected[number:]
        group[0].group = group
        group[0].turn.release()

    def _forget_parent(self) -> None:
        self._guard = threading.Lock()
        self._collected: dict[str, list[_Offer]] = {}
        """For each execution with a statement on its way: what the next one commits."""


def _number_that_fit(offers: Sequence[_Offer]) -> int:
    characters = 0
    for number, offer in enumerate(offers):
        characters += len(offer.document)
        if characters > MOST_CHARACTERS:
            return max(1, number)
    return len(offers)


_instances: weakref.WeakSet[GroupCommit] = weakref.WeakSet()


def _forget_parents() -> None:
    for instance in _instances:
        instance._forget_parent()


# A forked process has none of its parent's threads, and would wait for their statements for ever.
os.register_at_fork(after_in_child=_forget_parents)
