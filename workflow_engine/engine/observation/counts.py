"""What a commit adds to the counts of its worker, where these are kept."""

from __future__ import annotations

from workflow_engine.engine.hop import Committed
from workflow_engine.engine.hop_report import HopEnd
from workflow_engine.telemetry.counting import Counts


def count_commit(counts: Counts, done: Committed) -> None:
    """Count a node whose outcome was offered to Postgres, and the end of its execution."""
    hop, result, outcome = done.hop, done.result, done.outcome
    workflow = hop.workflow.workflow.id
    end = outcome.status if result.accepted else HopEnd.REFUSED
    counts.hop(workflow, hop.node.id, end, outcome.duration_ms / 1000)
    if result.accepted and result.status.is_finished:
        counts.end(workflow, result.status)
