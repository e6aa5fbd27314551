"""Builds a definition in Python that is exactly the same as one written in YAML or JSON.

    flow = WorkflowBuilder("order-fulfilment", variables={"currency": "EUR"})
    placed = flow.trigger("orderPlaced")
    in_stock = flow.condition("inStock", expression="{{ orderPlaced['items'] | length > 0 }}")
    charge = flow.python("charge", "shop.charge", arguments={"orderId": "{{ _trigger.orderId }}"})
    backorder = flow.function("backorder", "{{ {'later': orderPlaced.orderId} }}")
    done = flow.merge("done", strategy="first")

    placed >> in_stock
    in_stock["true"] >> charge >> done
    in_stock["false"] >> backorder >> done
    workflow = flow.build()

Edges stand in the definition in the order in which they are written. A mistake is raised by the line that
makes it, as `DefinitionInvalid`; what only the whole shows (cycles, unknown functions) is found by
`validation`, when the workflow is deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypedDict, Unpack

from workflow_engine.definition.built_nodes import Branch, BuiltNode
from workflow_engine.definition.problems import check_model
from workflow_engine.definition.workflow import (
    FUNCTION_NAME_ATTRIBUTE,
    ORDINARY,
    Edge,
    Limit,
    Node,
    OnFailure,
    Retry,
    RetryRule,
    Workflow,
    WorkflowSettings,
)
from workflow_engine.errors import DefinitionInvalid, Problem
from workflow_engine.paths import at

Config = Mapping[str, Any]


class CommonOptions(TypedDict, total=False):
    """Options that any node may have beside its config; see `Node`."""

    label: str
    retry: Retry | Mapping[str, Any] | Sequence[RetryRule | Mapping[str, Any]]
    timeout: float
    queue: str
    queue_timeout: float
    priority: int
    on_error: Literal["fail", "continue"]
    on_crash: Literal["retry", "fail"]
    limits: Sequence[Limit | Mapping[str, Any]]


class NodeOptions(CommonOptions, total=False):
    """Options of a node whose method has no parameter named `output` of its own."""

    output: Mapping[str, Any] | str


class WorkflowBuilder:
    """Collects the nodes and edges of a workflow; each method that adds a node returns it.

    Raises `DefinitionInvalid` as soon as a part is added that is not allowed in a definition.
    """

    def __init__(
        self,
        id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        settings: WorkflowSettings | Mapping[str, Any] | None = None,
        variables: Mapping[str, Any] | None = None,
        limits: Sequence[Limit | Mapping[str, Any]] | None = None,
        on_failure: OnFailure | Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id
        self._frame = {
            "id": id,
            **_given(
                name=name,
                description=description,
                settings=settings,
                variables=variables,
                limits=limits,
                on_failure=on_failure,
            ),
        }
        self._nodes: dict[str, Node] = {}
        self._edges: dict[Edge, None] = {}
        self.build()

    def build(self) -> Workflow:
        """Return the workflow as it is now. Only its shape is checked; deploying it checks the rest."""
        parts = {"nodes": list(self._nodes.values()), "edges": list(self._edges)}
        workflow, problems = check_model(Workflow, self._frame | parts, by_name=True)
        if workflow is None:
            raise DefinitionInvalid(problems, self.id)
        return workflow

    # -- nodes -------------------------------------------------------------------------------------------

    def node(
        self,
        id: str,
        kind: str,
        config: Config | None = None,
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add a node of any type; `kind` is `type/subType`, such as `action/shop.charge`."""
        return self._add(id, kind, config, None, options)

    def trigger(
        self,
        id: str,
        *,
        sub_type: str = "manual",
        schema: Mapping[str, Any] | None = None,
        config: Config | None = None,
        **options: Unpack[CommonOptions],
    ) -> BuiltNode:
        """Add a trigger; `schema` is the JSON Schema of its data, `config` holds all other keys."""
        if schema is not None:
            config = {"schema": schema, **(config or {})}
        return self._add(id, f"trigger/{sub_type}", config, (ORDINARY,), options)

    def condition(
        self,
        id: str,
        *,
        expression: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add a choice of two ways, `node["true"]` and `node["false"]`, by an expression or `conditions`."""
        config = _given(expression=expression, conditions=conditions)
        return self._add(id, "logic/condition", config, ("true", "false"), options)

    def switch(
        self,
        id: str,
        *,
        field: str,
        cases: Mapping[str, str] | Sequence[Mapping[str, Any]],
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add a choice of several ways, by what `field` equals; `node["default"]` is for all other values.

        `cases` are handles by value, such as `{"DE": "domestic"}`, or a list of `{"value": …, "handle": …}`,
        in which a value may be any JSON value.
        """
        if isinstance(cases, Mapping):
            cases = [{"value": value, "handle": handle} for value, handle in cases.items()]
        handles = tuple(dict.fromkeys([*(str(case.get("handle")) for case in cases), "default"]))
        return self._add(id, "logic/switch", {"field": field, "cases": list(cases)}, handles, options)

    def merge(
        self,
        id: str,
        *,
        join: Literal["all", "any"] | int | None = None,
        strategy: Literal["all", "first", "last"] | None = None,
        require: Literal["all"] | int | None = None,
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add a node where branches come together.

        It goes on once `join` of them have arrived, and fails if fewer than `require` have.
        """
        config = _given(join=join, strategy=strategy, require=require)
        return self._add(id, "logic/merge", config or None, (ORDINARY,), options)

    def delay(
        self,
        id: str,
        *,
        duration: float | str | None = None,
        unit: Literal["milliseconds", "seconds", "minutes", "hours", "days", "weeks"] | None = None,
        until: str | None = None,
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add a wait: `duration` in `unit`, or `until` a time in ISO 8601; both may be expressions."""
        config = _given(duration=duration, unit=unit, until=until)
        return self._add(id, "logic/delay", config, (ORDINARY,), options)

    def wait_events(
        self,
        id: str,
        events: Sequence[str | Mapping[str, Any]],
        *,
        correlation_id: str | None = None,
        strategy: Literal["all", "any", "required_only", "custom"] | None = None,
        condition: str | None = None,
        wait_timeout: float | str | None = None,
        on_timeout: Literal["fail", "continue", "continue_with_partial"] | None = None,
        output: Mapping[str, Any] | None = None,
        **options: Unpack[CommonOptions],
    ) -> BuiltNode:
        """Add a wait for events, each a name or `{"name": …, "required": …, "timeout": …}`.

        `wait_timeout` is the `timeout` of the config: the seconds to wait in all.
        """
        config = {
            "events": [{"name": each} if isinstance(each, str) else dict(each) for each in events],
            **_given(
                correlationId=correlation_id,
                strategy=strategy,
                condition=condition,
                timeout=wait_timeout,
                onTimeout=on_timeout,
                output=output,
            ),
        }
        return self._add(id, "logic/wait-events", config, (ORDINARY,), options)

    def set(self, id: str, variables: Mapping[str, Any], **options: Unpack[NodeOptions]) -> BuiltNode:
        """Add a node that sets variables; their values may be expressions, and are its output."""
        return self._add(id, "logic/set", {"variables": dict(variables)}, (ORDINARY,), options)

    def fail(
        self,
        id: str,
        type: str,
        message: str,
        *,
        details: Mapping[str, Any] | str | None = None,
        **options: Unpack[CommonOptions],
    ) -> BuiltNode:
        """Add an end that fails on purpose; all three parts of its error may be expressions."""
        config = {"type": type, "message": message, **_given(details=details)}
        return self._add(id, "logic/fail", config, (), options)

    def sub_workflow(
        self,
        id: str,
        workflow: str | None = None,
        *,
        body: Body | None = None,
        version: int | None = None,
        trigger: str | None = None,
        data: Any = None,
        variables: Mapping[str, Any] | None = None,
        child_timeout: float | str | None = None,
        on_parent_end: Literal["cancel", "leave"] | None = None,
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add a run of another workflow, or of a `body` of nodes: a builder of its own, whose id is not used.

        `child_timeout` is the `timeout` of the config: the seconds that the child may take.
        """
        config = _given(
            workflow=workflow,
            body=_content_of(body),
            version=version,
            trigger=trigger,
            data=data,
            variables=variables,
            timeout=child_timeout,
            onParentEnd=on_parent_end,
        )
        return self._add(id, "logic/sub-workflow", config, (ORDINARY,), options)

    def loop(
        self,
        id: str,
        items: Sequence[Any] | str | None = None,
        *,
        body: Body | None = None,
        workflow: str | None = None,
        config: Config | None = None,
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add a run of a `body` or `workflow` for each of the items; `config` holds all other keys.

        Without items, `config` has `while` or `until`: `flow.loop("poll", body=ask, config={"until": …})`.
        """
        content = {**_given(items=items, body=_content_of(body), workflow=workflow), **(config or {})}
        return self._add(id, "logic/loop", content, (ORDINARY,), options)

    def function(self, id: str, expression: Any, **options: Unpack[NodeOptions]) -> BuiltNode:
        """Add a value computed by an expression, or by a structure with expressions in it."""
        return self._add(id, "action/function", {"expression": expression}, (ORDINARY,), options)

    def python(
        self,
        id: str,
        function: str | Callable[..., Any],
        *,
        arguments: Mapping[str, Any] | str | None = None,
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add a call of a Python function: the name it was registered under, or the function itself."""
        config = {"function": _function_name(function)} | _given(arguments=arguments)
        return self._add(id, "action/python", config, None, options)

    def celery_task(
        self,
        id: str,
        task: str | Any,
        *,
        args: Sequence[Any] | str | None = None,
        kwargs: Mapping[str, Any] | str | None = None,
        calls: Sequence[Mapping[str, Any]] | str | None = None,
        headers: Mapping[str, Any] | str | None = None,
        serialize: Literal["json", "kombu"] | None = None,
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add a Celery task, unchanged: its name, or the task itself.

        With `calls`, each `{"args": …, "kwargs": …}`, it runs once for each of them.
        """
        config = {"task": _task_name(task)} | _given(
            args=list(args) if isinstance(args, Sequence) and not isinstance(args, str) else args,
            kwargs=kwargs,
            calls=list(calls) if isinstance(calls, Sequence) and not isinstance(calls, str) else calls,
            headers=headers,
            serialize=serialize,
        )
        return self._add(id, "action/celery-task", config, (ORDINARY,), options)

    def api_call(
        self,
        id: str,
        url: str,
        *,
        method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] | None = None,
        query: Mapping[str, Any] | str | None = None,
        headers: Mapping[str, Any] | str | None = None,
        json: Any = None,
        form: Mapping[str, Any] | str | None = None,
        body: str | None = None,
        auth: Mapping[str, Any] | None = None,
        call_timeout: float | str | None = None,
        expect: str | int | Sequence[str | int] | None = None,
        max_bytes: int | None = None,
        follow_redirects: int | None = None,
        allow_private: bool | None = None,
        **options: Unpack[NodeOptions],
    ) -> BuiltNode:
        """Add an HTTP request; its output is the response's `status`, `headers` and `body`.

        `call_timeout` is the `timeout` of the config: the seconds until the response must have arrived.
        """
        config = {"url": url} | _given(
            method=method,
            query=query,
            headers=headers,
            json=json,
            form=form,
            body=body,
            auth=auth,
            timeout=call_timeout,
            expect=list(expect) if isinstance(expect, Sequence) and not isinstance(expect, str) else expect,
            maxBytes=max_bytes,
            followRedirects=follow_redirects,
            allowPrivate=allow_private,
        )
        return self._add(id, "action/api-call", config, (ORDINARY,), options)

    def _add(
        self,
        id: str,
        kind: str,
        config: Config | None,
        handles: tuple[str, ...] | None,
        options: CommonOptions,
    ) -> BuiltNode:
        if id in self._nodes:
            self._refuse(f"nodes[{id}].id", "another node has this id already; give each one its own")
        type_, _, sub_type = kind.partition("/")
        content: dict[str, Any] = {"id": id, "type": type_, "subType": sub_type, **options}
        if config is not None:
            content["config"] = dict(config)
        node, problems = check_model(Node, content, f"nodes[{id}]", by_name=True)
        if node is None:
            raise DefinitionInvalid(problems, self.id)
        self._nodes[id] = node
        return BuiltNode(self, node, handles)

    # -- edges -------------------------------------------------------------------------------------------

    def connect(self, branch: Branch, target: BuiltNode) -> None:
        """Draw an edge; `>>` is the short way to write it."""
        source, handle, path = branch.source, branch.handle, f"edges[{len(self._edges)}]"
        if source.flow is not self or target.flow is not self:
            self._refuse(path, f"{source.id!r} and {target.id!r} are nodes of different workflows")
        if source.handles == ():
            self._refuse(path, f"{source.id!r} fails on purpose and ends its branch; no edge may leave it")
        if handle == ORDINARY and ORDINARY not in source.handles:
            ways = " or ".join(f"{source.id}[{name!r}]" for name in source.handles)
            self._refuse(at(path, "sourceHandle"), f"say by which way this leaves {source.id!r}: {ways}")
        if target.node.type == "trigger":
            self._refuse(at(path, "target"), f"{target.id!r} is a trigger; no edge may lead into it")
        names: dict[str, str] = {} if handle == ORDINARY else {"source_handle": handle}
        edge = Edge(source=source.id, target=target.id, **names)
        if edge in self._edges:
            self._refuse(path, f"the edge from {source.id!r} to {target.id!r} exists already")
        self._edges[edge] = None

    def _refuse(self, path: str, message: str) -> NoReturn:
        raise DefinitionInvalid([Problem(path, message)], self.id)


Body = WorkflowBuilder | Mapping[str, Any]
"""The nodes inside a node: a builder of its own, or `nodes` and `edges` as data."""


def _content_of(body: Body | None) -> Mapping[str, Any] | None:
    """Return a body as its node's config holds it: of a builder, all but what a workflow is called."""
    if not isinstance(body, WorkflowBuilder):
        return body
    content = body.build().to_dict()
    return {key: value for key, value in content.items() if key not in ("id", "name", "description")}


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _task_name(task: Any) -> str:
    name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"{task!r} is not a Celery task; give the task, or its name")
    return name


def _function_name(function: str | Callable[..., Any]) -> str:
    name = function if isinstance(function, str) else getattr(function, FUNCTION_NAME_ATTRIBUTE, None)
    if not isinstance(name, str):
        raise TypeError(f"{function!r} is not registered; decorate it with @node, or give its name")
    return name
