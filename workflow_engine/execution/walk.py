"""How far an execution has come: which nodes are due, which wait, and which joins are partly decided.

A `Walk` is only the frontier, without the nodes behind it, so it stays small however long an execution
runs. Every move is a function of the walk, the graph and one journal row. Replaying the journal rebuilds a
lost walk, which is why it needs no safe store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

import orjson

from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ORDINARY, Edge
from workflow_engine.execution.states import NodeStatus


@dataclass(frozen=True, slots=True)
class Step:
    """What one move changed: ids of nodes, in the order of the decisions."""

    due: tuple[str, ...] = ()
    """Nodes that became due, at the front of `Walk.due` or behind the siblings in hand."""
    skipped: tuple[str, ...] = ()
    """Nodes that no taken edge leads to."""
    cancelled: tuple[str, ...] = ()
    """Nodes that were due or waiting and will not go on."""
    ended: tuple[str, ...] = ()
    """Nodes that a merge which went on early ended for good: the cancelled ones, and those not reached."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The parts of a journal row that move the walk."""

    seq: int
    node_id: str
    visit: int
    attempt: int
    """The attempt that this row records, from 1."""
    status: NodeStatus
    handles: tuple[str, ...] = ()
    """The ways out taken. Without any, COMPLETED ends the branch and FAILED the execution."""
    waits: bool = False
    """For RETRYING: whether the next attempt waits for its time; else it follows at once."""
    rule: int | None = None
    """For RETRYING: the position of the rule that allows the next attempt, if `retry` is a list of rules."""


@dataclass(slots=True)
class Join:
    """How far a node with several incoming edges is decided.

    Edges are positions in `graph.incoming[node_id]`, in the order in which they were decided.
    """

    taken: list[int] = field(default_factory=list)
    untaken: list[int] = field(default_factory=list)


Way = tuple[str, int, bool]
"""An edge being decided: its target, its position among the target's incoming edges, whether it is taken."""


@dataclass(slots=True)
class Walk:
    """The frontier of an execution. Any node that is due or waiting may move next.

    Methods that move a node raise `ValueError` if it is neither due nor waiting, and change nothing then.
    The cost of a move depends on the edges it decides and on the frontier, not on the nodes done before.
    """

    due: list[str] = field(default_factory=list)
    """Nodes to run, in order. As many as may run at the same time are in hand: the first ones."""
    waiting: list[str] = field(default_factory=list)
    """Nodes that wait for a time, events or a retry, in the order in which their waits began."""
    joins: dict[str, Join] = field(default_factory=dict)
    """Joins with a decided edge, by node id, until the node runs, is skipped or is ended for good."""
    closed: dict[str, int] = field(default_factory=dict)
    """Nodes that ignore later arrivals: merges that may go on early and have run, and nodes ended for good.

    The value counts the undecided incoming edges; at zero the node is dropped.
    """
    visits: dict[str, int] = field(default_factory=dict)
    """Visits above 1, of nodes not done yet."""
    attempts: dict[str, int] = field(default_factory=dict)
    """The next or present attempt of nodes in a retry."""
    failures: dict[str, list[int]] = field(default_factory=dict)
    """Failed attempts of nodes in a retry by several rules: one count for each rule, up to the last used."""

    @classmethod
    def start(cls, graph: Graph, trigger_node_id: str, visits: Mapping[str, int] | None = None) -> Walk:
        """Return the walk after this trigger is done; the other triggers count as not taken.

        `visits` names the nodes that a rerun has given a visit above 1. Raises `ValueError` if
        `trigger_node_id` is no trigger of the graph.
        """
        walk = cls()
        walk._begin(graph, trigger_node_id, visits or {})
        return walk

    @classmethod
    def replay(
        cls,
        graph: Graph,
        trigger_node_id: str,
        journal: Iterable[JournalEntry],
        visits: Mapping[str, int] | None = None,
    ) -> Walk:
        """Rebuild the walk from the journal: rows not superseded, by `seq`, the trigger's first.

        `visits` holds, for each node with a visit that a rerun has superseded, the number of the visit
        that takes its place: the highest superseded one plus 1. Nodes without one may be left out, and
        named nodes may be missing in the graph. Raises `ValueError` for a journal that does not fit.
        """
        walk = cls()
        for _ in walk._replay(graph, trigger_node_id, journal, visits or {}):
            pass
        return walk

    def apply(self, graph: Graph, entry: JournalEntry) -> Step:
        """Make the move that a journal row records."""
        match entry.status:
            case NodeStatus.COMPLETED:
                return self.advance(graph, entry.node_id, entry.handles)
            case NodeStatus.FAILED if entry.handles:
                return self.advance(graph, entry.node_id, entry.handles)
            case NodeStatus.FAILED:
                return self.end(entry.node_id)
            case NodeStatus.WAITING:
                return self.wait(entry.node_id)
            case NodeStatus.RETRYING if entry.waits:
                return self.wait(entry.node_id, entry.attempt + 1, entry.rule)
            case NodeStatus.RETRYING:
                return self.retry(graph, entry.node_id, entry.attempt + 1, entry.rule)
        raise ValueError(f"no journal row has the status {entry.status}")

    def advance(self, graph: Graph, node_id: str, handles: Collection[str]) -> Step:
        """Finish a node that leaves by these handles; without any, its branch ends here.

        Its edges are decided one by one in the order of the definition; a skip is followed to its end
        before the next edge. Nodes that become due go to the front of `due` in that order, behind the
        siblings in hand.
        """
        if isinstance(handles, str):
            # `"" in "true"` holds, so a bare string would silently take the wrong edges.
            raise TypeError(f"handles must be a collection of handles, not the string {handles!r}")
        in_hand = self._in_hand_with_siblings(graph)
        self._leave_line(node_id)
        overtaken = self._end_overtaken(graph, node_id) if graph.joins_any(node_id) else None
        self._drop(node_id)
        step = self._decide(graph, _ways_out(graph, node_id, handles), behind=in_hand)
        if overtaken is None:
            return step
        return Step(step.due, step.skipped, overtaken.cancelled, overtaken.ended)

    def wait(self, node_id: str, attempt: int | None = None, rule: int | None = None) -> Step:
        """Let a node wait while others go on; in a retry, `attempt` is the attempt that it waits for.

        `rule` is the position of the rule that allows it, if there are several.
        """
        self._leave_line(node_id)
        self.waiting.append(node_id)
        if attempt is not None:
            self._count_attempt(node_id, attempt, rule)
        return Step()

    def retry(self, graph: Graph, node_id: str, attempt: int, rule: int | None = None) -> Step:
        """Retry a node at once, before all that are not in hand; `attempt` is that of the next attempt."""
        siblings = [each for each in self._in_hand_with_siblings(graph) if each != node_id]
        self._leave_line(node_id)
        self.due.insert(len(siblings), node_id)
        self._count_attempt(node_id, attempt, rule)
        return Step()

    def _count_attempt(self, node_id: str, attempt: int, rule: int | None) -> None:
        self.attempts[node_id] = attempt
        if rule is not None:
            counts = self.failures.setdefault(node_id, [])
            counts.extend([0] * (rule + 1 - len(counts)))
            counts[rule] += 1

    def end(self, failed_node_id: str | None = None) -> Step:
        """End the execution, after an unhandled failure, a timeout or an operator's cancel.

        The node whose failure ended it is not among the cancelled ones.
        """
        if failed_node_id is not None:
            self._leave_line(failed_node_id)
        step = Step(cancelled=(*self.due, *self.waiting))
        parts = (self.due, self.waiting, self.joins, self.closed, self.visits, self.attempts, self.failures)
        for part in parts:
            part.clear()
        return step

    def arrivals(self, graph: Graph, node_id: str) -> tuple[str, ...]:
        """Return the sources that led to a due or waiting node, in the order of arrival.

        A merge that goes on early goes on with the first; those that arrive before it runs are listed too.
        """
        incoming = graph.incoming[node_id]
        if len(incoming) == 1:
            return (incoming[0].source,)
        sources = (edge.source for edge in self.taken_edges(graph, node_id))
        return tuple(dict.fromkeys(sources))  # a source may lead here from two of its handles

    def taken_edges(self, graph: Graph, node_id: str) -> tuple[Edge, ...]:
        """Return the edges that led to a due or waiting node, in the order of arrival."""
        incoming = graph.incoming[node_id]
        if len(incoming) == 1:
            return incoming
        return tuple(incoming[position] for position in self.joins.get(node_id, Join()).taken)

    def visit(self, node_id: str) -> int:
        """Return the number of the node's visit, part of its idempotency key; above 1 after a rerun."""
        return self.visits.get(node_id, 1)

    def attempt(self, node_id: str) -> int:
        """Return the number of the next or present attempt of this visit."""
        return self.attempts.get(node_id, 1)

    def in_hand(self, graph: Graph) -> list[str]:
        """Return the due nodes that have been sent to the workers, or are to be sent now."""
        return self.due[: graph.concurrency]

    @property
    def is_finished(self) -> bool:
        return not self.due and not self.waiting

    def copy(self) -> Walk:
        """Return a walk that can move without this one."""
        joins = {name: Join(each.taken.copy(), each.untaken.copy()) for name, each in self.joins.items()}
        failures = {name: counts.copy() for name, counts in self.failures.items()}
        return Walk(
            self.due.copy(),
            self.waiting.copy(),
            joins,
            self.closed.copy(),
            self.visits.copy(),
            self.attempts.copy(),
            failures,
        )

    def to_json(self) -> bytes:
        """Return compact JSON without empty parts. Its edge positions are those of one workflow version."""
        parts = {
            "due": self.due,
            "waiting": self.waiting,
            "joins": self.joins,
            "closed": self.closed,
            "visits": self.visits,
            "attempts": self.attempts,
            "failures": self.failures,
        }
        return orjson.dumps({name: part for name, part in parts.items() if part})

    @classmethod
    def from_json(cls, content: bytes) -> Walk:
        """Return the walk that `to_json` has written. Raises ValueError for any other content."""
        try:
            parts = orjson.loads(content)
            joins = {node_id: Join(**join) for node_id, join in parts.pop("joins", {}).items()}
            walk = cls(joins=joins, **parts)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"this is not a walk: {error}") from error
        if not (isinstance(walk.due, list) and isinstance(walk.waiting, list)):
            raise ValueError("this is not a walk: its due or waiting nodes are not a list")
        return walk

    def _begin(self, graph: Graph, trigger_node_id: str, visits: Mapping[str, int]) -> Step:
        triggers = graph.triggers
        if trigger_node_id not in triggers:
            raise ValueError(f"{trigger_node_id!r} is no trigger; the workflow has {', '.join(triggers)}")
        others = [node_id for node_id in triggers if node_id != trigger_node_id]
        still_to_come = graph.nodes.keys() - triggers
        self.visits = {node_id: n for node_id, n in visits.items() if n > 1 and node_id in still_to_come}
        skipped: list[str] = []
        for node_id in others:
            skipped += (node_id, *self._decide(graph, _ways_out(graph, node_id, ())).skipped)
        step = self._decide(graph, _ways_out(graph, trigger_node_id, (ORDINARY,)))
        return Step(step.due, (*skipped, *step.skipped))

    def _replay(
        self, graph: Graph, trigger_node_id: str, journal: Iterable[JournalEntry], visits: Mapping[str, int]
    ) -> Iterator[tuple[JournalEntry, Step]]:
        """Replay row by row; yield each row and what it changed."""
        rows = iter(journal)
        entry = next(rows, None)
        if entry is None or (entry.node_id, entry.status) != (trigger_node_id, NodeStatus.COMPLETED):
            raise ValueError(
                f"a journal begins with its completed trigger {trigger_node_id!r}, not with {entry}"
            )
        yield entry, self._begin(graph, trigger_node_id, visits)
        seq = entry.seq
        for entry in rows:
            if entry.seq <= seq:
                raise ValueError(f"journal row {entry.seq} comes after row {seq}: rows must be sorted by seq")
            seq = entry.seq
            yield entry, self._apply_row(graph, entry)

    def _apply_row(self, graph: Graph, entry: JournalEntry) -> Step:
        """Apply a row that was read back, which may be of another version or from before a rerun."""
        visit = self.visit(entry.node_id)
        try:
            step = self.apply(graph, entry)
        except ValueError as error:
            raise ValueError(f"journal row {entry.seq} ({entry.status}) does not fit: {error}") from error
        if entry.visit != visit:
            raise ValueError(
                f"journal row {entry.seq} does not fit: it is visit {entry.visit} of node {entry.node_id!r}, "
                f"which is at visit {visit}; pass the superseded visits"
            )
        return step

    def _leave_line(self, node_id: str) -> None:
        for line in (self.due, self.waiting):
            if node_id in line:
                line.remove(node_id)
                return
        raise ValueError(f"node {node_id!r} is neither due nor waiting")

    def _in_hand_with_siblings(self, graph: Graph) -> list[str]:
        """Return the nodes in hand, ahead of which nothing may be put.

        Otherwise a node that was sent would count as unsent, and another would be sent too many. One node
        at a time has no siblings: a branch then goes on before the next one begins.
        """
        return self.in_hand(graph) if graph.concurrency > 1 else []

    def _drop(self, node_id: str) -> None:
        self.joins.pop(node_id, None)
        self.visits.pop(node_id, None)
        self.attempts.pop(node_id, None)
        self.failures.pop(node_id, None)

    def _decide(self, graph: Graph, ways: list[Way], behind: Collection[str] = ()) -> Step:
        """Decide edges in order, following each skip to its end before the next edge.

        Nodes that become due go to the front of the line, but behind those of `behind` that are due still.
        """
        due: list[str] = []
        skipped: list[str] = []
        pending = ways[::-1]
        while pending:
            target, position, is_taken = pending.pop()
            verdict = self._arrive(graph, target, position, is_taken)
            if verdict is True:
                due.append(target)
            elif verdict is False:
                skipped.append(target)
                self._drop(target)
                pending.extend(reversed(_ways_out(graph, target, ())))
        if due:
            # Those of `behind` stand at the front of the line: nothing was put before them.
            ahead = sum(1 for _ in takewhile(frozenset(behind).__contains__, self.due))
            self.due[ahead:ahead] = due
        return Step(tuple(due), tuple(skipped))

    def _arrive(self, graph: Graph, target: str, position: int, is_taken: bool) -> bool | None:
        """Decide one edge. Return True if its target is due now, False if it is skipped now, else None."""
        if target in self.closed:
            self._ignore(target)
            return None
        edges = len(graph.incoming[target])
        if edges == 1:
            return is_taken
        join = self.joins.setdefault(target, Join())
        (join.taken if is_taken else join.untaken).append(position)
        enough = graph.enough_arrivals(target)
        if enough is not None and len(join.taken) >= enough:
            return True if is_taken and len(join.taken) == enough else None
        return bool(join.taken) if len(join.taken) + len(join.untaken) == edges else None

    def _ignore(self, closed_node_id: str) -> None:
        """Count one more decided edge into a closed node; after the last one nothing can arrive there."""
        self.closed[closed_node_id] -= 1
        if not self.closed[closed_node_id]:
            del self.closed[closed_node_id]

    def _end_overtaken(self, graph: Graph, merge_id: str) -> Step:
        """End for good all nodes that lead only to merges which have run, and may go on early, as this one.

        A search backwards over undecided edges: a node is ended once none of its ways out is open. A way is
        open unless it leads to a closed node. An end of the workflow is never ended, although an `error`
        edge of it may lead to the merge, because its output is part of the execution's result.
        """
        reached = {merge_id, *self.due, *self.waiting}
        open_ways: dict[str, int] = {}
        ended: list[str] = []
        overtaken = [merge_id]
        while overtaken:
            node_id = overtaken.pop()
            if node_id != merge_id:
                ended.append(node_id)
                for edge in graph.outgoing[node_id]:
                    self._ignore(edge.target)
            sources = self._undecided_sources(graph, node_id, node_id in reached)
            self._drop(node_id)
            for source in sources:
                if source not in open_ways:
                    open_ways[source] = sum(edge.target not in self.closed for edge in graph.outgoing[source])
                open_ways[source] -= 1
                if not open_ways[source] and not graph.is_end(source):
                    overtaken.append(source)
            if sources:
                self.closed[node_id] = len(sources)
        return Step(cancelled=self._leave_lines(frozenset(ended)), ended=tuple(ended))

    def _undecided_sources(self, graph: Graph, node_id: str, is_reached: bool) -> list[str]:
        """Return the sources of the node's undecided incoming edges, once for every edge."""
        incoming = graph.incoming[node_id]
        if (join := self.joins.get(node_id)) is None:
            return [] if is_reached else [edge.source for edge in incoming]
        decided = {*join.taken, *join.untaken}
        return [edge.source for position, edge in enumerate(incoming) if position not in decided]

    def _leave_lines(self, node_ids: frozenset[str]) -> tuple[str, ...]:
        """Remove these nodes from both lines; return those that were in one."""
        leaving = tuple(node_id for node_id in (*self.due, *self.waiting) if node_id in node_ids)
        if leaving:
            self.due = [node_id for node_id in self.due if node_id not in node_ids]
            self.waiting = [node_id for node_id in self.waiting if node_id not in node_ids]
        return leaving


def node_statuses(
    graph: Graph,
    trigger_node_id: str,
    journal: Iterable[JournalEntry],
    visits: Mapping[str, int] | None = None,
    *,
    is_over: bool = False,
) -> dict[str, NodeStatus]:
    """Return the status of every node that has one, by node id, derived from the journal.

    A node that a merge ended for good which went on early is CANCELLED. Nodes not reached yet have no status,
    nor have due ones before their first row. `is_over` means that the execution did not end by its last row,
    but was cancelled or timed out. The other arguments and errors are those of `Walk.replay`.
    """
    statuses: dict[str, NodeStatus] = {}
    walk = Walk()
    for entry, step in walk._replay(graph, trigger_node_id, journal, visits or {}):
        statuses[entry.node_id] = entry.status
        statuses.update(dict.fromkeys(step.skipped, NodeStatus.SKIPPED))
        statuses.update(dict.fromkeys((*step.cancelled, *step.ended), NodeStatus.CANCELLED))
    if is_over:
        statuses.update(dict.fromkeys(walk.end().cancelled, NodeStatus.CANCELLED))
    return statuses


def _ways_out(graph: Graph, node_id: str, handles: Collection[str]) -> list[Way]:
    """Return the outgoing edges of a node that leaves by these handles, in the order of the definition."""
    return [(target, position, handle in handles) for target, position, handle in graph.ways[node_id]]
