"""Groups: many executions by the code of what counts for them, with what they have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from workflow_engine.control.explain.conclusion import Conclusion
from workflow_engine.control.explain.explanation import Code, Group
from workflow_engine.control.explain.reason import capital

SHOWN = 5
"""Ids and subjects of a group."""

SENTENCES = {
    Code.RUNNING: "workers run their nodes",
    Code.QUEUED: "messages wait for a free worker",
    Code.NO_WORKER: "no worker consumes their queue",
    Code.QUEUE_PAUSED: "workers were told to stop consuming their queue",
    Code.WAITING_TIME: "nodes wait for a time",
    Code.WAITING_EVENTS: "nodes wait for events",
    Code.WAITING_CHILDREN: "nodes wait for child executions",
    Code.RETRYING: "nodes have failed, and their next attempts have a time",
    Code.PAUSED: "operators have paused them",
    Code.UNKNOWN_TYPE: "workers lack the code of their nodes",
    Code.GIVEN_BACK: "a server is away, and workers return their messages",
    Code.HELD_BY_DEAD: "their locks are of processes that are gone",
    Code.STALLED: "their messages were lost, and workers bring them back",
    Code.LIMITED: "a limit holds them back",
    Code.JOIN: "merges wait for several branches",
}


def groups_of(conclusions: Iterable[Conclusion]) -> list[Group]:
    """Return a group for each code, the largest first; conclusions come with the oldest execution first."""
    by_code: dict[Code, list[Conclusion]] = {}
    for each in conclusions:
        by_code.setdefault(each.reason.code, []).append(each)
    groups = [_group(code, members) for code, members in by_code.items()]
    return sorted(groups, key=lambda group: -group.count)


def _group(code: Code, members: Sequence[Conclusion]) -> Group:
    subjects = Counter(each.reason.subject for each in members if each.reason.subject)
    return Group(
        code,
        len(members),
        [each.execution_id for each in members[:SHOWN]],
        f"{capital(SENTENCES[code])}.",
        dict(subjects.most_common(SHOWN)),
        members[0].explanation(),
    )
