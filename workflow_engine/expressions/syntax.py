"""From the text of an expression to a function that evaluates it.

Jinja2's parser reads it, within bounds that do not depend on the depth of the caller's stack. Every failure
of an expression becomes an ExpressionError here, which names it.
"""

from __future__ import annotations

import functools
import re
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
"""Nested brackets; Jinja2's parser is a dozen Python frames deep per bracket."""

_TOO_DEEP = f"at most {MAX_BRACKETS} brackets and {MAX_LEVELS} operations may be nested"

# What JSON data can raise during evaluation. Not `Exception`: errors of the stores that hold node outputs,
# and the signal that interrupts a node, pass through.
_FAILURES = (ArithmeticError, InvalidValue, LookupError, MemoryError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression, and those names it reads that are written in its text."""

    source: str
    names: frozenset[str]
    node_outputs: frozenset[str]
    unguarded: frozenset[str]
    """Of both, those that are neither given a default nor tested for being defined."""
    secrets: frozenset[str]
    secrets_in_text: frozenset[str]
    """The secrets that the expression does more with than to pass them on whole or to compare them."""
    is_repeatable: bool
    """From the same values it makes the same result every time."""
    _evaluate: Evaluate
    _is_path: bool

    def value(self, run: Evaluation) -> Any:
        """Return a fresh JSON value. Raises ExpressionError for any failure, with what to do about it."""
        try:
            value = self._evaluate(run)
            if self.secrets_in_text:
                run.scope.secrets.check_use_in_text(self.secrets_in_text)
            if self._is_path and type(value) in SCALARS:
                return value
            return json_value(run, value)
        except (RefusedError, *_FAILURES) as error:
            raise expression_error(self.source, _explanation(error)) from None

    def text(self, run: Evaluation) -> str:
        """Return the value as it stands inside text."""
        value = self.value(run)
        try:
            if self.secrets:
                run.scope.secrets.check_use_in_text(self.secrets)
            return text_of(run, value)
        except (RefusedError, *_FAILURES) as error:
            raise expression_error(self.source, _explanation(error)) from None


def expression_error(source: str, message: str) -> ExpressionError:
    """Return an error that names the expression."""
    shown = source if len(source) <= 100 else source[:100] + "…"
    return ExpressionError(source, f"{message[:1000]} (in `{{{{ {shown} }}}}`)")


def _explanation(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "it divides by zero"
    if isinstance(error, OverflowError):
        return "the result is too large a number"
    if isinstance(error, RecursionError):
        return "the value is nested too deeply"
    if isinstance(error, MemoryError):
        return "the value is too large"
    return str(error)


@functools.lru_cache(maxsize=1024)
def compile_source(source: str) -> Expression:
    """Compile the text between `{{` and `}}`. Raises ExpressionError."""
    source = source.strip()
    if len(source) > MAX_SOURCE:
        raise expression_error(source, f"an expression has at most {MAX_SOURCE:,} characters")
    try:
        tree = _parse(source)
        compiler = ExpressionCompiler()
        evaluate = compiler.compile(tree)
    except RefusedError as refusal:
        raise expression_error(source, str(refusal)) from None
    return Expression(
        source,
        frozenset(compiler.names),
        frozenset(compiler.node_outputs),
        frozenset((compiler.names | compiler.node_outputs) - compiler.guarded),
        frozenset(compiler.secrets),
        frozenset(compiler.secrets_in_text),
        compiler.is_repeatable,
        evaluate,
        _is_path=isinstance(tree, nodes.Name | nodes.Getattr | nodes.Getitem),
    )


_STRING = re.compile(r"""'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*\"""", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _as_written(string: re.Match[str]) -> str:
    """Return a string literal that Jinja2's lexer reads as it is written.

    The lexer would turn every kind of line break into a line feed, and a backslash before a letter outside
    of ASCII into the number of that letter.
    """
    literal = string.group()
    if not literal.isascii():
        literal = _ESCAPED.sub(lambda pair: pair[0] if pair[1].isascii() else f"\\{pair[0]}", literal)
    return literal.replace("\r", "\\r")


_environment = Environment(autoescape=False)  # noqa: S701  nothing is rendered, only parsed


def _parse(source: str) -> nodes.Expr:
    if not source:
        raise RefusedError("there is no expression between `{{` and `}}`")
    try:
        parser = Parser(_environment, _STRING.sub(_as_written, source), state="variable")
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
    """Refuse deep nesting by counting, which does not depend on the depth of the caller's stack."""
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
