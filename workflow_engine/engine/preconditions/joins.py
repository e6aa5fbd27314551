"""Joins that are incomplete: fewer branches have arrived at a merge than its `require` asks for.

Only then the journal is read, to say of each missing branch why it has not arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ERROR
from workflow_engine.execution.bounded_texts import shorten
from workflow_engine.execution.records import JournalRow, Snapshot
from workflow_engine.execution.states import NodeStatus
from workflow_engine.execution.walk import Walk, node_statuses
from workflow_engine.json_values import decode
from workflow_engine.nodes.results import NodeError

JOIN_INCOMPLETE = "JOIN_INCOMPLETE"

NAMED = 3
"""Missing branches that the message names; the details have all of them."""

LONGEST_REASON = 300
"""Bytes of an error's message in a reason."""


def incomplete_join(
    graph: Graph, walk: Walk, node_id: str, required: int, load: Callable[[], Snapshot | None]
) -> NodeError | None:
    """Return the error of a due merge at which fewer branches have arrived than required; None if enough.

    A branch that came by its `error` edge has not arrived: it brings no result. `load` reads the journal.
    """
    came = {edge.source for edge in walk.taken_edges(graph, node_id) if edge.handle != ERROR}
    if len(came) >= required:
        return None
    arrived = [source for source in graph.branches(node_id) if source in came]
    reasons = _Reasons(graph, load())
    missing = {source: reasons.why(source) for source in graph.branches(node_id) if source not in came}
    named = "; ".join(f"{source} {why}" for source, why in list(missing.items())[:NAMED])
    more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    message = f"{len(arrived)} of {required} required branches have arrived; missing: {named}{more}"
    return NodeError(JOIN_INCOMPLETE, message, {"required": required, "arrived": arrived, "missing": missing})


class _Reasons:
    """Why branches have not arrived, according to the journal."""

    def __init__(self, graph: Graph, snapshot: Snapshot | None) -> None:
        self._graph = graph
        self._statuses: Mapping[str, NodeStatus] = {}
        self._rows: dict[str, JournalRow] = {}
        if snapshot is not None:
            journal = [row.entry for row in snapshot.journal]
            self._statuses = node_statuses(graph, snapshot.trigger_node_id, journal, snapshot.visits)
            self._rows = {row.entry.node_id: row for row in snapshot.journal}

    def why(self, source: str) -> str:
        match self._statuses.get(source):
            case NodeStatus.FAILED:
                return self._failure(source)
            case NodeStatus.COMPLETED:
                handles = self._rows[source].entry.handles
                return f"left by {handles[0]!r}" if handles else "ended its branch"
            case NodeStatus.SKIPPED:
                failed = self._failure_before(source)
                return (
                    "was not reached"
                    if failed is None
                    else f"was not reached: {failed} {self._failure(failed)}"
                )
            case NodeStatus.CANCELLED:
                return "was ended by a merge that went on without it"
        return "has not arrived yet"

    def _failure(self, node_id: str) -> str:
        output: Any = decode(self._rows[node_id].output or b"null")
        error = output["error"] if isinstance(output, dict) and isinstance(output.get("error"), dict) else {}
        message = shorten(str(error.get("message")), LONGEST_REASON)
        return f"failed with {error.get('type')}: {message}"

    def _failure_before(self, skipped: str) -> str | None:
        """Return the nearest failed node from which a skipped one would have been reached."""
        seen, level = {skipped}, [skipped]
        while level:
            sources = [edge.source for node_id in level for edge in self._graph.incoming[node_id]]
            level = [source for source in dict.fromkeys(sources) if source not in seen]
            seen.update(level)
            for source in level:
                if self._statuses.get(source) is NodeStatus.FAILED:
                    return source
        return None
