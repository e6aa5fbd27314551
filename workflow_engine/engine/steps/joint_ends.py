"""JointEnds: siblings that end at the same moment in one process end together, as if one after the other.

Each would otherwise commit behind all rows of the others, which Postgres compares with what it has read, and
then leave by a call of its own. So what threads offer while a commit of their execution is under way is put
in line. One thread commits all rows on top of one another, and leaves all nodes by one call, which sends what
follows. The other threads only wait.

That holds if no other process commits in between: then Postgres refuses all of the rows, and each thread
commits and leaves by itself, behind what the other process has committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from workflow_engine.engine.hop import Committed, Hop
from workflow_engine.engine.steps.commits import Commits, End
from workflow_engine.engine.steps.departure import Departure
from workflow_engine.execution.gathering import Gathering, PassOn
from workflow_engine.execution.states import ExecutionStatus, NodeStatus
from workflow_engine.runner.node_run import Outcome


@dataclass(eq=False)
class _Offer:
    """The end of the node of one thread, and what it has come to."""

    end: End
    done: Committed | None = None


class JointEnds:
    """Commits the nodes of an execution that may have siblings. One instance serves a process."""

    def __init__(self, commits: Commits, departure: Departure) -> None:
        self._commits = commits
        self._departure = departure
        self._gathering: Gathering[_Offer] = Gathering()

    def commit(self, hop: Hop, outcome: Outcome) -> Committed:
        """Commit the outcome, perhaps together with those of siblings; then its node is left as well.

        Raises as `Commits.commit` does.
        """
        if not _may_be_joint(hop, outcome) or self._commits.is_contended(hop.execution_id):
            return self._commits.commit(hop, outcome)
        offer = _Offer(End(hop, outcome))
        self._gathering.served(hop.execution_id, offer, self._end)
        return offer.done if offer.done is not None else self._commits.commit(hop, outcome)

    def waiting(self, execution_id: str) -> int:
        """Return how many nodes of an execution wait for the next commit."""
        return self._gathering.waiting(execution_id)

    def _end(self, offers: Sequence[_Offer], pass_on: PassOn) -> None:
        if len(offers) == 1:
            offers[0].done = self._commits.commit(*offers[0].end)
            return
        committed = self._commits.commit_jointly([offer.end for offer in offers])
        by_token = {done.hop.token: done for done in committed}
        ended = [offer for offer in offers if offer.end.hop.token in by_token]
        for offer in ended:
            offer.done = by_token[offer.end.hop.token]
        pass_on()
        if committed and committed[-1].result.status is ExecutionStatus.RUNNING:
            with suppress(Exception):  # then each leaves by itself, and meets the error again if it lasts
                self._departure.leave_jointly(committed)
                for offer in ended:
                    offer.done = replace(by_token[offer.end.hop.token], is_left=True)


def _may_be_joint(hop: Hop, outcome: Outcome) -> bool:
    """Return whether an outcome only appends a row, and makes nodes due.

    What waits, wakes, ends, cancels or frees something concerns other rows as well. A node that was marked as
    begun, or has crashed, has a mark to be removed. A span ends with its commit.
    """
    if outcome.status is not NodeStatus.COMPLETED or hop.woken is not None or outcome.is_divided:
        return False
    if hop.cached.crashes or hop.node.on_crash == "fail" or hop.span is not None or hop.lacks_slot:
        return False
    workflow = hop.workflow
    return not (workflow.is_limited or workflow.queue_timeouts or workflow.graph.any_merges)
