"""KnownCommits: what the nodes of an execution that run in one process tell each other of their commits.

Each of many siblings has missed the commits of all others since it was entered. Postgres would list them for
each, and each would apply the same rows to its own walk. So a commit begins with the journal as far as this
process knows it, and notes how far the journal has come then.

Nothing is decided here. Postgres refuses the fence of a journal that is no longer there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from workflow_engine.engine.hop import Hop
from workflow_engine.execution.records import CommitResult, JournalRow, NewRow, NodeCommit
from workflow_engine.execution.walk import JournalEntry, Walk
from workflow_engine.json_values import decode
from workflow_engine.redis.periodic_call import call_in_children

MOST_EXECUTIONS = 100
"""Executions of which something is kept, those that moved last."""

MOST_ROWS = 1_000
"""Rows that are kept of each. A node that has missed more asks Postgres."""

MOST_REFUSALS = 3
"""Refusals of rows that were committed jointly, after which an execution counts as contended."""


@dataclass
class _Known:
    """The latest commits of an execution: their rows without a gap, and the walk after the last."""

    walk: Walk
    rows: list[JournalRow]
    fences: dict[int, str] = field(default_factory=dict)
    """The fence after each seq, as far as it is known; that of the last row always is."""
    refusals: int = 0
    """How often joint commits on top of the last row were refused."""

    @property
    def seq(self) -> int:
        return self.rows[-1].entry.seq

    def after(self, seq: int) -> Sequence[JournalRow]:
        """Return the rows after this number, which have to begin right behind it."""
        return self.rows[seq + 1 - self.rows[0].entry.seq :]

    def continues_with(self, rows: Sequence[JournalRow]) -> bool:
        """Return whether these rows, which have no gap, follow or repeat the ones that are known."""
        first, last = rows[0].entry.seq, rows[-1].entry
        if first > self.seq + 1 or last.seq < self.rows[0].entry.seq:
            return False
        return last.seq > self.seq or self.after(last.seq - 1)[0].entry.node_id == last.node_id

    def shorten(self) -> None:
        """Drop the earlier half of the rows once there are many."""
        if len(self.rows) > MOST_ROWS:
            del self.rows[: MOST_ROWS // 2]
            first = self.rows[0].entry.seq
            self.fences = {seq: fence for seq, fence in self.fences.items() if seq >= first - 1}


class KnownCommits:
    """The commits that this process knows. One instance serves a process."""

    def __init__(self) -> None:
        self._forget_all()
        call_in_children(self._forget_all)

    def caught_up(self, hop: Hop) -> Hop:
        """Return the hop on top of the latest commit that is known, if that continues what it was read from.

        The hop stays as it is if its node has moved since: then Postgres decides.
        """
        seq = hop.cached.seq
        with self._guard:
            known = self._known.get(hop.execution_id)
            if known is None or known.seq <= seq or known.fences.get(seq) != hop.cached.fence:
                return hop
            rows, fence, walk = known.after(seq), known.fences[known.seq], known.walk
        if hop.cached.crashes or hop.uncommitted or not is_due_in(walk, hop):
            return hop
        return hop.caught_up(rows, fence, walk)

    def note(self, commit: NodeCommit, hop: Hop, walk: Walk, result: CommitResult) -> None:
        """Note an accepted commit and the walk after it; `hop` has caught up with the row before its own."""
        if result.status.is_finished or result.seq != hop.cached.seq + 1 or commit.shared_since is None:
            self.forget(hop.execution_id)
            return
        rows = (*hop.missed, row_of(commit, result.seq))
        with self._guard:
            known = self._known.get(hop.execution_id)
            if known is None or not known.continues_with(rows):
                refusals = known.refusals if known is not None else 0
                known = self._known[hop.execution_id] = _Known(walk, list(rows), refusals=refusals)
            elif known.seq < result.seq:
                known.rows += rows[known.seq - result.seq :]
                known.walk = walk
            known.fences[commit.shared_since] = commit.fence
            if commit.before:
                known.fences[commit.shared_since - len(commit.before)] = commit.before[0].fence
            known.fences[result.seq] = commit.token
            known.shorten()
            self._known.move_to_end(hop.execution_id)
            if len(self._known) > MOST_EXECUTIONS:
                self._known.popitem(last=False)

    def note_refusal(self, execution_id: str) -> None:
        """Note that another process has committed in between."""
        with self._guard:
            if (known := self._known.get(execution_id)) is not None:
                known.refusals += 1

    def is_contended(self, execution_id: str) -> bool:
        """Return whether another process commits so often that nothing is gained by what is known here."""
        known = self._known.get(execution_id)
        return known is not None and known.refusals >= MOST_REFUSALS

    def forget(self, execution_id: str) -> None:
        """Forget an execution that has ended, or of which something else was committed."""
        with self._guard:
            self._known.pop(execution_id, None)

    def _forget_all(self) -> None:
        self._guard = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()


def is_due_in(walk: Walk, hop: Hop) -> bool:
    """Return whether the node of a hop still stands in a later walk as it did when it was entered."""
    node_id = hop.node.id
    stands = [
        (node_id in each.due, node_id in each.waiting, each.visit(node_id)) for each in (hop.walk, walk)
    ]
    return stands[0] == stands[1] and any(stands[1][:2]) and walk.attempt(node_id) == hop.attempt


def row_of(commit: NewRow, seq: int) -> JournalRow:
    """Return the journal row of a commit as others miss it, without its output."""
    entry = JournalEntry(seq, commit.node_id, commit.visit, commit.attempt, commit.status, commit.handles)
    return JournalRow(entry, None, decode(commit.variables) if commit.variables else None)
