"""What a commit adds to the counts of its worker, where these are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from workflow_engine.engine.hop import Committed
from workflow_engine.engine.hop_report import HopEnd
from workflow_engine.telemetry import counting
from workflow_engine.telemetry.counting import Counts


def count_commits(done: Committed, before: Sequence[Committed]) -> None:
    """Count a commit, and the pure nodes `before` it that came along, where counts are kept."""
    if counting.active is None:
        return
    for each in takewhile(lambda each: each.hop.token != done.hop.token, before):
        result = replace(each.result, accepted=done.result.accepted)
        _count(counting.active, replace(each, result=result))
    _count(counting.active, done)


def _count(counts: Counts, done: Committed) -> None:
    """Add a node whose outcome was offered to Postgres, and the end of its execution."""
    hop, result, outcome = done.hop, done.result, done.outcome
    workflow = hop.workflow.workflow.id
    end = outcome.status if result.accepted else HopEnd.REFUSED
    counts.hop(workflow, hop.node.id, end, outcome.duration_ms / 1000)
    if result.accepted and result.status.is_finished:
        counts.end(workflow, result.status)
