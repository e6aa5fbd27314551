"""Bodies: the nodes and edges inside a node, which run as executions of their own.

A body is a part of its workflow's version. It has no trigger: it begins with the nodes that no edge leads to.
So that the walk and the journal find what they find everywhere, it is given one here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, Strict

from workflow_engine.definition.workflow import (
    DefinitionPart,
    Edge,
    JsonObject,
    Node,
    Workflow,
    WorkflowSettings,
)

TRIGGER_ID = "_body"
"""The id of the trigger that a body is given; ids of definitions begin otherwise."""

SEPARATOR = "#"
"""Stands between a workflow and the node whose body is meant: `orders#eachItem`, or `orders#outer#inner`."""

DEEPEST = 5
"""Bodies inside one another."""

KINDS = ("logic/loop", "logic/sub-workflow")
"""Node types that may have a body."""


class Body(DefinitionPart):
    """The nodes inside a node."""

    nodes: Annotated[tuple[Node, ...], Strict(False)] = Field(
        (), min_length=1, description="the steps; those that no edge leads to are the first"
    )
    edges: Annotated[tuple[Edge, ...], Strict(False)] = Field((), description="the ways between the nodes")
    variables: JsonObject = Field(
        default_factory=dict,
        description="values that its nodes can read by name; the workflow does not see them",
    )
    settings: WorkflowSettings = Field(default_factory=WorkflowSettings)


def body_of(node: Node) -> Mapping[str, Any] | None:
    """Return the body in a node's config, as it is written; None if it has none."""
    body = node.config.get("body") if node.kind in KINDS else None
    return body if isinstance(body, Mapping) else None


def with_inner_nodes(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield the nodes, and after each of them those of its body."""
    for node in nodes:
        yield node
        if (body := body_of(node)) is not None:
            yield from with_inner_nodes(Body.model_validate(body).nodes)


def workflow_of(owner: Workflow, node: Node) -> Workflow:
    """Return a node's body as a workflow with a trigger; `owner` is the workflow or body that it stands in.

    Raises KeyError for a node without a body.
    """
    written = body_of(node)
    if written is None:
        raise KeyError(f"node {node.id!r} has no body")
    body = Body.model_validate(written)
    targets = {edge.target for edge in body.edges}
    # Their names are not those of a definition, which the models would refuse.
    trigger = Node.model_construct(id=TRIGGER_ID, type="trigger", sub_type="body", config={})
    begin = tuple(Edge(source=TRIGGER_ID, target=inner.id) for inner in body.nodes if inner.id not in targets)
    return Workflow.model_construct(
        id=f"{owner.id}{SEPARATOR}{node.id}",
        name=node.label,
        settings=_settings(body, owner, node),
        variables=body.variables,
        nodes=(trigger, *body.nodes),
        edges=(*begin, *body.edges),
    )


def _settings(body: Body, owner: Workflow, node: Node) -> WorkflowSettings:
    """Return the settings of a body: a worker walks through one of a loop, unless it says otherwise."""
    own = body.settings.model_fields_set
    if body.settings.concurrency > 1:
        return body.settings
    hops = "inline" if node.kind == "logic/loop" else owner.settings.hops
    inherited = {"hops": hops, "pure": owner.settings.pure}
    return body.settings.model_copy(update={name: inherited[name] for name in inherited.keys() - own})
