"""A definition made ready to run: its graph, the code behind its nodes, and their compiled expressions.

Made once per definition and process. A node's plan also says which outputs of other nodes it reads, so
that entering it fetches those and no others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workflow_engine.definition import Node, Workflow
from workflow_engine.errors import UnknownNodeType, WorkflowNotFound
from workflow_engine.expressions import Scope, Template, compile_template
from workflow_engine.graph import Graph
from workflow_engine.node_types import NodeRegistry, NodeType

PLANS_KEPT = 500
"""Plans of the workflow versions used last; an older one is built again when it is needed."""


@dataclass(frozen=True)
class NodePlan:
    """One node, ready to run."""

    node: Node
    node_type: NodeType
    config: dict[str, Any]
    template: Template
    needs: tuple[str, ...]
    """Ids of the nodes whose outputs are fetched on entering this one."""

    def evaluate(self, scope: Scope) -> Any:
        """The config that the executor is given: expressions evaluated, verbatim keys as written."""
        evaluated = self.template.evaluate(scope)
        verbatim = self.node_type.verbatim
        return {**evaluated, **{key: self.config[key] for key in self.config if key in verbatim}}


@dataclass(frozen=True)
class WorkflowPlan:
    """One workflow version, ready to run."""

    workflow: Workflow
    version: int
    graph: Graph
    registry: NodeRegistry
    _nodes: dict[str, NodePlan] = field(default_factory=dict)

    @classmethod
    def of(cls, workflow: Workflow, version: int, registry: NodeRegistry) -> WorkflowPlan:
        return cls(workflow, version, Graph.of(workflow), registry)

    @property
    def is_inline(self) -> bool:
        """Whether the worker that has run a node goes on with the next one by itself."""
        return self.workflow.settings.hops == "inline"

    def node(self, node_id: str) -> NodePlan:
        """The plan of one node, compiled at the first use.

        Raises `UnknownNodeType` if the code behind it is not loaded, KeyError for an unknown id.
        """
        if (plan := self._nodes.get(node_id)) is None:
            plan = self._nodes[node_id] = self._compile(self.graph.nodes[node_id])
        return plan

    def needs(self, node_id: str) -> tuple[str, ...]:
        """The outputs to fetch on entering a node; none if its type is not known here."""
        try:
            return self.node(node_id).needs
        except UnknownNodeType:
            return ()

    def _compile(self, node: Node) -> NodePlan:
        node_type = self.registry.get(node.kind)
        config = node_type.prepare(node.config)
        template = compile_template({k: v for k, v in config.items() if k not in node_type.verbatim})
        return NodePlan(node, node_type, config, template, self._outputs_read(node, template))

    def _outputs_read(self, node: Node, template: Template) -> tuple[str, ...]:
        read = set(template.names | template.node_outputs)
        if "_trigger" in read:
            read.update(self.graph.triggers)
        if node.kind == "logic/merge":
            read.update(edge.source for edge in self.graph.incoming[node.id])
        return tuple(sorted(read & self.graph.nodes.keys()))


class Plans:
    """The plans of one process, loaded from the stored definitions as they are needed."""

    def __init__(
        self, load_definition: Callable[[str, int], dict[str, Any] | None], registry: NodeRegistry
    ) -> None:
        self._load_definition = load_definition
        self._registry = registry
        self._kept: OrderedDict[tuple[str, int], WorkflowPlan] = OrderedDict()

    def get(self, workflow_id: str, version: int) -> WorkflowPlan:
        """The plan of a deployed version. Raises `WorkflowNotFound`."""
        key = (workflow_id, version)
        if (plan := self._kept.get(key)) is None:
            content = self._load_definition(workflow_id, version)
            if content is None:
                raise WorkflowNotFound(f"version {version} of workflow {workflow_id!r} is not deployed")
            plan = WorkflowPlan.of(Workflow.from_stored(content), version, self._registry)
            self._kept[key] = plan
            if len(self._kept) > PLANS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return plan
