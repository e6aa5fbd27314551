"""What holds for every graph and every order of events.

`History` says the rules of the walk again, naively: it remembers everything, and works everything out
afresh from the edges decided so far. The walk, which remembers its frontier only, must agree with it.

A run tries a few graphs for each property; `HYPOTHESIS_PROFILE=thorough pytest --timeout=0` many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from graphs import HANDLES, workflows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflow_engine.definition import ERROR, ORDINARY, Edge, Node, Workflow
from workflow_engine.graph import Graph
from workflow_engine.states import NodeStatus
from workflow_engine.walk import JournalEntry, Step, Walk, node_statuses

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
        """Decide the node's edges one by one, following skips; answers what becomes due, in order."""
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
        merges = {node_id for node_id in self.ran if self.joins_any(node_id)}
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
        """Nodes that may run, waiting ones included."""
        return {node.id for node in self.workflow.nodes if self.is_open(node.id) and self.is_reached(node.id)}

    def is_open(self, node_id: str) -> bool:
        return node_id not in (*self.ran, *self.skipped, *self.ended)

    def is_reached(self, node_id: str) -> bool:
        answers = [self.decided.get(edge) for edge in self.edges(target=node_id)]
        return True in answers and (None not in answers or self.joins_any(node_id))

    def never_reached(self, node_id: str) -> bool:
        return all(self.decided.get(edge) is False for edge in self.edges(target=node_id))

    def arrivals(self, node_id: str) -> tuple[str, ...]:
        sources = [edge.source for edge in self.edges(target=node_id) if self.decided.get(edge)]
        return tuple(sorted(set(sources), key=self.ran.index))

    def joins_any(self, node_id: str) -> bool:
        return self.node(node_id).config.get("join") == "any"

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
        node_id, fate = _roll(walk, rolls, moves)
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


def _roll(walk: Walk, rolls: Rolls, moves: int) -> tuple[str, int]:
    candidates = [*walk.due, *walk.waiting]
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
        return {"status": NodeStatus.RETRYING, "waits": kind == 7}
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
    """What a worker does with the outcome that the entry records."""
    if entry.status is NodeStatus.WAITING:
        return walk.hold(entry.node_id)
    if entry.status is NodeStatus.RETRYING:
        put = walk.hold if entry.waits else walk.retry
        return put(entry.node_id, entry.attempt + 1)
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


# --- the properties ----------------------------------------------------------------------------------------


@property_test
@given(workflows(), rolls)
def test_walking_and_replaying_give_the_same_walk_after_every_move(workflow: Workflow, rolls: Rolls) -> None:
    graph, trigger, walk, journal = begin(workflow)
    assert Walk.replay(graph, trigger, journal).to_json() == walk.to_json()

    for event in execute(graph, walk, journal, rolls, may_fail=True):
        assert Walk.replay(graph, trigger, event.journal).to_json() == walk.to_json()


@property_test
@given(workflows(), rolls)
def test_a_walk_that_is_stored_as_json_after_every_move_goes_the_same_way(
    workflow: Workflow, rolls: Rolls
) -> None:
    graph, _, walk, journal = begin(workflow)
    stored = walk.to_json()

    for event in execute(graph, walk, journal, rolls, may_fail=True):
        loaded = Walk.from_json(stored)
        assert loaded.apply(graph, event.entry) == event.step
        assert loaded == walk
        stored = loaded.to_json()
        assert stored == walk.to_json()


@property_test
@given(workflows(), rolls)
def test_the_walk_agrees_with_the_rules_after_every_move(workflow: Workflow, rolls: Rolls) -> None:
    graph, trigger, walk, journal = begin(workflow)
    history = History(workflow, trigger)
    history.begin()
    assert walk.due == history.line

    for event in execute(graph, walk, journal, rolls):
        follow(history, graph, event)


def follow(history: History, graph: Graph, event: Event) -> None:
    """Tell the history what happened, and compare all it says with what the walk said."""
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


@property_test
@given(workflows(), rolls)
def test_every_walk_ends_with_each_node_run_once_or_skipped_or_ended(
    workflow: Workflow, rolls: Rolls
) -> None:
    graph, trigger, walk, journal = begin(workflow)

    for event in execute(graph, walk, journal, rolls):
        journal = event.journal

    ran = run_nodes(journal)
    statuses = node_statuses(graph, trigger, journal)
    assert walk.to_json() == b"{}"
    assert len(ran) == len(set(ran))
    assert statuses.keys() == graph.nodes.keys()
    assert {node_id for node_id, status in statuses.items() if status.is_final} == set(ran)
    assert set(statuses.values()) <= {
        NodeStatus.COMPLETED,
        NodeStatus.FAILED,
        NodeStatus.SKIPPED,
        NodeStatus.CANCELLED,
    }


@property_test
@given(workflows(), rolls)
def test_no_node_is_reported_twice_as_run_skipped_or_ended(workflow: Workflow, rolls: Rolls) -> None:
    graph, _, walk, journal = begin(workflow)
    reported: list[str] = []

    for event in execute(graph, walk, journal, rolls):
        reported += [*event.step.skipped, *event.step.ended]
        reported += [event.entry.node_id] if event.entry.status.is_final else []
        assert set(event.step.cancelled) <= set(event.step.ended)

    assert len(reported) == len(set(reported))


@property_test
@given(workflows(), rolls, st.integers(0, 12))
def test_an_unhandled_failure_ends_the_walk_at_once_and_cancels_what_was_due_or_waiting(
    workflow: Workflow, rolls: Rolls, moves: int
) -> None:
    graph, trigger, walk, journal = begin(workflow)
    for event in execute(graph, walk, journal, rolls[:moves]):
        journal = event.journal
        if len(journal) > moves:
            break
    if walk.is_finished:
        return
    failed = (*walk.due, *walk.waiting)[-1]
    others = {*walk.due, *walk.waiting} - {failed}
    failure = JournalEntry(
        journal[-1].seq + 1, failed, walk.visit(failed), walk.attempt(failed), NodeStatus.FAILED
    )

    step = walk.end(failed)

    assert set(step.cancelled) == others
    assert walk.to_json() == b"{}"
    assert Walk.replay(graph, trigger, (*journal, failure)) == walk
    statuses = node_statuses(graph, trigger, (*journal, failure))
    assert statuses[failed] is NodeStatus.FAILED
    assert {statuses[node_id] for node_id in others} <= {NodeStatus.CANCELLED}


@property_test
@given(workflows(), rolls, st.integers(0, 12), rolls)
def test_a_rerun_from_any_node_gives_it_and_all_behind_it_a_new_visit(
    workflow: Workflow, rolls: Rolls, pick: int, more_rolls: Rolls
) -> None:
    graph, trigger, walk, journal = begin(workflow)
    for event in execute(graph, walk, journal, rolls, may_fail=True):
        journal = event.journal
    candidates = run_nodes(journal[1:])
    if not candidates:
        return
    rerun = candidates[pick % len(candidates)]
    superseded = {rerun, *graph.downstream(rerun), *(entry.node_id for entry in journal if ends(entry))}
    visits = {entry.node_id: 2 for entry in journal if entry.node_id in superseded}
    journal = tuple(entry for entry in journal if entry.node_id not in superseded)

    walk = Walk.replay(graph, trigger, journal, visits)

    assert rerun in walk.due
    assert walk.visit(rerun) == 2
    for event in execute(graph, walk, journal, more_rolls):
        assert event.entry.visit == visits.get(event.entry.node_id, 1)
        assert Walk.replay(graph, trigger, event.journal, visits).to_json() == walk.to_json()
    assert walk.to_json() == b"{}"


def ends(entry: JournalEntry) -> bool:
    return entry.status is NodeStatus.FAILED and not entry.handles


@property_test
@given(workflows(), rolls)
def test_a_failed_execution_goes_on_where_it_failed_once_its_last_row_is_superseded(
    workflow: Workflow, rolls: Rolls
) -> None:
    graph, trigger, walk, journal = begin(workflow)
    before = walk.to_json()
    for event in execute(graph, walk, journal, rolls, may_fail=True):
        journal = event.journal
        if not walk.is_finished:
            before = walk.to_json()
    if not ends(journal[-1]):
        return

    walk = Walk.replay(graph, trigger, journal[:-1])

    assert walk.to_json() == before
    assert journal[-1].node_id in (*walk.due, *walk.waiting)
    assert walk.visit(journal[-1].node_id) == journal[-1].visit
