"""A canvas as a workflow: its shape is the definition, its arguments are the data of the start.

So a million starts of one shape are one version, and a message is as short as that of any node. The id is a
name that the caller gives, or the hash of the shape.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from pydantic.alias_generators import to_camel

from workflow_engine.canvas.signatures import Call, Canvas, Gathered, Line, Mapped, Together
from workflow_engine.definition.builder import WorkflowBuilder
from workflow_engine.definition.built_nodes import BuiltNode
from workflow_engine.definition.workflow import Workflow
from workflow_engine.errors import DefinitionInvalid, Problem

MOST_BRANCHES = 200
"""Members of a group that become branches; more become the children of a loop."""

MOST_AT_ONCE = 16
"""Nodes of a canvas that run at the same time, unless the caller says otherwise."""

START = "start"


@dataclass(frozen=True)
class Shape:
    """A canvas as a workflow, and the data to start it with."""

    workflow: Workflow
    data: dict[str, Any]


def shape_of(canvas: Canvas, name: str | None = None, concurrency: int | None = None) -> Shape:
    """Return the shape of a canvas. Raises `DefinitionInvalid` for one that cannot be a workflow."""
    width = concurrency or min(_width(canvas), MOST_AT_ONCE)
    settings = {"concurrency": width} if width > 1 else None
    drawing = _Drawing(WorkflowBuilder(name or "canvas", settings=settings), concurrency or MOST_AT_ONCE)
    workflow = drawing.draw(canvas)
    if name is None:
        content = {key: value for key, value in workflow.to_dict().items() if key != "id"}
        hashed = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
        workflow = workflow.model_copy(update={"id": f"canvas-{hashed[:16]}"})
    return Shape(workflow, drawing.data)


def _width(canvas: Canvas) -> int:
    """Return how many tasks of a canvas may run at the same time."""
    match canvas:
        case Line(steps):
            return max(map(_width, steps), default=1)
        case Together(members):
            return 1 if _is_loop(canvas) else max(1, sum(map(_width, members)))
        case Gathered(header, body):
            return max(_width(header), _width(body))
    return 1


def _is_loop(group: Together) -> bool:
    return len(group.members) > MOST_BRANCHES


@dataclass(frozen=True)
class _Value:
    """What a step hands on: an expression, and the nodes after which it can be read."""

    expression: str | None
    after: tuple[str, ...]


class _Drawing:
    """Draws the nodes of a canvas, and gathers its arguments on the way."""

    def __init__(self, flow: WorkflowBuilder, at_once: int) -> None:
        self._flow = flow
        self._at_once = at_once
        """How many of the calls of a loop run at the same time."""
        self._nodes: dict[str, BuiltNode] = {START: flow.trigger(START)}
        self._calls: list[dict[str, Any]] = []
        self._items: list[list[Any]] = []
        self._aside: list[str] = []
        """The last nodes of links, whose values are not part of the result."""

    @property
    def data(self) -> dict[str, Any]:
        return {"calls": self._calls, **({"items": self._items} if self._items else {})}

    def draw(self, canvas: Canvas) -> Workflow:
        value = self._draw(canvas, _Value(None, (START,)), (), ())
        expression = value.expression or "none"
        if self._aside:
            ends = [self._nodes[end] for end in dict.fromkeys([*value.after, *self._aside])]
            ends >> self._flow.merge("result", output=f"{{{{ {expression} }}}}")
        elif (expression,) != value.after:
            [self._nodes[end] for end in value.after] >> self._flow.function(
                "result", f"{{{{ {expression} }}}}"
            )
        return self._flow.build()

    def _draw(
        self, canvas: Canvas, before: _Value, links: Sequence[Canvas], errbacks: Sequence[Call]
    ) -> _Value:
        """Draw a canvas behind a value, with the links and errbacks of those around it."""
        errbacks = (*canvas.errbacks, *errbacks)
        match canvas:
            case Call():
                return self._call(canvas, before, (*canvas.links, *links), errbacks)
            case Line():
                return self._line(canvas, before, (*canvas.links, *links), errbacks)
            case Together():
                return self._group(canvas, before, errbacks)
            case Gathered(header, body):
                # A member that fails is the failure of the body.
                gathered = self._group(header, before, (*body.errbacks, *errbacks))
                return self._draw(body, gathered, (*canvas.links, *links), errbacks)
            case Mapped():
                return self._mapped(canvas, before, (*canvas.links, *links), errbacks)

    def _line(self, line: Line, before: _Value, links: Sequence[Canvas], errbacks: Sequence[Call]) -> _Value:
        steps = [unrolled for step in line.steps if (unrolled := _unrolled(step)) is not None]
        if not steps:
            # Celery keeps one empty group of a chain that has nothing else.
            return _Value("[]" if line.steps else "none", before.after)
        for step in steps[:-1]:
            before = self._draw(step, before, (), errbacks)
        return self._draw(steps[-1], before, links, errbacks)

    def _group(self, group: Together, before: _Value, errbacks: Sequence[Call]) -> _Value:
        errbacks = (*group.errbacks, *errbacks)
        if _is_loop(group):
            return self._loop_of_members(group, before, errbacks)
        values = [self._draw(member, before, (), errbacks) for member in group.members]
        listed = f"[{', '.join(value.expression or 'none' for value in values)}]"
        ends = [end for value in values if value.after != before.after for end in value.after]
        if len(ends) < 2:
            return _Value(listed, tuple(ends) or before.after)
        merge = self._flow.merge(self._id("gathered"), output=f"{{{{ {listed} }}}}")
        [self._nodes[end] for end in ends] >> merge
        return self._done(merge)

    def _call(self, call: Call, before: _Value, links: Sequence[Canvas], errbacks: Sequence[Call]) -> _Value:
        where = self._add(call)
        options = call.options
        after = [self._nodes[end] for end in before.after]
        if options.eta is not None or options.countdown is not None:
            after = [self._delayed(call, where, after)]
        args = f"{where}.args"
        if before.expression is not None and not call.is_immutable:
            args = f"[{before.expression}] + {args}"
        config = self._config(call, f"{{{{ {args} }}}}", f"{{{{ {where}.kwargs }}}}", errbacks)
        if options.headers:
            config["headers"] = f"{{{{ {where}.headers }}}}"
        node = self._flow.node(self._id(call.task), "action/celery-task", config, **options.node)
        after >> node
        value = self._done(node)
        for link in links:
            self._aside.extend(self._draw(link, value, (), ()).after)
        return value

    def _delayed(self, call: Call, where: str, after: Sequence[BuiltNode]) -> BuiltNode:
        name = self._id(f"{call.task}_due")
        if call.options.eta is not None:
            delay = self._flow.delay(name, until=f"{{{{ {where}.eta }}}}")
        else:
            delay = self._flow.delay(name, duration=call.options.countdown, unit="seconds")
        after >> delay
        self._nodes[name] = delay
        return delay

    def _loop_of_members(self, group: Together, before: _Value, errbacks: Sequence[Call]) -> _Value:
        """Draw a large group of one task as a loop over its arguments."""
        first = group.members[0]
        for index, member in enumerate(group.members):
            if not isinstance(member, Call) or not isinstance(first, Call) or _kind(member) != _kind(first):
                raise DefinitionInvalid(
                    [
                        Problem(
                            f"{group.path}[{index}]",
                            f"differs from the first of {len(group.members):,} members; a group of more than "
                            f"{MOST_BRANCHES} has one task with one set of options, without links and delays",
                        )
                    ],
                    self._flow.id,
                )
        calls = [member for member in group.members if isinstance(member, Call)]
        self._items.append([{"args": list(each.args), "kwargs": dict(each.kwargs)} for each in calls])
        errbacks = (*calls[0].errbacks, *errbacks)
        takes_value = before.expression is not None and not calls[0].is_immutable
        args = f"{{{{ [{before.expression}] }}}}" if takes_value else None
        return self._loop(calls[0], self._config(calls[0], args, None, errbacks), before)

    def _mapped(
        self, mapped: Mapped, before: _Value, links: Sequence[Canvas], errbacks: Sequence[Call]
    ) -> _Value:
        calls, part = [{"args": list(each)} for each in mapped.items], mapped.part
        self._items.append(
            calls if part is None else [calls[at : at + part] for at in range(0, len(calls), part)]
        )
        config = self._config(mapped.call, None, None, errbacks)
        value = self._loop(mapped.call, config, before, has_parts=part is not None)
        for link in links:
            self._aside.extend(self._draw(link, value, (), ()).after)
        return value

    def _loop(self, call: Call, config: dict[str, Any], before: _Value, *, has_parts: bool = False) -> _Value:
        """Draw a loop over calls of one task, or over the parts of a list of calls."""
        node = {
            "id": "task",
            "type": "action",
            "subType": "celery-task",
            "config": {**config, "calls": "{{ item }}"},
            **{to_camel(key): each for key, each in call.options.node.items()},
        }
        loop = self._flow.loop(
            self._id(call.task),
            f"{{{{ {START}['items'][{len(self._items) - 1}] }}}}",
            body={"nodes": [node], "edges": []},
            config={"concurrency": self._at_once, **({} if has_parts else {"batch": "auto"})},
        )
        [self._nodes[end] for end in before.after] >> loop
        return self._done(loop)

    def _config(
        self, call: Call, args: str | None, kwargs: str | None, errbacks: Sequence[Call]
    ) -> dict[str, Any]:
        config: dict[str, Any] = {"task": call.task, "serialize": "kombu"}
        if args is not None:
            config["args"] = args
        if kwargs is not None:
            config["kwargs"] = kwargs
        if call.options.soft_time_limit is not None:
            config["softTimeLimit"] = call.options.soft_time_limit
        if errbacks:
            config["errbacks"] = [self._errback(each) for each in errbacks]
        return config

    def _errback(self, call: Call) -> dict[str, Any]:
        where = self._add(call)
        return {
            "task": call.task,
            "args": f"{{{{ {where}.args }}}}",
            "kwargs": f"{{{{ {where}.kwargs }}}}",
            "immutable": call.is_immutable,
        }

    def _add(self, call: Call) -> str:
        """Keep the arguments of a call, and return the expression that finds them."""
        given: dict[str, Any] = {"args": list(call.args), "kwargs": dict(call.kwargs)}
        if call.options.headers:
            given["headers"] = dict(call.options.headers)
        if call.options.eta is not None:
            given["eta"] = call.options.eta
        self._calls.append(given)
        return f"{START}.calls[{len(self._calls) - 1}]"

    def _done(self, node: BuiltNode) -> _Value:
        self._nodes[node.id] = node
        return _Value(node.id, (node.id,))

    def _id(self, task: str) -> str:
        """Return an id for a node, which expressions can read by its name."""
        last = re.sub(r"\W", "_", task.rpartition(".")[2], flags=re.ASCII).strip("_")[:60]
        return f"{last if last[:1].isalpha() else f'task_{last}'}_{len(self._nodes)}"


def _unrolled(step: Canvas) -> Canvas | None:
    """Return a step of a chain as Celery runs it.

    A group of one is its member, and an empty group is none.
    """
    if not isinstance(step, Together):
        return step
    if len(step.members) == 1:
        member = step.members[0]
        return replace(member, errbacks=(*member.errbacks, *step.errbacks))
    return step if step.members else None


def _kind(call: Call) -> tuple[Any, ...]:
    """Return what the calls of a loop have in common; None in it for what no loop can have."""
    options = call.options
    is_plain = not (call.links or options.countdown or options.eta or options.headers)
    return (
        call.task,
        call.is_immutable,
        [(each.task, each.args, each.kwargs, each.is_immutable) for each in call.errbacks],
        options.soft_time_limit,
        orjson.dumps(dict(options.node), option=orjson.OPT_SORT_KEYS),
        is_plain or call.path,
    )
