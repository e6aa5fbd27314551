"""Joins: a merge that some branches have reached, while others are open for different reasons."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_engine.control.explain import commands
from workflow_engine.control.explain.explanation import Code
from workflow_engine.control.explain.facts import Facts
from workflow_engine.control.explain.reason import Account, Reason


def join_of(facts: Facts, open_nodes: Sequence[Reason]) -> Reason | None:
    """Return that a merge waits for these nodes; None unless all lead to one, and their codes differ.

    With a single code that code says more. Nor is there a join to wait for while a node runs.
    """
    graph, walk = facts.graph, facts.walk
    codes = {reason.code for reason in open_nodes}
    if graph is None or walk is None or len(codes) < 2 or Code.RUNNING in codes:
        return None
    node_ids = {reason.node_id for reason in open_nodes}
    for node_id, join in walk.joins.items():
        if not join.taken or node_id in node_ids or not node_ids <= graph.upstream(node_id):
            continue
        incoming = graph.incoming[node_id]
        arrived = [incoming[position].source for position in join.taken]
        decided = {*join.taken, *join.untaken}
        missing = [edge.source for position, edge in enumerate(incoming) if position not in decided]
        why = "; ".join(f"{reason.node_id}: {reason.code}" for reason in open_nodes)
        account = Account(
            f"Node {node_id} has been reached from {', '.join(arrived)} and waits for {', '.join(missing)} "
            f"({why}).",
            {
                "arrived": arrived,
                "missing": missing,
                "open": [
                    {
                        "nodeId": reason.node_id,
                        "code": reason.code.value,
                        "sentence": reason.account.sentence,
                        "command": reason.account.command,
                    }
                    for reason in open_nodes
                ],
            },
            next(filter(None, (reason.account.command for reason in open_nodes)), commands.cli("show", "")),
            "helps the first of them",
        )
        return Reason.written(Code.JOIN, account, node_id, node_id)
    return None
