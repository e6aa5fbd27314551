"""GroupCommit: siblings that end at the same moment in one process are committed by one statement.

The commits of one execution take turns at its row, and each turn lasts until Postgres has flushed its log. So
the next statement commits all that threads have offered meanwhile: one round trip, one turn, one flush.

Each commit keeps its own row, number, token and check of the journal, and each thread waits until its own is
stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workflow_engine.execution.gathering import Gathering, PassOn
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


@dataclass(eq=False)
class _Offer:
    """The commit of one thread."""

    document: str
    result: Row | None = None


class GroupCommit:
    """The commits under way in this process. `send` makes those of these documents in one statement."""

    def __init__(self, send: Callable[[Sequence[str]], Sequence[Row]]) -> None:
        self._send = send
        self._gathering: Gathering[_Offer] = Gathering(_number_that_fit)

    def commit(self, execution_id: str, document: str) -> Row:
        """Make a commit, perhaps together with others of its execution, and return its row of the result.

        Raises what `send` raises for this commit alone.
        """
        offer = _Offer(document)
        self._gathering.served(execution_id, offer, self._send_group)
        # Without a result one of the group could not be made, or Postgres is away: each finds out for itself.
        return offer.result if offer.result is not None else self._send([document])[0]

    def waiting(self, execution_id: str) -> int:
        """Return how many commits of an execution wait for the next statement."""
        return self._gathering.waiting(execution_id)

    def _send_group(self, group: Sequence[_Offer], _: PassOn) -> None:
        try:
            results = self._send([offer.document for offer in group])
            for offer, result in zip(group, results, strict=True):
                offer.result = result
        except Exception:
            if len(group) == 1:
                raise


def _number_that_fit(offers: Sequence[_Offer]) -> int:
    characters = 0
    for number, offer in enumerate(offers):
        characters += len(offer.document)
        if characters > MOST_CHARACTERS:
            return number
    return len(offers)
