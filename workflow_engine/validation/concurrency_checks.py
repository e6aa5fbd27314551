"""Problems that a workflow has only if nodes of it may run at the same time, and whether they could."""

from __future__ import annotations

from collections.abc import Iterator

from workflow_engine.definition.body import Body, body_of, workflow_of
from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ERROR, Node, Workflow, WorkflowSettings
from workflow_engine.errors import Problem
from workflow_engine.expressions import compile_template
from workflow_engine.nodes.registry import NodeRegistry
from workflow_engine.paths import at, below, node_path


def concurrency_problems(workflow: Workflow, registry: NodeRegistry) -> Iterator[Problem]:
    """Yield a problem for each output that a node reads although its own node may run beside it.

    Where it has a default, or its presence is tested, the author has thought of that.
    """
    for index, node in enumerate(workflow.nodes):
        if body_of(node) is not None:
            path = at(node_path(index, {"id": node.id}), "config", "body")
            for problem in concurrency_problems(workflow_of(workflow, node), registry):
                yield Problem(below(path, problem.path), problem.message)
    if workflow.settings.concurrency == 1:
        return
    graph = Graph.of(workflow)
    for index, node in enumerate(workflow.nodes):
        read = _read_unguarded(node, registry) & graph.nodes.keys() - {node.id}
        for sibling in sorted(read - graph.upstream(node.id) - graph.downstream(node.id)):
            yield Problem(
                node_path(index, {"id": node.id}),
                f"reads the output of {sibling!r}, which may run at the same time; draw an edge from it, or "
                f"give a default: {{{{ {sibling} | default(…) }}}}",
            )


def settings_problems(settings: WorkflowSettings, path: str) -> Iterator[Problem]:
    """Yield a problem if nodes may run at the same time although one worker is to run several of them."""
    inline = {"hops": "one worker walks all branches", "pure": "one worker runs what it has made due"}
    for name, how in inline.items():
        if settings.concurrency > 1 and getattr(settings, name) == "inline":
            message = f"with {name}: inline {how}, a node at a time; leave out one of the two"
            yield Problem(at(path, "concurrency"), message)


def widest_fan_out(workflow: Workflow) -> tuple[str, tuple[str, ...]]:
    """Return the node that most branches leave together, and these branches."""
    graph = Graph.of(workflow)
    widest: tuple[str, tuple[str, ...]] = ("", ())
    for node_id, edges in graph.outgoing.items():
        for handle in {edge.handle for edge in edges if edge.handle != ERROR}:
            branches = tuple(edge.target for edge in edges if edge.handle == handle)
            if len(branches) > len(widest[1]):
                widest = (node_id, branches)
    return widest


def _read_unguarded(node: Node, registry: NodeRegistry) -> frozenset[str]:
    node_type = registry.find(node.kind)
    if node_type is None:
        return frozenset()
    config = node_type.prepare(node.config)
    read = compile_template({k: v for k, v in config.items() if k not in node_type.verbatim}).unguarded
    read |= compile_template(node.output).unguarded
    if (body := body_of(node)) is not None:
        read = read.union(*(_read_unguarded(inner, registry) for inner in Body.model_validate(body).nodes))
    return read
