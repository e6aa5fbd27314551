"""Expressions `{{ … }}` in the values of a node's config.

A value is compiled once, with its definition, and evaluated each time the node runs. Evaluation builds
fresh objects and lists throughout, constant ones too. User code gets the result, and its changes must not
reach the compiled definition or the outputs of other nodes.

    {{ charge.items[0].id }}                      a path: a dot or brackets, on objects always the key
    {{ user.name | default('friend') }}           undefined until it is used, so this works without `user`
    {{ orders | selectattr('paid') | map(attribute='total') | sum }}
    Order {{ order.id }} of {{ now() }}           inside text; other values than strings stand as JSON
    {{ '{{' }} and {{ '{%' }}                     literal braces, which would be read as syntax
    {{- order.id -}}                              a `-` at the braces strips the white space beyond them

Names are variables and node ids, and `_vars`, `_nodeOutputs`, `_trigger`, `_metadata`, `_secrets`; in a loop
also `_index` and `_previous`. Filters, tests, functions and the few methods of text are listed at the end of
`filters`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from workflow_engine.errors import ExpressionError, Problem
from workflow_engine.expressions.sandbox import Evaluation, RefusedError, Scope, join_path
from workflow_engine.expressions.syntax import MAX_SOURCE, Expression, compile_source

_Build = Callable[[Evaluation], Any]


class Template:
    """A compiled value: any JSON value whose strings may contain expressions."""

    __slots__ = ("_build", "is_constant", "is_repeatable", "names", "node_outputs", "secrets", "unguarded")

    names: frozenset[str]
    """The names at the start of a path: `charge` in `charge.items[0]`."""
    node_outputs: frozenset[str]
    """The node ids read as `_nodeOutputs.x` or `_nodeOutputs['x']`; computed ones are not known here."""
    unguarded: frozenset[str]
    """Of both, those that an expression reads without a default and without testing that they are defined."""
    secrets: frozenset[str]
    """The names read as `_secrets.NAME`."""
    is_constant: bool
    """True if there is no expression in the value."""
    is_repeatable: bool
    """From the same values it makes the same result every time, by no clock and at no random."""

    def __init__(self, build: _Build, expressions: Iterable[Expression]) -> None:
        found = tuple(expressions)
        self._build = build
        self.names = frozenset().union(*(expression.names for expression in found))
        self.node_outputs = frozenset().union(*(expression.node_outputs for expression in found))
        self.unguarded = frozenset().union(*(expression.unguarded for expression in found))
        self.secrets = frozenset().union(*(expression.secrets for expression in found))
        self.is_constant = not found
        self.is_repeatable = all(expression.is_repeatable for expression in found)

    def evaluate(self, scope: Scope) -> Any:
        """Return the value with its expressions evaluated: fresh plain JSON.

        Raises ExpressionError for the first expression that cannot be evaluated. Errors of
        `scope.node_outputs` and of the provider of secrets, KeyError apart, pass through.
        """
        return self._build(Evaluation(scope))


def compile_template(value: Any) -> Template:
    """Compile a JSON value. Raises ExpressionError for the first string that does not compile."""
    found: list[Expression] = []
    return Template(_build(value, found), found)


def whole_expression(text: str) -> str | None:
    """Return the source of the expression that a text consists of; None if it is anything else."""
    try:
        parts = _split(text)
    except ExpressionError:
        return None
    match parts:
        case [Expression() as whole]:
            return whole.source
    return None


def rewrite_expressions(text: str, change: Callable[[str, str], str]) -> str:
    """Return a text that compiles with each of its expressions replaced by what `change` returns.

    `change` gets all that stands before the expression, as it was written, and the source between the braces.
    """
    rewritten, position = "", 0
    while (opening := _OPENING.search(text, position)) is not None:
        end = _end_of_expression(text, opening.end())
        closing = end - (text[end - 1] == "-" and end > opening.end())
        source = change(text[: opening.start()], text[opening.end() : closing].strip())
        rewritten += f"{text[position : opening.end()]} {source} {text[closing : end + 2]}"
        position = end + 2
    return rewritten + text[position:]


def check_template(value: Any) -> list[Problem]:
    """Return a problem, with a path such as `arguments.items[2]`, for every string that does not compile."""
    return list(_problems(value, ""))


def _problems(value: Any, path: str) -> Iterable[Problem]:
    if isinstance(value, str):
        try:
            _split(value)
        except ExpressionError as error:
            yield Problem(path, str(error))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _problems(item, join_path(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems(item, join_path(path, index))


def _build(value: Any, found: list[Expression]) -> _Build:
    if isinstance(value, str):
        return _build_text(value, found)
    if isinstance(value, dict):
        fields = {key: _build(item, found) for key, item in sorted(value.items())}
        return lambda run: {key: build(run) for key, build in fields.items()}
    if isinstance(value, list):
        items = [_build(item, found) for item in value]
        return lambda run: [build(run) for build in items]
    return lambda run: value


def _build_text(text: str, found: list[Expression]) -> _Build:
    parts = _split(text)
    found.extend(part for part in parts if isinstance(part, Expression))
    match parts:
        case [Expression() as whole]:
            return whole.value
        case []:
            return lambda run: text
        case _:
            return lambda run: _joined(run, text, parts)


def _joined(run: Evaluation, text: str, parts: tuple[str | Expression, ...]) -> str:
    pieces = [part if isinstance(part, str) else part.text(run) for part in parts]
    try:
        run.produce_text(sum(map(len, pieces)))
    except RefusedError as refusal:
        raise ExpressionError(text, f"{refusal} (in the text `{text[:100]}`)") from None
    return "".join(pieces)


# -- finding the expressions in a text -------------------------------------------------------------------

_OPENING = re.compile(r"\{\{[-+]?|\{[%#]")
_STRING_OR_BRACKET = re.compile(
    r"""'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"|['"(\[{)\]}]""", re.DOTALL
)
_OPENED_BY = {")": "(", "]": "[", "}": "{"}


def _split(text: str) -> tuple[str | Expression, ...]:
    """Return text and expressions in turn; none if there is no expression, one if that is all there is.

    White-space control is Jinja2's: a `-` directly at the braces strips the white space beyond them, line
    breaks included. A `+` after the opening ones keeps it, which is the default.
    """
    parts: list[str | Expression] = []
    position, is_trimmed = 0, False
    while (opening := _OPENING.search(text, position)) is not None:
        if not opening.group().startswith("{{"):
            raise ExpressionError(text, _NO_STATEMENTS.format(opening.group()))
        end = _end_of_expression(text, opening.end())
        before = text[position : opening.start()]
        before = before.lstrip() if is_trimmed else before
        is_trimmed = text[end - 1] == "-" and end > opening.end()
        source = text[opening.end() : end - is_trimmed]
        parts += before.rstrip() if opening.group().endswith("-") else before, compile_source(source)
        position = end + 2
    if not parts:
        return ()
    parts.append(text[position:].lstrip() if is_trimmed else text[position:])
    if len(parts) == 3 and not f"{parts[0]}{parts[2]}".strip():
        return (parts[1],)
    return tuple(part for part in parts if part != "")


_NO_STATEMENTS = (
    "`{0}` has no meaning here, only `{{{{ … }}}}` has; to use it as text, write `{{{{ '{0}' }}}}`"
)


def _end_of_expression(text: str, start: int) -> int:
    """Return the position of the `}}` that ends the expression: outside of strings and of nested brackets."""
    opened, problem = "", "no `}}` ends it"
    for token in _STRING_OR_BRACKET.finditer(text, start, start + MAX_SOURCE):
        match token.group():
            case "(" | "[" | "{" as bracket:
                opened += bracket
            case ")" | "]" | "}" as bracket if opened.endswith(_OPENED_BY[bracket]):
                opened = opened[:-1]
            case "}" if not opened and text.startswith("}}", token.start()):
                return token.start()
            case ")" | "]" | "}":
                problem = "a bracket is not closed, or not opened"
                break
            case "'" | '"':
                problem = "a quote is not closed"
                break
    if len(text) - start > MAX_SOURCE:
        problem += f", or it is longer than {MAX_SOURCE:,} characters"
    raise ExpressionError(
        text,
        f"the expression `{{{{{text[start : start + 60]}` does not end: {problem}; "
        "to use `{{` as text, write `{{ '{{' }}`",
    )
