"""`action/celery-task`: runs a registered Celery task, unchanged, by its name.

The config is checked without the task: a producer has no tasks, and a worker that lacks one raises
`UnknownNodeType`, which is no failure of the node. Celery is imported where a task runs, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, WithJsonSchema

from workflow_engine.definition.problems import short_repr
from workflow_engine.definition.workflow import Node
from workflow_engine.errors import InvalidValue
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.json_values import normalise
from workflow_engine.nodes.config_fields import ConstantText, ObjectOrExpression, has_expression
from workflow_engine.nodes.contract import Config, NodeType, TimeLimits
from workflow_engine.nodes.results import NodeExecutionResult, failure, success
from workflow_engine.paths import at

KIND = "action/celery-task"
LONGEST_NAME = 300


def _list_or_expression(value: Any) -> Any:
    if isinstance(value, list) or (isinstance(value, str) and has_expression(value)):
        return value
    raise ValueError("must be a list of values, or an expression that is one")


_Arguments = Annotated[
    Any, AfterValidator(_list_or_expression), WithJsonSchema({"type": ["array", "string"]})
]


_Calls = Annotated[Any, AfterValidator(_list_or_expression), WithJsonSchema({"type": ["array", "string"]})]


class Errback(Config):
    """A task that Celery calls once another has failed for good."""

    task: ConstantText = Field(
        min_length=1, max_length=LONGEST_NAME, description="the name under which it is registered"
    )
    args: _Arguments = Field(default_factory=list, description="positional arguments after those of Celery")
    kwargs: ObjectOrExpression = Field(default_factory=dict, description="keyword arguments by name")
    immutable: StrictBool = Field(False, description="whether it does without the arguments of Celery")


class CeleryTaskConfig(Config):
    """Config of `action/celery-task`."""

    task: ConstantText = Field(
        min_length=1, max_length=LONGEST_NAME, description="the name under which the task is registered"
    )
    args: _Arguments = Field(
        default_factory=list,
        description="its positional arguments, with expressions, or one expression that is a list",
    )
    kwargs: ObjectOrExpression = Field(
        default_factory=dict,
        description="its keyword arguments by name, with expressions, or one expression that is an object",
    )
    calls: _Calls | None = Field(
        None,
        description="a list of `{args, kwargs}`, or one expression that is one: the task runs once for each, "
        "one after the other, after `args` and beside `kwargs`; the output is the list of its values",
    )
    headers: ObjectOrExpression = Field(
        default_factory=dict, description="headers by name, which the task finds in `self.request`"
    )
    soft_time_limit: float | None = Field(
        None,
        gt=0,
        description="seconds after which `SoftTimeLimitExceeded` is raised in it, in place of its own",
    )
    errbacks: list[Errback] = Field(
        default_factory=list, description="tasks that are called, where it ran, once it has failed for good"
    )
    serialize: Literal["json", "kombu"] = Field(
        "json",
        description="`kombu` keeps datetimes, UUIDs, Decimals and bytes, in arguments as in the output",
    )


class CeleryTask:
    """Runs the task that its config names, with the arguments given there."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        from workflow_engine.nodes.action.tasks.runs import run_task
        from workflow_engine.nodes.action.tasks.values import from_kombus_types, with_kombus_types

        args, kwargs = node_data.get("args", []), node_data.get("kwargs", {})
        headers = node_data.get("headers", {})
        for name, value, type_, what in (
            ("args", args, list, "a list"),
            ("kwargs", kwargs, dict, "an object of names and values"),
            ("headers", headers, dict, "an object of names and values"),
        ):
            if not isinstance(value, type_):
                return failure("WRONG_ARGUMENTS", f"{name} must be {what}, not {short_repr(value)}")
        has_kombus_types = node_data.get("serialize") == "kombu"
        errbacks = node_data.get("errbacks", [])
        if has_kombus_types:
            args, kwargs, errbacks = map(from_kombus_types, (args, kwargs, errbacks))
        result = run_task(node_data["task"], args, kwargs, context, headers, errbacks)
        if result.kind != "success":
            return result
        if has_kombus_types:
            return success(with_kombus_types(result.output))
        try:
            return success(normalise(result.output, "output"))
        except InvalidValue as refusal:
            raise InvalidValue(
                refusal.path,
                f"{refusal.message}; with `serialize: kombu` the node keeps datetimes, UUIDs and Decimals",
            ) from None


def _each_call(node_data: Any) -> Sequence[Any] | None:
    """Return the config of each of the calls; None if there is only one. Raises `InvalidValue`."""
    if "calls" not in node_data:
        return None
    calls, common = node_data["calls"], {key: each for key, each in node_data.items() if key != "calls"}
    args, kwargs = common.get("args", []), common.get("kwargs", {})
    if not isinstance(calls, list):
        raise InvalidValue("calls", f"must be a list, not {short_repr(calls)}")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return [common] * len(calls)  # each says what is wrong with them
    divided = []
    for place, call in enumerate(calls):
        given = call if isinstance(call, dict) else {}
        own_args, own_kwargs = given.get("args", []), given.get("kwargs", {})
        if given.keys() - {"args", "kwargs"} or given is not call:
            raise InvalidValue(at("calls", place), f"must be {{args, kwargs}}, not {short_repr(call)}")
        if not isinstance(own_args, list) or not isinstance(own_kwargs, dict):
            raise InvalidValue(at("calls", place), "`args` must be a list, and `kwargs` an object")
        divided.append({**common, "args": [*args, *own_args], "kwargs": {**kwargs, **own_kwargs}})
    return divided


def task_of(node: Node) -> str | None:
    """Return the name of the Celery task that a node runs; None for a node of another type."""
    name = node.config.get("task") if node.kind == KIND else None
    return name if isinstance(name, str) else None


def _limits(config: Mapping[str, Any]) -> TimeLimits:
    from workflow_engine.nodes.action.tasks.runs import limits_of

    limits = limits_of(config["task"])
    soft = config.get("softTimeLimit")
    return limits if soft is None else replace(limits, soft=soft)


NODE_TYPE = NodeType(
    "action",
    "celery-task",
    CeleryTask(),
    CeleryTaskConfig,
    limits=_limits,
    divide=_each_call,
    description="Runs a registered Celery task, unchanged.",
)
