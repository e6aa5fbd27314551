"""The graph of an execution: one box for each node, in the order of the walk, indented by branch.

A box is below the one that leads to it. An edge to a node that only one node leads to runs on the left, down
from its source. Edges to a node where branches join run on the right, in a lane of that node. So no edge
crosses a box, however large the graph is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ORDINARY
from workflow_engine.execution.states import NodeStatus
from workflow_engine.presentation.execution_view import NodeView
from workflow_engine.presentation.graph_layout import PlacedNode

BOX_WIDTH, BOX_HEIGHT = 340, 46
ROW = 66
INDENT = 40
STEM = 16
"""From the left side of a box to the line that leaves it downwards."""
MARGIN = 4
LANE = 14
ROUND = 8
GUIDE = 3
"""Characters of a guide of one level."""


@dataclass(frozen=True)
class Box:
    """A node in the drawing."""

    node: NodeView
    x: int
    y: int
    branch: str
    """The names of the branch that begins here."""

    @property
    def bottom(self) -> int:
        return self.y + BOX_HEIGHT

    @property
    def middle(self) -> int:
        return self.y + BOX_HEIGHT // 2

    @property
    def right(self) -> int:
        return self.x + BOX_WIDTH


@dataclass(frozen=True)
class Line:
    """An edge in the drawing."""

    path: str
    is_taken: bool
    label: str
    """The way out of the source, if the drawing does not show it at the target."""
    label_x: int
    label_y: int


@dataclass(frozen=True)
class GraphDrawing:
    """All boxes and lines, and the space that they take."""

    boxes: Sequence[Box]
    lines: Sequence[Line]
    width: int
    height: int
    box_width: int = BOX_WIDTH
    box_height: int = BOX_HEIGHT


def draw_graph(graph: Graph, nodes: Sequence[NodeView], places: Sequence[PlacedNode]) -> GraphDrawing:
    """Return the drawing of nodes, each with its place."""
    boxes = {
        node.id: Box(
            node,
            MARGIN + len(where.lead) // GUIDE * INDENT,
            MARGIN + row * ROW + BOX_HEIGHT // 4,
            ", ".join(where.branch),
        )
        for row, (node, where) in enumerate(zip(nodes, places, strict=True))
    }
    joins = [where.node_id for where in places if where.sources]
    lanes = _lanes(graph, boxes, joins)
    edge_of_boxes = max((box.right for box in boxes.values()), default=0)
    lines = [
        _left(boxes[edge.source], boxes[edge.target], _is_taken(boxes[edge.source].node, edge.handle))
        if edge.target not in lanes
        else _right(
            boxes[edge.source],
            boxes[edge.target],
            edge_of_boxes + 16 + lanes[edge.target] * LANE,
            _is_taken(boxes[edge.source].node, edge.handle),
            "" if edge.handle == ORDINARY else edge.handle,
        )
        for edges in graph.outgoing.values()
        for edge in edges
    ]
    width = edge_of_boxes + (28 + max(lanes.values()) * LANE if lanes else MARGIN)
    height = max((box.bottom for box in boxes.values()), default=0) + MARGIN
    # Lines that were taken are drawn last, and so above the others.
    return GraphDrawing(list(boxes.values()), sorted(lines, key=lambda line: line.is_taken), width, height)


def _is_taken(source: NodeView, handle: str) -> bool:
    return source.status in (NodeStatus.COMPLETED, NodeStatus.FAILED) and handle in source.handles


def _lanes(graph: Graph, boxes: Mapping[str, Box], joins: Sequence[str]) -> dict[str, int]:
    """Return the lane of each join: the first that is free from its highest source to itself."""
    lanes: dict[str, int] = {}
    free_below: list[int] = []
    spans = sorted((min(boxes[edge.source].y for edge in graph.incoming[each]), each) for each in joins)
    for top, node_id in spans:
        lane = next((each for each, bottom in enumerate(free_below) if bottom < top), len(free_below))
        free_below[lane : lane + 1] = [boxes[node_id].bottom]
        lanes[node_id] = lane
    return lanes


def _left(source: Box, target: Box, is_taken: bool) -> Line:
    x = source.x + STEM
    if source.x == target.x:
        path = f"M{x} {source.bottom}V{target.y - 2}"
    else:
        path = (
            f"M{x} {source.bottom}V{target.middle - ROUND}"
            f"Q{x} {target.middle} {x + ROUND} {target.middle}H{target.x - 2}"
        )
    return Line(path, is_taken, "", 0, 0)


def _right(source: Box, target: Box, lane: int, is_taken: bool, label: str) -> Line:
    start, end = source.middle + 8, target.middle - 8
    path = (
        f"M{source.right} {start}H{lane - ROUND}Q{lane} {start} {lane} {start + ROUND}"
        f"V{end - ROUND}Q{lane} {end} {lane - ROUND} {end}H{target.right + 2}"
    )
    return Line(path, is_taken, label, source.right + 4, start - 4)
