"""From the text of an expression to a function that evaluates it.

Jinja2's parser reads it, within bounds that do not depend on how deep the caller's stack already is. This is
also where every failure of an expression becomes an ExpressionError that names it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.lexer import TokenStream
from jinja2.parser import Parser

from workflow_engine.errors import ExpressionError, InvalidValue
from workflow_engine.expressions.compiler import MAX_LEVELS, Evaluate, ExpressionCompiler
from workflow_engine.expressions.sandbox import SCALARS, Evaluation, RefusedError, json_value, text_of

MAX_SOURCE = 10_000
"""Characters of one expression."""

MAX_BRACKETS = 25
"""Brackets inside each other; Jinja2's parser is a dozen Python frames deep per bracket."""

_TOO_DEEP = f"at most {MAX_BRACKETS} brackets and {MAX_LEVELS} operations may be inside each other"

# What evaluation can meet in JSON data. Not `Exception`: errors of the stores that hold node outputs, and
# the signal that interrupts a node, pass through.
_FAILURES = (ArithmeticError, InvalidValue, LookupError, MemoryError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression, and the names it reads as far as they stand in its text."""

    source: str
    names: frozenset[str]
    node_outputs: frozenset[str]
    secrets: frozenset[str]
    _evaluate: Evaluate
    _is_path: bool

    def value(self, run: Evaluation) -> Any:
        """A fresh JSON value. Raises ExpressionError, which says what to do, whatever goes wrong."""
        try:
            value = self._evaluate(run)
            if self._is_path and type(value) in SCALARS:
                return value
            return json_value(run, value)
        except (RefusedError, *_FAILURES) as error:
            raise failed(self.source, _explanation(error)) from None

    def text(self, run: Evaluation) -> str:
        """The value as it stands inside text."""
        value = self.value(run)
        try:
            return text_of(run, value)
        except (RefusedError, *_FAILURES) as error:
            raise failed(self.source, _explanation(error)) from None


def failed(source: str, message: str) -> ExpressionError:
    """The error of an expression, which is named in it."""
    shown = source if len(source) <= 100 else source[:100] + "…"
    return ExpressionError(source, f"{message[:1000]} (in `{{{{ {shown} }}}}`)")


def _explanation(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "it divides by zero"
    if isinstance(error, OverflowError):
        return "the result is a number too large"
    if isinstance(error, RecursionError):
        return "the value is nested too deeply"
    if isinstance(error, MemoryError):
        return "the value is too large"
    return str(error)


@functools.lru_cache(maxsize=1024)
def compile_source(source: str) -> Expression:
    """Compile what stands between `{{` and `}}`. Raises ExpressionError."""
    source = source.strip()
    if len(source) > MAX_SOURCE:
        raise failed(source, f"an expression has at most {MAX_SOURCE:,} characters")
    try:
        tree = _parse(source)
        compiler = ExpressionCompiler()
        evaluate = compiler.compile(tree)
    except RefusedError as refusal:
        raise failed(source, str(refusal)) from None
    return Expression(
        source,
        frozenset(compiler.names),
        frozenset(compiler.node_outputs),
        frozenset(compiler.secrets),
        evaluate,
        _is_path=isinstance(tree, nodes.Name | nodes.Getattr | nodes.Getitem),
    )


_environment = Environment(autoescape=False)  # noqa: S701  nothing is rendered, only parsed


def _parse(source: str) -> nodes.Expr:
    if not source:
        raise RefusedError("there is no expression between `{{` and `}}`")
    try:
        parser = Parser(_environment, source, state="variable")
        _check_brackets(parser)
        tree = parser.parse_expression()
    except TemplateSyntaxError as error:
        raise RefusedError(f"it is no expression: {error.message}") from None
    except RecursionError:
        raise RefusedError(_TOO_DEEP) from None
    except ValueError as error:  # of Python's int(), for literals of thousands of digits
        raise RefusedError(f"it holds a number that cannot be read: {error}") from None
    if not parser.stream.eos:
        raise RefusedError(f"`{str(parser.stream.current.value)[:40]}` is not expected after an expression")
    return tree


def _check_brackets(parser: Parser) -> None:
    """Refuse deep nesting by counting, so that it does not depend on how deep the caller's stack is."""
    depth = deepest = 0
    tokens = list(parser.stream)
    for token in tokens:
        if token.type in ("lparen", "lbracket", "lbrace"):
            depth += 1
            deepest = max(depth, deepest)
        elif token.type in ("rparen", "rbracket", "rbrace"):
            depth -= 1
    if deepest > MAX_BRACKETS:
        raise RefusedError(_TOO_DEEP)
    parser.stream = TokenStream(iter(tokens), None, None)
