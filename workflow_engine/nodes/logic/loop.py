"""`logic/loop`: runs a body or a workflow for each item of a list, or again and again until it is done.

Each run is a child execution. Over items, up to `concurrency` of them run at a time. With `while` or `until`
one follows the other, sees the output of the one before, and may wait in between: as a row, without a worker.
It is the same row for all of them: however many there are, the journal of the loop's execution gets two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from workflow_engine.definition.body import Body
from workflow_engine.definition.problems import short_repr
from workflow_engine.errors import ExpressionError
from workflow_engine.execution.children import SHOWN_FAILURES, ChildResult, EndedChildren
from workflow_engine.execution.context import ExecutionContext, Wake
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.expressions import Scope, compile_template
from workflow_engine.nodes.children import Children
from workflow_engine.nodes.config_fields import (
    Amount,
    ConstantText,
    can_be_boolean,
    has_expression,
    readable_later,
    require_expression,
    seconds_of,
)
from workflow_engine.nodes.contract import Config, NodeType
from workflow_engine.nodes.logic.delay import SECONDS_PER_UNIT
from workflow_engine.nodes.logic.sub_workflow import (
    check_what_runs,
    child_failure,
    took_too_long,
    workflow_id,
)
from workflow_engine.nodes.results import NodeExecutionResult, failure, success, waiting

MOST_ITEMS = 1_000_000
"""Items that a loop may allow; a setting of the workers limits all loops."""

MOST_ITERATIONS = 1_000
"""Iterations of a loop that does not say otherwise."""

MOST_AT_A_TIME = 1_000

PERCENT = re.compile(r"(\d{1,2}|100)%")

Unit = Literal["milliseconds", "seconds", "minutes", "hours", "days", "weeks"]

OVER_ITEMS = ("itemVariable", "indexVariable", "concurrency", "batch", "tolerate", "collect", "maxItems")
AUTO = "auto"
"""The `batch` of a loop that finds out itself how many items a child gets."""

REPEATED = ("maxIterations", "onMaxIterations", "wait", "backoff", "data")


def _name(name: str) -> str:
    if not name.isidentifier() or name.startswith("_"):
        raise ValueError(f"{name!r:.60} cannot be read by name in expressions; use letters, digits and _")
    return name


def _tolerance(value: Any) -> Any:
    if isinstance(value, str) and PERCENT.fullmatch(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"must be a number of items, or a percentage such as '5%', not {short_repr(value)}")
    return value


def _list_or_expression(value: Any) -> Any:
    return value if isinstance(value, list) else require_expression(value)


class Pause(Config):
    """A fixed wait between two iterations."""

    duration: Amount = Field(description="how long, in `unit`")
    unit: Unit = Field(description="unit of `duration`")


class Backoff(Config):
    """A wait between two iterations that grows."""

    duration: Amount = Field(description="the first wait, in `unit`")
    unit: Unit = Field(description="unit of `duration` and `max`")
    multiplier: float = Field(
        2.0, ge=1, le=100, description="how many times longer each wait is than the last"
    )
    max: Amount = Field(None, description="the longest wait, in `unit`")


class LoopConfig(Config):
    """Config of `logic/loop`."""

    items: Annotated[Any, AfterValidator(_list_or_expression)] = Field(
        None, description="the list to go through: an expression, or a list"
    )
    item_variable: Annotated[ConstantText, AfterValidator(_name)] = Field(
        "item", description="the name by which the body reads its item"
    )
    index_variable: Annotated[ConstantText, AfterValidator(_name)] = Field(
        "index", description="the name by which the body reads the item's position, from 0"
    )
    concurrency: int = Field(1, ge=1, le=MOST_AT_A_TIME, description="children that run at a time")
    batch: Annotated[int, Field(ge=1, le=MOST_ITEMS)] | Literal["auto"] | None = Field(
        None,
        description="items of one child, which gets them as a list; `auto`: as many as take a fraction of a "
        "second; left out: one",
    )
    tolerate: Annotated[Any, AfterValidator(_tolerance)] = Field(
        0, description="how many children may fail, as a number or a percentage"
    )
    collect: Literal["results", "failures", "none"] = Field(
        "results", description="the output: the results by item, or only counts, with or without the failures"
    )
    max_items: int | None = Field(
        None,
        ge=1,
        le=MOST_ITEMS,
        description="more items than that fail the node; left out: the workers' limit",
    )
    while_: Annotated[str, AfterValidator(can_be_boolean)] | None = Field(
        None,
        alias="while",
        description="another iteration follows as long as this is true; also before the first",
    )
    until: Annotated[str, AfterValidator(can_be_boolean)] | None = Field(
        None, description="iterations end once this is true; looked at after each of them"
    )
    max_iterations: int = Field(MOST_ITERATIONS, ge=1, le=1_000_000, description="iterations at most")
    on_max_iterations: Literal["continue", "fail"] = Field(
        "continue", description="whether the node fails if the iterations ended for their number"
    )
    wait: Pause | None = Field(None, description="the wait between two iterations")
    backoff: Backoff | None = Field(None, description="in place of `wait`: one that grows")
    body: Body | None = Field(None, description="the nodes and edges of one child")
    workflow: str | None = Field(None, min_length=1, description="in place of a body: the id of a workflow")
    version: int | None = Field(None, ge=1, description="its version; left out: the one that is current")
    trigger: ConstantText | None = Field(None, description="the trigger to start at, if it has several")
    data: Annotated[Any, AfterValidator(readable_later)] = Field(
        None,
        description="with `while` or `until`: what each child is started with; over items it is the item",
    )
    variables: dict[str, Any] | None = Field(None, description="variables that add to and override its own")

    @model_validator(mode="after")
    def _has_one_form(self) -> LoopConfig:
        given = self.model_dump(by_alias=True, exclude_unset=True)
        forms = [key for key in ("items", "while", "until") if key in given]
        if len(forms) != 1:
            raise ValueError(
                "give one of these: `items` to go through, or `while` or `until` for repetitions"
            )
        others = REPEATED if forms == ["items"] else OVER_ITEMS
        if wrong := [key for key in others if key in given]:
            raise ValueError(f"`{wrong[0]}` has no meaning with `{forms[0]}`; remove it")
        if self.batch == AUTO and self.tolerate not in (0, "0%"):
            raise ValueError(
                "`tolerate` counts children, whose number is not known with `batch: auto`; give a number"
            )
        if self.wait is not None and self.backoff is not None:
            raise ValueError("give either `wait` or `backoff`")
        check_what_runs(self, self.body, self.workflow)
        if self.item_variable == self.index_variable:
            raise ValueError(
                f"`itemVariable` and `indexVariable` are both {self.item_variable!r}; rename one"
            )
        return self


class Loop:
    """Starts the children of a loop, and makes its output of their results."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        try:
            if "items" in node_data:
                return _over_items(node_data)
            return _next_iteration(node_data, context, 0, None)
        except ValueError as error:
            return failure("INVALID_LOOP", str(error))
        except ExpressionError as error:
            return failure(type(error).__name__, str(error))

    def resume(
        self, node_id: str, node_data: Any, context: ExecutionContext, wake: Wake
    ) -> NodeExecutionResult:
        if wake.children is None or wake.reason == "timeout":
            return took_too_long(wake)
        if "items" in node_data:
            return _collected(node_data, wake.children)
        (child,) = wake.children.results()
        if child.status is not ExecutionStatus.COMPLETED:
            return child_failure(child)
        try:
            return _next_iteration(node_data, context, child.index + 1, child.output)
        except ValueError as error:
            return failure("INVALID_LOOP", str(error))
        except ExpressionError as error:
            return failure(type(error).__name__, str(error))


# -- over items ------------------------------------------------------------------------------------------


def _over_items(node_data: Mapping[str, Any]) -> NodeExecutionResult:
    items = node_data["items"]
    if not isinstance(items, list):
        raise ValueError(f"items: must be a list, but is {short_repr(items)}")
    most = node_data.get("maxItems")
    if most is not None and len(items) > most:
        raise ValueError(
            f"items: {len(items):,} are more than `maxItems`, {most:,}; split them, or batch them"
        )
    children = Children(
        workflow=workflow_id(node_data),
        version=node_data.get("version"),
        trigger=node_data.get("trigger"),
        variables=node_data.get("variables") or {},
        items=items,
        item_variable=node_data.get("itemVariable", "item"),
        index_variable=node_data.get("indexVariable", "index"),
        batch=None if node_data.get("batch") == AUTO else node_data.get("batch"),
        adapts=node_data.get("batch") == AUTO,
        concurrency=node_data.get("concurrency", 1),
    )
    if not items:
        return success(_output(node_data, children.count, 0, ()))
    tolerated = _tolerated(node_data.get("tolerate", 0), children.count)
    return waiting(children=replace(children, tolerated=tolerated))


def _tolerated(given: int | str, count: int) -> int:
    """Return how many of the children may fail: a percentage is rounded down."""
    return given if isinstance(given, int) else count * int(given.removesuffix("%")) // 100


def _collected(node_data: Mapping[str, Any], ended: EndedChildren) -> NodeExecutionResult:
    if ended.failed > ended.tolerated:
        failures = [{"index": each.index, **each.failure} for each in ended.failures()]
        first = failures[0] if failures else {"executionId": "?", "message": "?"}
        tolerated = f", more than the {ended.tolerated} tolerated" if ended.tolerated else ""
        message = (
            f"{ended.failed} of its {ended.total} children have failed{tolerated}; the first one, execution "
            f"{first['executionId']}: {first['message']}"
        )
        counts = {"total": ended.total, "completed": ended.completed, "failed": ended.failed}
        return failure("CHILD_FAILED", message, {**counts, "failures": failures})
    collect = node_data.get("collect", "results")
    if collect == "results":
        return success(_results(node_data, ended))
    failures_read = ended.failures() if collect == "failures" and ended.failed else ()
    return success(_output(node_data, ended.total, ended.failed, failures_read))


def _results(node_data: Mapping[str, Any], ended: EndedChildren) -> list[Any]:
    """Return one value for each item: of a batch, whose result is a list of its own, that many."""
    size, items = node_data.get("batch"), len(node_data["items"])
    values: list[Any] = []
    results = ended.results()
    # Their indexes are those of their first items, if how many they got was found out on the way.
    begins = [child.index if size == AUTO else child.index * (size or 1) for child in results]
    for child, begin, end in zip(results, begins, [*begins[1:], items], strict=True):
        is_completed = child.status is ExecutionStatus.COMPLETED
        value = child.output if is_completed else {"error": child.failure}
        if size is None:
            values.append(value)
            continue
        expected = end - begin if size == AUTO else min(size, items - begin)
        is_list = is_completed and isinstance(value, list) and len(value) == expected
        values.extend(value if is_list else [value] * expected)
    return values


def _output(node_data: Mapping[str, Any], total: int, failed: int, failures: Sequence[ChildResult]) -> Any:
    collect = node_data.get("collect", "results")
    if collect == "results":
        return []
    output: dict[str, Any] = {"total": total, "completed": total - failed, "failed": failed}
    if collect == "failures":
        output["failures"] = [{"index": each.index, **each.failure} for each in failures[:SHOWN_FAILURES]]
    return output


# -- repeated --------------------------------------------------------------------------------------------


def _next_iteration(
    node_data: Mapping[str, Any], context: ExecutionContext, index: int, previous: Any
) -> NodeExecutionResult:
    """Begin iteration `index`, from 0, or end the loop; `previous` is the output of the one before."""
    names: dict[str, Any] = {"_index": index, **({"_previous": previous} if index else {})}
    if "while" in node_data and not _decided(node_data, "while", context, names):
        return _ended_by("while", index, previous)
    if "until" in node_data and index and _decided(node_data, "until", context, names):
        return _ended_by("until", index, previous)
    most = node_data.get("maxIterations", MOST_ITERATIONS)
    if index >= most:
        if node_data.get("onMaxIterations") == "fail":
            return failure("MAX_ITERATIONS", f"it was not done after {most} iterations", {"last": previous})
        return _ended_by("maxIterations", index, previous)
    return waiting(
        children=Children(
            workflow=workflow_id(node_data),
            version=node_data.get("version"),
            trigger=node_data.get("trigger"),
            data=_evaluate(node_data.get("data", {}), context, names),
            variables=node_data.get("variables") or {},
            index=index,
            previous=previous,
            starts_in=_wait(node_data, context, names) if index else None,
        )
    )


def _decided(
    node_data: Mapping[str, Any], key: str, context: ExecutionContext, names: Mapping[str, Any]
) -> bool:
    verdict = _evaluate(node_data[key], context, names)
    if not isinstance(verdict, bool):
        raise ValueError(f"{key}: must be true or false, but is {short_repr(verdict)}")
    return verdict


def _wait(node_data: Mapping[str, Any], context: ExecutionContext, names: Mapping[str, Any]) -> float | None:
    """Return the seconds before iteration `_index`; None if it follows at once."""
    given = _evaluate(node_data.get("wait") or node_data.get("backoff"), context, names)
    if given is None:
        return None
    unit = SECONDS_PER_UNIT[given["unit"]]
    seconds = seconds_of(given["duration"], "duration", unit)
    if node_data.get("backoff") is not None:
        longest = seconds_of(given["max"], "max", unit) if given.get("max") is not None else 86_400.0 * 365
        doublings = min(names["_index"] - 1, 1_000)
        try:
            seconds = min(seconds * float(given.get("multiplier", 2.0)) ** doublings, longest)
        except OverflowError:
            seconds = longest
    return seconds if seconds > 0 else None


def _ended_by(what: str, iterations: int, last: Any) -> NodeExecutionResult:
    return success({"endedBy": what, "iterations": iterations, "result": last})


def _evaluate(value: Any, context: ExecutionContext, names: Mapping[str, Any]) -> Any:
    """Evaluate a part of the config that is evaluated again for each iteration."""
    if not has_expression(value):
        return value
    scope = Scope(
        variables=context.variables,
        node_outputs=context.node_outputs,
        trigger_node_id=context.trigger_node_id,
        metadata=context.metadata,
        iteration=names,
    )
    return compile_template(value).evaluate(scope)


NODE_TYPE = NodeType(
    "logic",
    "loop",
    Loop(),
    LoopConfig,
    verbatim=frozenset(
        {
            "body",
            "trigger",
            "version",
            "itemVariable",
            "indexVariable",
            "while",
            "until",
            "wait",
            "backoff",
            "data",
        }
    ),
    unrecorded=frozenset({"body"}),
    description="Runs a body or a workflow for each item, or until it is done; holds no worker.",
)
