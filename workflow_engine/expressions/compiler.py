"""From Jinja2's syntax tree to a function that evaluates it.

Jinja2's code generator is not used. Each kind of syntax node that may occur is turned here into a closure
over the operations of `sandbox` and `filters`. So an operation that is not listed does not exist, and no
code is generated, folded or run outside of the bounds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jinja2 import nodes

from workflow_engine.errors import InvalidValue
from workflow_engine.expressions.filters import (
    FILTERS,
    FUNCTIONS,
    METHODS,
    TESTS,
    UNREPEATABLE,
    apply_filter,
    apply_test,
    check_arguments,
    try_constants,
    unknown,
)
from workflow_engine.expressions.sandbox import (
    ARITHMETIC,
    COMPARISONS,
    Evaluation,
    NoResponse,
    RefusedError,
    Scope,
    Undefined,
    checked_number,
    is_number,
    join_path,
    kind,
    member,
    part_between,
    text_of,
    used,
)
from workflow_engine.json_values import normalise

MAX_LEVELS = 100
"""Nested operations, counted in the syntax tree: `a + b + c` has two levels."""

Evaluate = Callable[[Evaluation], Any]
Root = Callable[[Scope], Any]
"""Where a path begins: a value of the scope. Raises KeyError if there is none."""

_COMPARISON_OF = {"gteq": "ge", "lteq": "le"}

# -- names -----------------------------------------------------------------------------------------------


def _named(name: str) -> Root:
    def root(scope: Scope) -> Any:
        return scope.variables[name] if name in scope.variables else scope.node_outputs[name]

    return root


def _response(scope: Scope) -> Any:
    if scope.response is NoResponse:
        raise KeyError(RESPONSE)
    return scope.response


RESPONSE = "_response"
"""The name of what a node's executor has returned, which only the node's `output` reads."""

FAILURE = "_failure"
"""The name of an execution's failure, which only the `data` of its workflow's `onFailure` reads."""

_SPECIAL_NAMES: dict[str, Root] = {
    "_vars": lambda scope: scope.variables,
    "_trigger": lambda scope: scope.node_outputs[scope.trigger_node_id],
    "_metadata": lambda scope: scope.metadata,
    RESPONSE: _response,
    "_index": lambda scope: scope.iteration["_index"],
    "_previous": lambda scope: scope.iteration["_previous"],
    FAILURE: lambda scope: scope.iteration[FAILURE],
}

LOOP_NAMES: dict[str, str] = {
    "_index": "it exists only in a loop",
    "_previous": "it exists only in a `while` or `until` loop, from the second iteration; give a default",
}
"""Names that a loop gives its body and its conditions, and why one is undefined."""

_READ_BY_KEY = ("_nodeOutputs", "_secrets")
"""As a whole these would be all outputs, most of them not loaded, or all secrets."""

_NOTHING_YET = {
    "_trigger": "the trigger has put out no data",
    RESPONSE: "only the `output` of a node can read it, after the node has run",
    FAILURE: "only the `data` of a workflow's `onFailure` can read it",
}
_NO_SUCH_NAME = "there is no variable `{}`, and no node `{}` has produced an output"
_NO_SUCH_OUTPUT = "no node `{}` has produced an output"
_NO_SUCH_SECRET = "the provider of secrets has no `{}`"  # noqa: S105  a message


def _node_output(node_id: Any) -> Root:
    return lambda scope: scope.node_outputs[node_id]


def _secret(name: str) -> Root:
    return lambda scope: scope.secrets[name]


def _path(root: Root, name: str, reason: str, keys: list[str | int]) -> Evaluate:
    """Compile a path whose keys are all constant: the expression that nearly all configs are made of."""
    steps, base = [], name
    for key in keys:
        steps.append((key, base))
        base = join_path(base, key)

    def evaluate(run: Evaluation) -> Any:
        try:
            value = root(run.scope)
        except KeyError:
            value = Undefined(name, reason)
        for key, base in steps:
            value = value[key] if type(value) is dict and key in value else member(value, key, base)
        return value

    return evaluate


def _as_path(node: nodes.Expr) -> tuple[str, list[str | int]] | None:
    """Return the name and the constant keys that this node reads, or None if it is anything else."""
    keys: list[str | int] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        key = node.attr if isinstance(node, nodes.Getattr) else _constant(node.arg)
        if type(key) is not str and type(key) is not int:
            return None
        keys.append(key)
        node = node.node
    return (node.name, keys[::-1]) if isinstance(node, nodes.Name) else None


def _constant(node: nodes.Node) -> Any:
    return node.value if isinstance(node, nodes.Const) else None


_CONTAINERS_AND_CHOICES = (
    nodes.Name | nodes.Getattr | nodes.Getitem | nodes.List | nodes.Tuple | nodes.Dict
    | nodes.CondExpr | nodes.And | nodes.Or | nodes.Not | nodes.Compare | nodes.Test
)  # fmt: skip


def _passes_on_whole(node: nodes.Node) -> bool:
    """Return whether the node passes its parts on unchanged, or only looks at them."""
    is_default = isinstance(node, nodes.Filter) and node.name == "default"
    return is_default or isinstance(node, _CONTAINERS_AND_CHOICES)


def _description(node: nodes.Expr) -> str:
    """Return a node as messages name it."""
    if (path := _as_path(node)) is not None:
        return functools.reduce(join_path, path[1], path[0])
    if isinstance(node, nodes.Filter) and node.node is not None:
        return f"{_description(node.node)} | {node.name}"
    return "(…)"


# -- the compiler ----------------------------------------------------------------------------------------


class ExpressionCompiler:
    """Compiles one syntax tree and collects the names that it reads."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.node_outputs: set[str] = set()
        self.guarded: set[str] = set()
        """Of both, those that have a default or are tested for being defined."""
        self.secrets: set[str] = set()
        self.secrets_in_text: set[str] = set()
        self.is_repeatable = True
        """No operation is used that gives the same values another result the next time."""
        self._levels = 0
        self._is_whole = True
        """The value being compiled reaches the result unchanged, or not at all."""

    def compile(self, node: nodes.Node) -> Evaluate:
        self._levels += 1
        if self._levels > MAX_LEVELS:
            raise RefusedError(f"at most {MAX_LEVELS} operations may be nested")
        was_whole, self._is_whole = self._is_whole, self._is_whole and _passes_on_whole(node)
        evaluate = self._compile(node)
        self._levels, self._is_whole = self._levels - 1, was_whole
        return evaluate

    def _compile(self, node: nodes.Node) -> Evaluate:  # noqa: PLR0911  one line per kind of node
        match node:
            case nodes.Const():
                return _literal(node.value)
            case nodes.Name() | nodes.Getattr() | nodes.Getitem():
                return self._reading(node)
            case nodes.List() | nodes.Tuple():
                return self._list(node.items)
            case nodes.Dict():
                return self._object(node.items)
            case nodes.Filter(node=nodes.Expr()):
                return self._filter(node)
            case nodes.Test():
                return self._test(node)
            case nodes.Call():
                return self._call(node)
            case nodes.And() | nodes.Or() | nodes.Not() | nodes.CondExpr():
                return self._logic(node)
            case nodes.Compare():
                return self._comparison(node)
            case nodes.Concat():
                return self._concatenation(node.nodes)
            case nodes.UnaryExpr():
                return self._sign(node)
            case nodes.BinExpr():
                return self._arithmetic(node)
        raise RefusedError(f"{type(node).__name__.lower()} is not possible here")

    # -- reading -------------------------------------------------------------------------------------------

    def _reading(self, node: nodes.Name | nodes.Getattr | nodes.Getitem) -> Evaluate:
        if (path := _as_path(node)) is not None:
            return self._reading_of_path(*path)
        assert isinstance(node, nodes.Getattr | nodes.Getitem)
        if isinstance(node.node, nodes.Name) and node.node.name in _READ_BY_KEY:
            return self._reading_by_computed_key(node.node.name, node)
        value = self.compile(node.node)
        base = _description(node.node)
        if isinstance(node, nodes.Getattr):
            attribute = node.attr
            return lambda run: member(value(run), attribute, base)
        if isinstance(node.arg, nodes.Slice):
            bounds = (node.arg.start, node.arg.stop, node.arg.step)
            start, stop, step = (_literal(None) if bound is None else self.compile(bound) for bound in bounds)
            return lambda run: part_between(run, value(run), start(run), stop(run), step(run))
        key = self.compile(node.arg)
        return lambda run: member(value(run), key(run), base)

    def _reading_of_path(self, name: str, keys: list[str | int]) -> Evaluate:
        self.names.add(name)
        if name in _READ_BY_KEY:
            if not keys or not isinstance(keys[0], str):
                raise RefusedError(f"`{name}` is read by name, as in `{name}.NAME` or `{name}['NAME']`")
            key, where = keys[0], join_path(name, keys[0])
            if name == "_secrets":
                self.secrets.add(key)
                if not self._is_whole:
                    self.secrets_in_text.add(key)
                return _path(_secret(key), where, _NO_SUCH_SECRET.format(key), keys[1:])
            self.node_outputs.add(key)
            return _path(_node_output(key), where, _NO_SUCH_OUTPUT.format(key), keys[1:])
        if name.startswith("_") and name not in _SPECIAL_NAMES:
            unknown("name", name, dict.fromkeys([*_SPECIAL_NAMES, *_READ_BY_KEY]))
        if name in _SPECIAL_NAMES:
            reason = LOOP_NAMES.get(name) or _NOTHING_YET.get(name, "")
            return _path(_SPECIAL_NAMES[name], name, reason, keys)
        return _path(_named(name), name, _NO_SUCH_NAME.format(name, name), keys)

    def _reading_by_computed_key(self, name: str, node: nodes.Getattr | nodes.Getitem) -> Evaluate:
        if name == "_secrets" or isinstance(node, nodes.Getattr) or isinstance(node.arg, nodes.Slice):
            raise RefusedError(
                f"`{name}` is read by a name that stands in the expression, as in `{name}.NAME`"
            )
        self.names.add(name)
        key = self.compile(node.arg)

        def evaluate(run: Evaluation) -> Any:
            node_id = used(key(run))
            if not isinstance(node_id, str):
                raise RefusedError(f"a node id is text, not {kind(node_id)}")
            try:
                return run.scope.node_outputs[node_id]
            except KeyError:
                return Undefined(join_path(name, node_id), _NO_SUCH_OUTPUT.format(node_id[:100]))

        return evaluate

    def _guard(self, node: nodes.Expr) -> None:
        """Note that a value may be missing without harm; undefined values chain until they are used."""
        if (path := _as_path(node)) is not None:
            name, keys = path
            self.guarded.add(str(keys[0]) if name in _READ_BY_KEY and keys else name)

    # -- literals ------------------------------------------------------------------------------------------

    def _list(self, items: list[nodes.Expr]) -> Evaluate:
        parts = [self.compile(item) for item in items]
        return lambda run: [used(part(run)) for part in parts]

    def _object(self, pairs: list[nodes.Pair]) -> Evaluate:
        parts = [(self.compile(pair.key), self.compile(pair.value)) for pair in pairs]
        # In the order that the object has once it is stored.
        return lambda run: dict(sorted({_key(key(run)): used(value(run)) for key, value in parts}.items()))

    # -- operations by name --------------------------------------------------------------------------------

    def _filter(self, node: nodes.Filter) -> Evaluate:
        name = node.name
        arguments, options = self._arguments("filter", name, FILTERS, node)
        _check_named_operation(node)
        if all(isinstance(given, nodes.Const) for given in _given(node)):
            try_constants(
                name,
                [_constant(argument) for argument in node.args],
                {str(option.key): _constant(option.value) for option in node.kwargs},
            )
        assert node.node is not None
        if name == "default":
            self._guard(node.node)
        value = self.compile(node.node)
        return lambda run: apply_filter(
            run,
            name,
            value(run),
            *[argument(run) for argument in arguments],
            **{key: option(run) for key, option in options.items()},
        )

    def _test(self, node: nodes.Test) -> Evaluate:
        name = node.name
        arguments, _ = self._arguments("test", name, TESTS, node)
        if name == "defined":
            self._guard(node.node)
        value = self.compile(node.node)
        return lambda run: apply_test(run, name, value(run), *[argument(run) for argument in arguments])

    def _call(self, node: nodes.Call) -> Evaluate:
        called = node.node
        if isinstance(called, nodes.Name):
            arguments, options = self._arguments("function", called.name, FUNCTIONS, node)
            function = FUNCTIONS[called.name]
            return lambda run: function(
                run,
                *[used(argument(run)) for argument in arguments],
                **{key: used(option(run)) for key, option in options.items()},
            )
        if not isinstance(called, nodes.Getattr):
            raise RefusedError(f"only functions can be called: {', '.join(FUNCTIONS)}")
        name = called.attr
        if name not in METHODS and name in FILTERS:
            raise RefusedError(f"there is no method `{name}`; use the filter `| {name}`")
        arguments, options = self._arguments("method", name, METHODS, node)
        method, value = METHODS[name], self.compile(called.node)

        def evaluate(run: Evaluation) -> Any:
            if not isinstance(text := used(value(run)), str):
                raise RefusedError(f"`.{name}(…)` is a method of text, not of {kind(text)}")
            return method(
                run,
                text,
                *[used(argument(run)) for argument in arguments],
                **{key: used(option(run)) for key, option in options.items()},
            )

        return evaluate

    def _arguments(
        self, what: str, name: str, table: dict[str, Any], node: nodes.Filter | nodes.Test | nodes.Call
    ) -> tuple[list[Evaluate], dict[str, Evaluate]]:
        """Compile the arguments of an operation, once it is known to exist and to take them."""
        if name not in table:
            unknown(what, name, table)
        self.is_repeatable &= table[name] not in UNREPEATABLE
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise RefusedError(f"arguments with `*` or `**` are not possible for the {what} `{name}`")
        options = {str(option.key): self.compile(option.value) for option in node.kwargs}
        check_arguments(what, name, table[name], len(node.args), list(options))
        return [self.compile(argument) for argument in node.args], options

    # -- operators -----------------------------------------------------------------------------------------

    def _logic(self, node: nodes.And | nodes.Or | nodes.Not | nodes.CondExpr) -> Evaluate:
        if isinstance(node, nodes.Not):
            value = self.compile(node.node)
            return lambda run: not value(run)
        if isinstance(node, nodes.CondExpr):
            return self._choice(node)
        left, right = self.compile(node.left), self.compile(node.right)
        if isinstance(node, nodes.And):
            return lambda run: left(run) and right(run)
        return lambda run: left(run) or right(run)

    def _choice(self, node: nodes.CondExpr) -> Evaluate:
        condition, chosen = self.compile(node.test), self.compile(node.expr1)
        if node.expr2 is None:
            nothing = Undefined("… if …", "the condition is false and there is no `else`")
            return lambda run: chosen(run) if condition(run) else nothing
        otherwise = self.compile(node.expr2)
        return lambda run: chosen(run) if condition(run) else otherwise(run)

    def _comparison(self, node: nodes.Compare) -> Evaluate:
        first = self.compile(node.expr)
        rest = [(operand.op, self.compile(operand.expr)) for operand in node.ops]

        def evaluate(run: Evaluation) -> bool:
            left = first(run)
            for symbol, operand in rest:
                right = operand(run)
                if symbol == "notin":
                    holds = not COMPARISONS["in"](run, left, right)
                else:
                    holds = COMPARISONS[_COMPARISON_OF.get(symbol, symbol)](run, left, right)
                if not holds:
                    return False
                left = right
            return True

        return evaluate

    def _concatenation(self, operands: list[nodes.Expr]) -> Evaluate:
        parts = [self.compile(operand) for operand in operands]

        def evaluate(run: Evaluation) -> str:
            texts = [text_of(run, part(run)) for part in parts]
            run.produce_text(sum(map(len, texts)))
            return "".join(texts)

        return evaluate

    def _sign(self, node: nodes.UnaryExpr) -> Evaluate:
        value, sign = self.compile(node.node), -1 if isinstance(node, nodes.Neg) else 1

        def evaluate(run: Evaluation) -> Any:
            if not is_number(number := used(value(run))):
                raise RefusedError(f"`{node.operator}` needs a number, not {kind(number)}")
            return checked_number(sign * number)

        return evaluate

    def _arithmetic(self, node: nodes.BinExpr) -> Evaluate:
        operate = ARITHMETIC[node.operator]
        left, right = self.compile(node.left), self.compile(node.right)
        return lambda run: operate(run, left(run), right(run))


def _literal(value: Any) -> Evaluate:
    try:
        constant = normalise(value, "a literal")
    except InvalidValue as error:
        raise RefusedError(str(error)) from None
    return lambda run: constant


def _given(node: nodes.Filter) -> list[nodes.Expr]:
    return [*node.args, *[option.value for option in node.kwargs]]


def _key(key: Any) -> str:
    if not isinstance(key, str):
        used(key)
        raise RefusedError(f"a key of an object is text, not {kind(key)}")
    return key


def _check_named_operation(node: nodes.Filter) -> None:
    """Check the filter or test that `map`, `select` and their variants name as text."""
    before = {"map": 0, "select": 0, "reject": 0, "selectattr": 1, "rejectattr": 1}.get(node.name)
    if before is None or len(node.args) <= before:
        return
    if not isinstance(name := _constant(node.args[before]), str):
        return  # computed, and checked when it is used
    what, table = ("filter", FILTERS) if node.name == "map" else ("test", TESTS)
    if name not in table:
        unknown(what, name, table)
    options = [str(option.key) for option in node.kwargs]
    check_arguments(what, name, table[name], len(node.args) - before - 1, options)
