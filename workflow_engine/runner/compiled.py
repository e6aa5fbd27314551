"""A definition made ready to run: its graph, the code behind its nodes, and their compiled expressions.

Each process compiles a definition once. A compiled node also lists the outputs of other nodes that it reads,
so that its hop fetches those and no others.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from workflow_engine.definition.body import SEPARATOR, TRIGGER_ID, body_of, workflow_of
from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import Node, Workflow
from workflow_engine.errors import ExpressionError, UnknownNodeType, WorkflowNotFound
from workflow_engine.execution.messages import Route
from workflow_engine.expressions import LOOP_NAMES, Scope, Template, compile_template
from workflow_engine.expressions.compiler import RESPONSE
from workflow_engine.json_values import decode, encode_normal
from workflow_engine.nodes.action.celery_task import task_of
from workflow_engine.nodes.contract import NodeType, TimeLimits, in_one_piece
from workflow_engine.nodes.registry import NodeRegistry, RegisteredFunction
from workflow_engine.runner.limits import CompiledLimit, compiled_limits

RouteOfTask = Callable[[str], Route]

WORKFLOWS_KEPT = 500
"""Workflow versions that stay compiled, the most recently used; any other is compiled again when needed."""


COMPUTED_FROM_CONFIG = frozenset(
    ("logic/condition", "logic/switch", "logic/merge", "logic/set", "logic/fail", "action/function")
)
"""Kinds of nodes whose code reads no more of the context than their config does, and merges what arrived."""

FIXED_NAMES = frozenset(("_trigger", RESPONSE, *LOOP_NAMES))
"""Names in expressions that mean the same for as long as an execution runs, and for a node's own `output`."""


@dataclass(frozen=True)
class CompiledNode:
    """One node, ready to run."""

    node: Node
    node_type: NodeType
    config: dict[str, Any]
    template: Template
    needs: tuple[str, ...]
    """Ids of the nodes whose outputs are fetched for this one."""
    output: Template | None = None
    """What becomes of the executor's result, if the node has an `output`."""
    required: int | None = None
    """How many branches have to arrive, for a merge with `require`."""
    slot_limits: tuple[CompiledLimit, ...] = ()
    """What an attempt needs slots of."""
    is_pure: bool = False
    """Another run gives the same result and touches nothing, as long as what it reads is the same."""
    reads_the_past: bool = False
    """All that it reads was decided when it became due: no other node of the execution can change it."""

    @functools.cached_property
    def is_plain(self) -> bool:
        """Whether it needs nothing of Postgres as it runs: no slot, mark, deadline, journal row or part."""
        is_unmarked = self.node.on_crash != "fail" and self.node.queue_timeout is None
        return self.is_whole and self.required is None and not self.slot_limits and is_unmarked

    @property
    def is_whole(self) -> bool:
        """Whether its work has no parts that are stored one by one."""
        return self.node_type.divide is in_one_piece

    @functools.cached_property
    def limits(self) -> TimeLimits:
        """How long an attempt may run: the node's `timeout`, else what its code brings along."""
        limits = self.node_type.limits(self.config)
        return limits if self.node.timeout is None else replace(limits, hard=self.node.timeout)

    @functools.cached_property
    def is_limitless(self) -> bool:
        """Whether an attempt may run for as long as it likes."""
        return self.limits.hard is None and not self.limits.soft

    @functools.cached_property
    def handles(self) -> tuple[str, ...]:
        """The ways out, `error` apart."""
        return self.node_type.handles(self.config)

    def evaluate(self, scope: Scope) -> Any:
        """Return the config for the executor: expressions evaluated, verbatim keys as written."""
        return {**self.template.evaluate(scope), **self._verbatim}

    def constant_config(self) -> Any:
        """Return what `evaluate` does, of a config without expressions."""
        return {**decode(self._constants), **self._verbatim}

    def recorded(self, evaluated: Any) -> Any:
        """Return an evaluated config without the parts that the journal leaves out."""
        unrecorded = self.node_type.unrecorded
        return {k: v for k, v in evaluated.items() if k not in unrecorded} if unrecorded else evaluated

    @functools.cached_property
    def recorded_constants(self) -> bytes | None:
        """What the journal keeps of a config without expressions."""
        recorded = self.recorded(self.constant_config())
        return encode_normal(recorded, "config") if recorded else None

    @functools.cached_property
    def _constants(self) -> bytes:
        return encode_normal(self.template.evaluate(Scope()), "config")

    @functools.cached_property
    def _verbatim(self) -> dict[str, Any]:
        verbatim = self.node_type.verbatim
        return {key: self.config[key] for key in self.config if key in verbatim}


def _of_its_execution(task: str) -> Route:
    return Route()


@dataclass(frozen=True)
class CompiledWorkflow:
    """One workflow version, ready to run."""

    workflow: Workflow
    version: int
    graph: Graph
    registry: NodeRegistry
    is_body: bool = False
    """Whether it is the body of a node, whose values come from outside with the data of its trigger."""
    route_of_task: RouteOfTask = _of_its_execution
    """Returns where Celery would send a task of this name."""
    _nodes: dict[str, CompiledNode] = field(default_factory=dict)
    _bodies: dict[str, CompiledWorkflow] = field(default_factory=dict)
    _routes: dict[str, Route] = field(default_factory=dict)
    _inline_nodes: dict[str, CompiledNode | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        workflow: Workflow,
        version: int,
        registry: NodeRegistry,
        route_of_task: RouteOfTask = _of_its_execution,
    ) -> CompiledWorkflow:
        return cls(workflow, version, Graph.of(workflow), registry, route_of_task=route_of_task)

    @functools.cached_property
    def is_inline(self) -> bool:
        """Whether the worker that has run a node goes on with the next one itself."""
        return self.workflow.settings.hops == "inline" and self.concurrency == 1

    @functools.cached_property
    def is_pure_inline(self) -> bool:
        """Whether the worker that has made a pure node due runs it itself."""
        return self.is_inline or (self.workflow.settings.pure == "inline" and self.concurrency == 1)

    @functools.cached_property
    def limits(self) -> tuple[CompiledLimit, ...]:
        """What an execution needs a slot of."""
        return compiled_limits(self.workflow.limits)

    @functools.cached_property
    def is_limited(self) -> bool:
        """Whether the workflow or any of its nodes has limits."""
        return bool(self.workflow.limits) or any(node.limits for node in self.graph.nodes.values())

    @functools.cached_property
    def queue_timeouts(self) -> Mapping[str, float]:
        """The seconds that nodes may stand in their queues, by node id, of those that say so."""
        nodes = self.graph.nodes.values()
        return {node.id: node.queue_timeout for node in nodes if node.queue_timeout is not None}

    def queue_timeouts_of(self, due: Iterable[str]) -> dict[str, float]:
        """Return the same of these nodes only."""
        timeouts = self.queue_timeouts
        return {node_id: timeouts[node_id] for node_id in due if node_id in timeouts} if timeouts else {}

    @functools.cached_property
    def concurrency(self) -> int:
        """The number of nodes of one execution that may run at the same time."""
        return self.workflow.settings.concurrency

    def node(self, node_id: str) -> CompiledNode:
        """Return one node, compiled at the first use.

        Raises `UnknownNodeType` if its code is not loaded, KeyError for an unknown id.
        """
        if (compiled := self._nodes.get(node_id)) is None:
            compiled = self._nodes[node_id] = self._compile(self.graph.nodes[node_id])
        return compiled

    def route(self, node_id: str) -> Route:
        """Return the queue and priority of a node: its own, else those of the Celery task that it runs."""
        if (route := self._routes.get(node_id)) is None:
            node = self.graph.nodes[node_id]
            task = task_of(node)
            by_task = self.route_of_task(task) if task is not None else Route()
            priority = node.priority if node.priority is not None else by_task.priority
            route = self._routes[node_id] = Route(node.queue or by_task.queue, priority)
        return route

    def has_queue_of_its_own(self, node_id: str) -> bool:
        """Return whether the messages of a node go elsewhere, or earlier, than those of its execution."""
        route = self.route(node_id)
        return route.queue is not None or route.priority is not None

    def inline_node(self, node_id: str) -> CompiledNode | None:
        """Return a node that the worker which made it due runs itself; None if it has to be enqueued."""
        if node_id not in self._inline_nodes:
            try:
                compiled = self.node(node_id)
            except UnknownNodeType:
                return None
            is_wanted = self.is_inline or (self.is_pure_inline and compiled.is_pure)
            is_free = compiled.limits.hard is None and not self.has_queue_of_its_own(node_id)
            self._inline_nodes[node_id] = compiled if is_wanted and is_free else None
        return self._inline_nodes[node_id]

    def trigger(self, wanted: str | None = None) -> str:
        """Return the trigger node of this id, or the only one. Raises `WorkflowNotFound`."""
        triggers, workflow_id = self.graph.triggers, self.workflow.id
        names = ", ".join(triggers)
        if wanted is not None and wanted not in triggers:
            raise WorkflowNotFound(
                f"workflow {workflow_id!r} has no trigger {wanted!r}; its triggers are {names}"
            )
        if wanted is None and len(triggers) > 1:
            raise WorkflowNotFound(
                f"workflow {workflow_id!r} has several triggers, name one of them: {names}"
            )
        return wanted or triggers[0]

    def body(self, node_id: str) -> CompiledWorkflow:
        """Return the body of a node, compiled at the first use. Raises KeyError for a node without one."""
        if (compiled := self._bodies.get(node_id)) is None:
            workflow = workflow_of(self.workflow, self.graph.nodes[node_id])
            compiled = CompiledWorkflow(
                workflow,
                self.version,
                Graph.of(workflow),
                self.registry,
                is_body=True,
                route_of_task=self.route_of_task,
            )
            self._bodies[node_id] = compiled
        return compiled

    @functools.cached_property
    def names_read(self) -> frozenset[str]:
        """The names that its expressions read, those of bodies inside it included: what a body needs."""
        read: set[str] = set()
        for node in self.graph.nodes.values():
            config = {key: value for key, value in node.config.items() if key != "body"}
            with suppress(ExpressionError):  # of a value that is no expression
                template = compile_template(config)
                read |= template.names | template.node_outputs
            for limit in compiled_limits(node.limits):
                read |= limit.key.names | limit.key.node_outputs
            if body_of(node) is not None:
                read |= self.body(node.id).names_read
        return frozenset(read)

    def needs(self, node_id: str) -> tuple[str, ...]:
        """Return the nodes whose outputs are fetched for this one; none if its type is not registered."""
        try:
            return self.node(node_id).needs
        except UnknownNodeType:
            return ()

    def _compile(self, node: Node) -> CompiledNode:
        node_type = self.registry.get(node.kind)
        node_type.check_runnable()
        config = node_type.prepare(node.config)
        template = compile_template({k: v for k, v in config.items() if k not in node_type.verbatim})
        output = None if node.output is None else compile_template(node.output)
        limits = compiled_limits(node.limits)
        read = [template, *([] if output is None else [output]), *(limit.key for limit in limits)]
        needs = self._outputs_read(node, *read)
        is_pure = self._is_pure(node, node_type, *read)
        return CompiledNode(
            node,
            node_type,
            config,
            template,
            needs,
            output,
            self._required(node),
            limits,
            is_pure,
            is_pure and self._reads_the_past(node, node_type, *read),
        )

    def _is_pure(self, node: Node, node_type: NodeType, *templates: Template) -> bool:
        """Return whether a node only computes, from what it reads of its execution.

        A secret may be another one the next time, and a node with `onCrash: fail` must not run twice.
        """
        if node.limits or node.on_crash == "fail" or not node_type.is_pure(node.config):
            return False
        return all(each.is_repeatable and not each.secrets for each in templates)

    def _reads_the_past(self, node: Node, node_type: NodeType, *templates: Template) -> bool:
        """Return whether a pure node reads outputs of nodes before it alone, and those are all decided.

        Any other node of the execution may set a variable, or run before a merge that goes on early does. A
        function that takes the context may read all of it.
        """
        if self.graph.any_merges or self._takes_context(node, node_type):
            return False
        if node.kind == "logic/merge" and node.config.get("strategy", "all") != "all":
            return False
        read = frozenset[str]().union(*(each.names for each in templates))
        return read - FIXED_NAMES <= self.graph.upstream(node.id)

    def _takes_context(self, node: Node, node_type: NodeType) -> bool:
        executor = node_type.executor
        if node.kind == "action/python":
            return self.registry.function(node.config["function"]).takes_context
        if isinstance(executor, RegisteredFunction):
            return executor.takes_context
        return node.kind not in COMPUTED_FROM_CONFIG

    def _required(self, node: Node) -> int | None:
        require = node.config.get("require") if node.kind == "logic/merge" else None
        return len(self.graph.branches(node.id)) if require == "all" else require

    def _outputs_read(self, node: Node, *templates: Template) -> tuple[str, ...]:
        read = {name for each in templates for name in each.names | each.node_outputs}
        if "_trigger" in read:
            read.update(self.graph.triggers)
        if node.kind == "logic/merge":
            read.update(edge.source for edge in self.graph.incoming[node.id])
        if body_of(node) is not None:
            inner = self.body(node.id).names_read
            read |= inner
            if "_trigger" in inner:
                read.update(self.graph.triggers)
        if self.is_body:
            read.add(TRIGGER_ID)
        return tuple(sorted(read & self.graph.nodes.keys()))


class CompiledWorkflows:
    """The compiled workflows of one process, loaded from the stored definitions when needed."""

    def __init__(
        self,
        load_definition: Callable[[str, int], dict[str, Any] | None],
        registry: NodeRegistry,
        route_of_task: RouteOfTask = _of_its_execution,
    ) -> None:
        self._load_definition = load_definition
        self._registry = registry
        self._route_of_task = route_of_task
        self._kept: OrderedDict[tuple[str, int], CompiledWorkflow] = OrderedDict()
        self._provisional: set[tuple[str, int]] = set()

    def kept(self, workflow_id: str, version: int) -> CompiledWorkflow | None:
        """Return a version that is compiled already, and load nothing."""
        return self._kept.get((workflow_id, version))

    def get(self, workflow_id: str, version: int) -> CompiledWorkflow:
        """Return a deployed version, or for `workflow#node` the body of one of its nodes.

        Raises `WorkflowNotFound`.
        """
        owner, is_body, node_id = workflow_id.rpartition(SEPARATOR)
        if is_body:
            try:
                return self.get(owner, version).body(node_id)
            except KeyError:
                raise WorkflowNotFound(
                    f"no node {node_id!r} of version {version} of workflow {owner!r} has a body"
                ) from None
        key = (workflow_id, version)
        if (compiled := self._kept.get(key)) is None:
            content = self._load_definition(workflow_id, version)
            if content is None:
                raise WorkflowNotFound(f"version {version} of workflow {workflow_id!r} is not deployed")
            compiled = CompiledWorkflow.of(
                Workflow.from_stored(content), version, self._registry, self._route_of_task
            )
            if key in self._provisional:
                return compiled
            self._kept[key] = compiled
            if len(self._kept) > WORKFLOWS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return compiled

    def set_provisional(self, workflow_id: str, version: int, *, provisional: bool = True) -> None:
        """Keep a version or not: one that has not committed may be another workflow the next time."""
        key = (workflow_id, version)
        if provisional:
            self._provisional.add(key)
            self._kept.pop(key, None)
        else:
            self._provisional.discard(key)
