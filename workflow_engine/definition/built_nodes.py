"""What a `WorkflowBuilder` returns: nodes and their ways out, between which `>>` draws edges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from workflow_engine.definition.problems import listed, short_repr, suggestion
from workflow_engine.definition.workflow import ERROR, ORDINARY, Node
from workflow_engine.errors import DefinitionInvalid, Problem

if TYPE_CHECKING:
    from workflow_engine.definition.builder import WorkflowBuilder


class Branch:
    """One way out of a node, the start of an edge."""

    def __init__(self, source: BuiltNode, handle: str) -> None:
        self.source = source
        self.handle = handle

    def __rshift__(self, target: Target) -> Target:
        """Draw an edge, `branch >> node`, or one to each, `branch >> [a, b]`; return the targets."""
        for each in _several(target):
            self.source.flow.connect(self, each)
        return target


class BuiltNode:
    """A node that was added to a `WorkflowBuilder`; `>>` draws edges from it."""

    def __init__(self, flow: WorkflowBuilder, node: Node, handles: tuple[str, ...] | None) -> None:
        self.flow = flow
        self.node = node
        self._handles = handles

    @property
    def id(self) -> str:
        return self.node.id

    @property
    def handles(self) -> tuple[str, ...]:
        """The ways out; the ordinary one where only the node's code defines them."""
        return self._handles if self._handles is not None else (ORDINARY,)

    @property
    def on_error(self) -> Branch:
        """The way out that is taken once the node has failed for good."""
        return self[ERROR]

    def __getitem__(self, handle: str) -> Branch:
        """Return the way out of this name, as in `in_stock["true"]`."""
        allowed = self._handles
        if handle == ERROR and self.node.type != "trigger":
            return Branch(self, handle)
        if allowed is None or (handle in allowed and handle != ORDINARY):
            return Branch(self, handle)
        named = [name for name in allowed if name != ORDINARY]
        advice = suggestion(handle, named) or (
            f"; it has {listed(named)}" if named else "; it has one, without a name"
        )
        message = f"{self.id!r} has no way out {short_repr(handle)}{advice}"
        raise DefinitionInvalid([Problem(f"nodes[{self.id}]", message)], self.flow.id)

    def __rshift__(self, target: Target) -> Target:
        """Draw an edge, `node >> other`, or one to each, `node >> [a, b]`; return the targets."""
        return Branch(self, ORDINARY) >> target

    def __rrshift__(self, sources: Iterable[Source]) -> BuiltNode:
        """Draw an edge from each source, `[a, b["true"]] >> node`."""
        for source in sources:
            source >> self
        return self


Source = BuiltNode | Branch
Target = TypeVar("Target", BuiltNode, Sequence[BuiltNode])


def _several(target: BuiltNode | Sequence[BuiltNode]) -> Sequence[BuiltNode]:
    return [target] if isinstance(target, BuiltNode) else target
