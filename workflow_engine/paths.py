"""How a place inside a definition is written: `nodes[charge].config.arguments.orderId`, `edges[2].target`.

Nodes are named by their id, which a reader can search for; edges have no name and are counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Segment = str | int

LONGEST_SHOWN_ID = 100


def at(path: str, *segments: Segment) -> str:
    """Return the path of the value at these keys and indexes below `path`, which is "" for the whole."""
    for segment in segments:
        if isinstance(segment, int):
            path += f"[{segment}]"
        elif not segment.isidentifier():
            path += f"[{segment!r}]"
        else:
            path += f".{segment}" if path else segment
    return path


def below(path: str, inner: str) -> str:
    """Return the path of a place, given its path inside the value at `path`."""
    separator = "." if path and inner and not inner.startswith("[") else ""
    return f"{path}{separator}{inner}"


def enclosing(path: str) -> list[str]:
    """Return the path itself and those of the objects and lists around it."""
    return [path, *(path[:index] for index, character in enumerate(path) if character in ".[")]


def node_path(index: int, node: Any) -> str:
    """Return the path of a node: by its id if that is printable, else by its position."""
    node_id = node.get("id") if isinstance(node, Mapping) else None
    if isinstance(node_id, str) and 0 < len(node_id) <= LONGEST_SHOWN_ID and node_id.isprintable():
        # An id of digits only would look like a position.
        return f"nodes[{node_id!r}]" if node_id.isdigit() else f"nodes[{node_id}]"
    return f"nodes[{index}]"


def in_definition(content: Any, segments: Iterable[Segment]) -> str:
    """Return the path of a place in a definition, given the keys and indexes that lead there."""
    match list(segments):
        case ["nodes", int(index), *rest] if isinstance(content, Mapping):
            nodes = content.get("nodes")
            node = nodes[index] if isinstance(nodes, Sequence) and index < len(nodes) else None
            return at(node_path(index, node), *rest)
        case anywhere:
            return at("", *anywhere)
