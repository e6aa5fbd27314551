"""What a commit adds to the counts of its worker, where these are kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from workflow_engine.engine.hop import Committed
from workflow_engine.engine.hop_report import HopEnd
from workflow_engine.telemetry import counting


def count_commits(done: Committed, before: Sequence[Committed]) -> None:
    """Count a commit, and the pure nodes `before` it that came along, where counts are kept.

    Each is counted with how its node ended, and the execution with its end.
    """
    counts, result = counting.active, done.result
    if counts is None:
        return
    for each in (*takewhile(lambda each: each.hop.token != done.hop.token, before), done):
        end = each.outcome.status if result.accepted else HopEnd.REFUSED
        counts.hop(each.hop.workflow.workflow.id, each.hop.node.id, end, each.outcome.duration_ms / 1000)
    if result.accepted and result.status.is_finished:
        counts.end(done.hop.workflow.workflow.id, result.status)
