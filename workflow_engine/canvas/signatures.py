"""Reads a signature into a tree of calls, lines, groups and chords; reports all that cannot be durable.

A signature of Celery is a dict, also one that came as JSON. So nothing here needs the code of a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workflow_engine.canvas.options import Options, read_options
from workflow_engine.errors import DefinitionInvalid, InvalidValue, Problem
from workflow_engine.nodes.action.tasks.values import with_kombus_types
from workflow_engine.paths import at

DEEPEST = 50
"""Canvases inside one another."""


@dataclass(frozen=True)
class Call:
    """One task with its arguments."""

    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    is_immutable: bool = False
    """Whether it does without the value before it."""
    options: Options = field(default_factory=Options)
    links: tuple[Canvas, ...] = ()
    errbacks: tuple[Call, ...] = ()
    path: str = ""


@dataclass(frozen=True)
class Line:
    """Canvases one after the other."""

    steps: tuple[Canvas, ...]
    links: tuple[Canvas, ...] = ()
    errbacks: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Together:
    """Canvases at the same time, whose value is the list of theirs."""

    members: tuple[Canvas, ...]
    errbacks: tuple[Call, ...] = ()
    path: str = ""


@dataclass(frozen=True)
class Gathered:
    """A group, and what is called with its values."""

    header: Together
    body: Canvas
    links: tuple[Canvas, ...] = ()
    errbacks: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Mapped:
    """One task over the items of a list, as `map`, `starmap` and `chunks` do."""

    call: Call
    items: tuple[Sequence[Any], ...]
    """The positional arguments of each call."""
    part: int | None = None
    """How many values stand in one part of the result, for `chunks`."""
    links: tuple[Canvas, ...] = ()
    errbacks: tuple[Call, ...] = ()


Canvas = Call | Line | Together | Gathered | Mapped


def read_canvas(signature: Mapping[str, Any]) -> Canvas:
    """Return a signature as a tree. Raises `DefinitionInvalid` with every problem and its path."""
    reader = _Reader()
    found = reader.read(signature, _name(signature), {})
    if reader.problems:
        raise DefinitionInvalid(reader.problems, "canvas")
    return found


class _Reader:
    """Reads signatures, and collects the problems on the way."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._depth = 0

    def read(self, signature: Any, path: str, outer: Mapping[str, Any]) -> Canvas:
        """Return a signature as a tree; `outer` are options of a group around it, which override its own."""
        if not isinstance(signature, Mapping) or not isinstance(signature.get("task"), str):
            self._refuse(path, f"is {type(signature).__name__}, not the signature of a task")
            return Line(())
        if self._depth >= DEEPEST:
            self._refuse(path, f"is nested deeper than {DEEPEST} canvases")
            return Line(())
        self._depth += 1
        try:
            return self._read(signature, path, outer)
        finally:
            self._depth -= 1

    def _read(self, signature: Mapping[str, Any], path: str, outer: Mapping[str, Any]) -> Canvas:
        options, kwargs = {**(signature.get("options") or {}), **outer}, signature.get("kwargs") or {}
        links, errbacks = self._links(options, path), self._errbacks(options, path)
        passed = {key: value for key, value in options.items() if key not in ("link", "link_error")}
        match signature["task"]:
            case "celery.chain":
                return Line(self._steps(kwargs.get("tasks"), path, passed), links, errbacks)
            case "celery.group":
                if links:
                    self._refuse(at(path, "options", "link"), "a group has no single end; use a chord")
                return replace(self._group(kwargs.get("tasks"), path, passed), errbacks=errbacks)
            case "celery.chord":
                return self._chord(kwargs, path, passed, links, errbacks)
            case "celery.map" | "celery.starmap" | "celery.chunks" as kind:
                return self._mapped(kind, kwargs, path, passed, links, errbacks)
        return self._call(signature, path, options, links, errbacks)

    def _call(
        self,
        signature: Mapping[str, Any],
        path: str,
        options: Mapping[str, Any],
        links: tuple[Canvas, ...] = (),
        errbacks: tuple[Call, ...] = (),
    ) -> Call:
        return Call(
            signature["task"],
            self._json(list(signature.get("args") or ()), at(path, "args")),
            self._json(dict(signature.get("kwargs") or {}), at(path, "kwargs")),
            bool(signature.get("immutable")),
            self._options(options, path),
            links,
            errbacks,
            path,
        )

    def _options(self, options: Mapping[str, Any], path: str) -> Options:
        where = at(path, "options")
        read = read_options(options, lambda name, why: self._refuse(at(where, name), why))
        return replace(read, headers=self._json(dict(read.headers), at(where, "headers")))

    def _steps(self, tasks: Any, path: str, options: Mapping[str, Any]) -> tuple[Canvas, ...]:
        steps = self._several(tasks, path)
        # As in Celery, what is set on a chain holds for its first task only.
        return tuple(
            self.read(step, at(path, index), {} if index else options) for index, step in enumerate(steps)
        )

    def _group(self, tasks: Any, path: str, options: Mapping[str, Any]) -> Together:
        if isinstance(tasks, Mapping):
            found = tasks.get("kwargs", {}).get("tasks") if tasks.get("task") == "celery.group" else [tasks]
            options = {**(tasks.get("options") or {}), **options} if found is not tasks else options
            tasks = found
        members: list[Canvas] = []
        for index, member in enumerate(self._several(tasks, path)):
            read = self.read(member, at(path, index), options)
            # As in Celery, a group in a group is no list of its own.
            members += _with_errbacks(read) if isinstance(read, Together) else [read]
        return Together(tuple(members), path=path)

    def _chord(
        self,
        kwargs: Mapping[str, Any],
        path: str,
        options: Mapping[str, Any],
        links: tuple[Canvas, ...],
        errbacks: tuple[Call, ...],
    ) -> Canvas:
        at_once = {key: value for key, value in options.items() if key not in ("countdown", "eta")}
        header = self._group(kwargs.get("header"), at(path, "header"), options)
        if kwargs.get("body") is None:
            self._refuse(at(path, "body"), "is missing; a chord without one is a group")
            return header
        return Gathered(header, self.read(kwargs["body"], at(path, "body"), at_once), links, errbacks)

    def _mapped(
        self,
        kind: str,
        kwargs: Mapping[str, Any],
        path: str,
        options: Mapping[str, Any],
        links: tuple[Canvas, ...],
        errbacks: tuple[Call, ...],
    ) -> Canvas:
        task = kwargs.get("task")
        task = {"task": task} if isinstance(task, str) else task
        if not isinstance(task, Mapping) or not isinstance(task.get("task"), str):
            self._refuse(at(path, "task"), "is not the signature of a task")
            return Line(())
        # Celery calls the task itself with each item: what else the signature holds has no effect.
        call = replace(self._call({"task": task["task"]}, at(path, "task"), options), is_immutable=True)
        items = self._json(
            [list(each) if kind != "celery.map" else each for each in kwargs["it"]], at(path, "it")
        )
        arguments = tuple([each] if kind == "celery.map" else each for each in items)
        part = int(kwargs["n"]) if kind == "celery.chunks" else None
        return Mapped(call, arguments, part, links, errbacks)

    def _several(self, tasks: Any, path: str) -> list[Any]:
        if isinstance(tasks, Iterable) and not isinstance(tasks, str | Mapping):
            return list(tasks)
        self._refuse(path, f"has {type(tasks).__name__} in place of a list of signatures")
        return []

    def _links(self, options: Mapping[str, Any], path: str) -> tuple[Canvas, ...]:
        where = at(path, "options", "link")
        return tuple(
            self.read(link, at(where, index), {}) for index, link in enumerate(_listed(options.get("link")))
        )

    def _errbacks(self, options: Mapping[str, Any], path: str) -> tuple[Call, ...]:
        where = at(path, "options", "link_error")
        found = []
        for index, link in enumerate(_listed(options.get("link_error"))):
            call = self.read(link, at(where, index), {})
            if isinstance(call, Call):
                found.append(call)
            else:
                self._refuse(at(where, index), "must be one task, which is called when the other has failed")
        return tuple(found)

    def _json(self, value: Any, path: str) -> Any:
        try:
            return with_kombus_types(value)
        except InvalidValue as refusal:
            self._refuse(path, refusal.message)
            return value

    def _refuse(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))


def _with_errbacks(group: Together) -> list[Canvas]:
    """Return the members of a group, each with the errbacks of the group."""
    return [replace(member, errbacks=(*member.errbacks, *group.errbacks)) for member in group.members]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _name(signature: Any) -> str:
    """Return how paths begin: with the kind of the canvas, or the task."""
    task = signature.get("task") if isinstance(signature, Mapping) else None
    return str(task).removeprefix("celery.") if task else "canvas"
