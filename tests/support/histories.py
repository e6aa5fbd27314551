"""Executions of any graph, driven by rolls of dice, and the rules of the walk, said naively.

`History` states the rules of the walk again: it keeps everything, and derives everything from the edges
decided so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from support.graphs import HANDLES
from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ERROR, ORDINARY, Edge, Node, Workflow
from workflow_engine.execution.states import NodeStatus
from workflow_engine.execution.walk import JournalEntry, Step, Walk

property_test = settings(suppress_health_check=[HealthCheck.too_slow])

Rolls = list[tuple[int, int]]
"""For each move: which of the nodes that may move does, and how it goes; later ones just complete."""

rolls = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 99)), max_size=30)


# --- the rules, said naively -------------------------------------------------------------------------------


@dataclass
class History:
    """All that happened in an execution so far."""

    workflow: Workflow
    trigger: str
    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    decided: dict[Edge, bool] = field(default_factory=dict)
    line: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    def begin(self) -> None:
        for node in self.workflow.nodes:
            if node.type == "trigger" and node.id != self.trigger:
                self.skipped.append(node.id)
                self.leave(node.id, ())
        self.run(self.trigger, (ORDINARY,))

    def run(self, node_id: str, handles: tuple[str, ...]) -> None:
        self.drop(node_id)
        self.ran.append(node_id)
        self.end_for_good()
        self.line = [*self.leave(node_id, handles), *self.line]

    def drop(self, node_id: str) -> None:
        self.line = [other for other in self.line if other != node_id]
        self.waiting = [other for other in self.waiting if other != node_id]

    def leave(self, node_id: str, handles: tuple[str, ...]) -> list[str]:
        """Decide the node's edges one by one, following skips; return what becomes due, in order."""
        became_due = []
        for edge in self.edges(source=node_id):
            due_before = self.due
            self.decided[edge] = edge.handle in handles
            became_due += self.due - due_before
            if self.is_open(edge.target) and self.never_reached(edge.target):
                self.skipped.append(edge.target)
                became_due += self.leave(edge.target, ())
        return became_due

    def end_for_good(self) -> None:
        merges = {node_id for node_id in self.ran if self.enough(node_id) is not None}
        newly_ended = [
            node.id
            for node in self.workflow.nodes
            if self.is_open(node.id)
            and any(edge.handle != ERROR for edge in self.edges(source=node.id))
            and all(edge.target in merges.union(self.ended) for edge in self.edges(source=node.id))
        ]
        for node_id in newly_ended:
            self.ended.append(node_id)
            self.drop(node_id)
        if newly_ended:
            self.end_for_good()

    @property
    def due(self) -> set[str]:
        """Return the nodes that may run, waiting ones included."""
        return {node.id for node in self.workflow.nodes if self.is_open(node.id) and self.is_reached(node.id)}

    def is_open(self, node_id: str) -> bool:
        return node_id not in (*self.ran, *self.skipped, *self.ended)

    def is_reached(self, node_id: str) -> bool:
        answers = [self.decided.get(edge) for edge in self.edges(target=node_id)]
        enough = self.enough(node_id)
        has_enough = enough is not None and answers.count(True) >= enough
        return True in answers and (None not in answers or has_enough)

    def never_reached(self, node_id: str) -> bool:
        return all(self.decided.get(edge) is False for edge in self.edges(target=node_id))

    def arrivals(self, node_id: str) -> tuple[str, ...]:
        sources = [edge.source for edge in self.edges(target=node_id) if self.decided.get(edge)]
        return tuple(sorted(set(sources), key=self.ran.index))

    def taken(self, node_id: str) -> set[Edge]:
        return {edge for edge in self.edges(target=node_id) if self.decided.get(edge)}

    def enough(self, node_id: str) -> int | None:
        join = self.node(node_id).config.get("join")
        return {"any": 1, "all": None}.get(join, join)

    def node(self, node_id: str) -> Node:
        return next(node for node in self.workflow.nodes if node.id == node_id)

    def edges(self, source: str | None = None, target: str | None = None) -> list[Edge]:
        return [edge for edge in self.workflow.edges if source == edge.source or target == edge.target]


# --- executions, driven by rolls of dice -------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One move of an execution: the walk after it, what it changed, and the journal up to it."""

    walk: Walk
    step: Step
    entry: JournalEntry
    journal: tuple[JournalEntry, ...]


def execute(
    graph: Graph, walk: Walk, journal: tuple[JournalEntry, ...], rolls: Rolls, *, may_fail: bool = False
) -> Iterator[Event]:
    """Go on until the walk is finished. The same walk is moved again and again."""
    moves = 0
    while not walk.is_finished:
        node_id, fate = _roll(walk, graph, rolls, moves)
        entry = JournalEntry(
            seq=journal[-1].seq + 1 + moves % 2,  # superseded rows leave gaps
            node_id=node_id,
            visit=walk.visit(node_id),
            attempt=walk.attempt(node_id),
            **_fate(graph, node_id, fate, may_fail),
        )
        journal += (entry,)
        yield Event(walk, move(walk, graph, entry), entry, journal)
        moves += 1
        assert moves <= len(graph.nodes) + len(rolls), "the walk does not end"


def _roll(walk: Walk, graph: Graph, rolls: Rolls, moves: int) -> tuple[str, int]:
    due = walk.due if graph.concurrency == 1 else walk.in_hand(graph)
    candidates = [*due, *walk.waiting]
    pick, fate = rolls[moves] if moves < len(rolls) else (0, 0)
    return candidates[pick % len(candidates)], fate


def _fate(graph: Graph, node_id: str, roll: int, may_fail: bool) -> dict:
    variant, kind = divmod(roll, 10)
    ways = HANDLES[graph.nodes[node_id].kind]
    if kind == 5:  # no case of a switch matches
        return {"status": NodeStatus.COMPLETED, "handles": ()}
    if kind == 6:
        return {"status": NodeStatus.WAITING}
    if kind in (7, 8):
        rule = None if variant > 5 else variant % 3
        return {"status": NodeStatus.RETRYING, "waits": kind == 7, "rule": rule}
    if kind == 9:
        return {
            "status": NodeStatus.FAILED,
            "handles": _ways_of_failure(graph, node_id, may_fail and variant > 4),
        }
    return {"status": NodeStatus.COMPLETED, "handles": (ways[variant % len(ways)],)}


def _ways_of_failure(graph: Graph, node_id: str, may_fail: bool) -> tuple[str, ...]:
    if graph.handles_errors(node_id):
        return (ERROR,)
    return () if may_fail else (HANDLES[graph.nodes[node_id].kind][0],)  # the latter for `onError: continue`


def move(walk: Walk, graph: Graph, entry: JournalEntry) -> Step:
    """Move the walk as a worker does for the outcome that the entry records."""
    if entry.status is NodeStatus.WAITING:
        return walk.wait(entry.node_id)
    if entry.status is NodeStatus.RETRYING:
        if entry.waits:
            return walk.wait(entry.node_id, entry.attempt + 1, entry.rule)
        return walk.retry(graph, entry.node_id, entry.attempt + 1, entry.rule)
    if entry.status is NodeStatus.FAILED and not entry.handles:
        return walk.end(entry.node_id)
    return walk.advance(graph, entry.node_id, entry.handles)


def first_row(trigger: str) -> JournalEntry:
    return JournalEntry(1, trigger, 1, 1, NodeStatus.COMPLETED, (ORDINARY,))


def begin(workflow: Workflow) -> tuple[Graph, str, Walk, tuple[JournalEntry, ...]]:
    graph = Graph.of(workflow)
    trigger = graph.triggers[0]
    return graph, trigger, Walk.start(graph, trigger), (first_row(trigger),)


def run_nodes(journal: tuple[JournalEntry, ...]) -> list[str]:
    return [entry.node_id for entry in journal if entry.status.is_final]


def follow(history: History, graph: Graph, event: Event) -> None:
    """Add to the history what happened, and compare its result with the walk's."""
    node_id, walk, step = event.entry.node_id, event.walk, event.step
    was_due, skipped, ended = history.due, len(history.skipped), len(history.ended)
    if event.entry.status.is_final:
        history.run(node_id, event.entry.handles)
    elif event.entry.status is NodeStatus.RETRYING and not event.entry.waits:
        history.drop(node_id)
        history.line.insert(0, node_id)
    else:
        history.drop(node_id)
        history.waiting.append(node_id)

    assert walk.due == history.line
    assert walk.waiting == history.waiting
    assert {*walk.due, *walk.waiting} == history.due
    assert list(step.skipped) == history.skipped[skipped:]
    assert set(step.ended) == set(history.ended[ended:])
    assert set(step.cancelled) == was_due.intersection(history.ended[ended:])
    assert set(step.due) == history.due - was_due
    for due in history.due:
        assert walk.arrivals(graph, due) == history.arrivals(due)
        assert set(walk.taken_edges(graph, due)) == history.taken(due)
