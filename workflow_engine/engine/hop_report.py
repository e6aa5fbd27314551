"""The result of a message, for those who watch Celery's tasks: how the node ended, and with which error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from workflow_engine.execution.states import NodeStatus
from workflow_engine.nodes.results import NodeError
from workflow_engine.runner.node_run import Outcome


class HopEnd(StrEnum):
    """How a message ended. The first four are the statuses of its node in the journal."""

    COMPLETED = "COMPLETED"
    WAITING = "WAITING"
    RETRYING = "RETRYING"
    FAILED = "FAILED"
    REFUSED = "REFUSED"
    """The node ran, but its execution has moved on without it."""
    INTERRUPTED = "INTERRUPTED"
    DROPPED = "DROPPED"
    """Nothing ran: another message leads to the node that is due."""
    REQUEUED = "REQUEUED"
    """Nothing ran: a server is away, and the message will be delivered again."""


@dataclass(frozen=True)
class HopReport:
    """How a message ended, with all the nodes that it ran inline.

    It is FAILED if one of them failed, else it ended as the last of them did.
    """

    end: HopEnd
    detail: str = ""
    """Why it was dropped."""
    node_id: str = ""
    error: NodeError | None = None
    """The error of a failed node, or of an attempt that will be repeated."""
    retry_in: float | None = None
    """Seconds until the next attempt."""
    restarting: tuple[str, ...] = ()
    """Executions of which a child has ended, so that the next failed one can be restarted."""
    failures: tuple[str, ...] = ()
    """The failures before that of `node_id`, if several nodes failed, each as `failure` gives it."""

    @classmethod
    def of(cls, node_id: str, outcome: Outcome, *, is_accepted: bool) -> HopReport:
        """Return the report of one node; `is_accepted` says whether its outcome was committed."""
        if not is_accepted:
            return REFUSED
        if outcome.status is NodeStatus.COMPLETED:
            return COMPLETED
        retry_in = None if outcome.retry_in_ms is None else outcome.retry_in_ms / 1000
        return cls(HopEnd(outcome.status), "", node_id, outcome.error, retry_in)

    def followed_by(self, later: HopReport) -> HopReport:
        """Return the report of this message and a later node that its worker ran inline."""
        if self.end is not HopEnd.FAILED:
            return later
        if later.end is not HopEnd.FAILED:
            return self
        return replace(later, failures=(*self.failures, self.failure))

    @property
    def failure(self) -> str:
        """The failed node and its error on one line."""
        error = self.error or NodeError("", "")
        return f"node {self.node_id!r} failed: {error.type}: {error.message}".partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.end}: {self.detail}" if self.detail else self.end.value


COMPLETED = HopReport(HopEnd.COMPLETED)
REFUSED = HopReport(HopEnd.REFUSED, "the execution has moved on without this result")
INTERRUPTED = HopReport(HopEnd.INTERRUPTED)


def dropped(reason: Exception) -> HopReport:
    """Return the report of a message that was dropped."""
    return HopReport(HopEnd.DROPPED, str(reason))
