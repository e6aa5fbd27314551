"""Running ahead: on an inline walk a pure node runs while the commit before it is awaited.

It only computes, so nothing has happened if that commit comes to something else than was expected: what the
node has made is dropped then. Before a node runs that is not pure, and before anything further is committed,
the result has been read.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from workflow_engine.engine.hop import After, Committed, Hop
from workflow_engine.engine.inline import Slice
from workflow_engine.engine.overlap import Overlap, may_be_awaited
from workflow_engine.engine.steps.attempts import Attempts
from workflow_engine.engine.steps.commits import Commits
from workflow_engine.runner.interruption import NodeInterrupted
from workflow_engine.runner.node_run import Outcome


class Ahead:
    """Runs pure nodes while commits are awaited. One instance serves a process."""

    def __init__(self, attempts: Attempts, commits: Commits, overlap: Overlap) -> None:
        self._attempts = attempts
        self._commits = commits
        self._overlap = overlap

    def commit(self, hop: Hop, outcome: Outcome, after: After, slice_: Slice) -> Committed | None:
        """Commit an outcome, and run the next node meanwhile; the slice keeps what that has come to.

        Return None, and send nothing, if the next node has to wait for the result. Raises as
        `Commits.commit`.
        """
        walk, step = after
        upcoming = slice_.upcoming(hop, walk)
        if upcoming is None or not upcoming.is_pure or not upcoming.is_plain:
            return None
        if not _may_be_run_ahead_of(hop, outcome) or not self._overlap.is_brief(hop, upcoming.node.id):
            return None
        commit = self._commits.prepared(hop, outcome, walk, step, slice_.uncommitted)
        if commit is None or (sent := self._commits.send([commit])) is None:
            return None
        self._overlap.start_looking()
        slice_.take_uncommitted()
        expected = commit.expected
        try:
            following = hop.following(upcoming.node, outcome, walk, expected.result)
            made = self._made_by(following)
        finally:
            ((_, result),) = self._commits.received(sent)
        done = result()
        if made is not None and done.is_as(expected):
            slice_.keep_ahead(following, made)
        return done

    def _made_by(self, hop: Hop) -> Outcome | None:
        """Return what a node comes to; None if it raises, since it runs again in its turn."""
        with suppress(Exception, NodeInterrupted), hop.log_context():
            return self._attempts.run(hop)
        return None


def _may_be_run_ahead_of(hop: Hop, outcome: Outcome) -> bool:
    """Return whether a node may run before the commit of the one before it is made.

    At a breakpoint it would have to run once more. Other threads of a process, or greenlets, have their own
    connections and need not share the one for commits that are awaited.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    return may_be_awaited(hop, outcome) and not hop.lacks_slot and not hop.cached.may_have_breakpoints
