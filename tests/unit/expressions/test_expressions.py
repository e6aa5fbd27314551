"""An expression gives a typed value, or text inside a text; a refusal comes with advice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_engine.errors import CacheUnavailable, ExpressionError
from workflow_engine.expressions import Scope, check_template, compile_template
from workflow_engine.expressions.secrets import Secrets
from workflow_engine.expressions.template import whole_expression

ORDER = {"orderId": 42, "items": [{"name": "lamp", "stock": 3}, {"name": "desk", "stock": 1}], "paid": True}
CHARGE = {"receipt": "r-1", "items": [{"id": 7}], "note": None, "9": "nine", "get": "a key"}


class Stored(Mapping[str, Any]):
    """Outputs that are fetched one by one, and cannot be listed or counted."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load

    def __getitem__(self, node_id: str) -> Any:
        return self._load(node_id)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the outputs were listed")

    def __len__(self) -> int:
        raise AssertionError("the outputs were counted")


def scope(**changes: Any) -> Scope:
    fields: dict[str, Any] = {
        "variables": {"currency": "EUR", "limits": {"total": 100}},
        "node_outputs": {"orderPlaced": ORDER, "charge": CHARGE, "in-stock": {"count": 5}},
        "trigger_node_id": "orderPlaced",
        "metadata": {"startedAt": "2026-01-01T10:00:00Z"},
        "secrets": Secrets({"TOKEN": "s3cret-token"}.get),
    }
    return Scope(**{**fields, **changes})


def evaluate(value: Any, **changes: Any) -> Any:
    return compile_template(value).evaluate(scope(**changes))


def refusal(value: Any) -> str:
    with pytest.raises(ExpressionError) as caught:
        evaluate(value)
    return str(caught.value)


# -- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("currency", "EUR"),
        ("_vars.currency", "EUR"),
        ("_vars['currency']", "EUR"),
        ("charge.receipt", "r-1"),
        ("_nodeOutputs.charge.receipt", "r-1"),
        ("_nodeOutputs['in-stock'].count", 5),
        ("_nodeOutputs['in' ~ '-stock'].count", 5),
        ("_trigger.orderId", 42),
        ("_metadata.startedAt", "2026-01-01T10:00:00Z"),
        ("_secrets.TOKEN", "s3cret-token"),
        ("_secrets['TOKEN']", "s3cret-token"),
    ],
)
def test_every_name_means_what_the_scope_says(expression: str, value: Any) -> None:
    assert evaluate(f"{{{{ {expression} }}}}") == value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("charge.items[0].id", 7),
        ("charge['items'].0.id", 7),
        ("charge.items[-1].id", 7),
        ("charge.items[1 - 1]['i' ~ 'd']", 7),
        ("charge.get", "a key"),
        ("charge['9']", "nine"),
        ("charge.receipt[0]", "r"),
        ("(charge.items | first).id", 7),
        ("charge.items[:1]", [{"id": 7}]),
        ("{'items': 1}.items", 1),
    ],
)
def test_a_dot_or_a_bracket_reads_a_key_or_an_index_and_never_a_method(expression: str, value: Any) -> None:
    assert evaluate(f"{{{{ {expression} }}}}") == value


def test_the_names_an_expression_reads_are_known_before_it_is_evaluated() -> None:
    template = compile_template(
        {
            "a": "{{ charge.items[0] }} {{ currency | default(fallback) }}",
            "b": ["{{ _nodeOutputs.ship.id }}{{ _nodeOutputs['in-stock'] }}", "{{ _secrets.TOKEN | upper }}"],
        }
    )

    assert template.names == {"charge", "currency", "fallback", "_nodeOutputs", "_secrets"}
    assert template.node_outputs == {"ship", "in-stock"}
    assert template.secrets == {"TOKEN"}
    assert not template.is_constant


def test_only_outputs_that_are_read_are_fetched() -> None:
    fetched: list[str] = []

    def load(node_id: str) -> Any:
        fetched.append(node_id)
        return CHARGE

    assert evaluate("{{ charge.receipt }} {{ currency }}", node_outputs=Stored(load)) == "r-1 EUR"
    assert fetched == ["charge"]


def test_an_error_of_the_store_that_holds_outputs_is_not_the_fault_of_the_expression() -> None:
    def load(node_id: str) -> Any:
        raise CacheUnavailable("Redis cannot be reached")

    with pytest.raises(CacheUnavailable):
        evaluate("{{ charge.receipt }}", node_outputs=Stored(load))


def test_a_signal_that_interrupts_the_node_passes_through() -> None:
    class SoftTimeLimitExceeded(Exception):  # Celery's is an ordinary Exception as well
        pass

    def load(node_id: str) -> Any:
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        evaluate("{{ charge.items | length }}", node_outputs=Stored(load))


def test_a_secret_that_was_read_can_be_masked() -> None:
    secrets = Secrets({"TOKEN": "s3cret-token", "OTHER": "lamp"}.get)
    config = evaluate({"auth": "Bearer {{ _secrets.TOKEN }}", "name": "lamp"}, secrets=secrets)

    assert config == {"auth": "Bearer s3cret-token", "name": "lamp"}
    assert secrets.mask_texts(config) == {"auth": "Bearer ***", "name": "lamp"}


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("{{ _secrets.FLAG }}", "1"),
        ({"flag": "{{ _secrets.FLAG }}", "order": "order-2101"}, {"flag": "1", "order": "order-2101"}),
        ("{{ {'user': _secrets.USER, 'url': 'https://shop'} }}", {"user": "shop", "url": "https://shop"}),
        ("{{ [_secrets.USER, 'a' ~ 'b'] }}", ["shop", "ab"]),
        ("{{ _secrets.FLAG == '1' and 'shop' in [_secrets.USER] }}", True),
        ("{{ _secrets.USER if _secrets.FLAG is defined else 'x' }}", "shop"),
        ("{{ _secrets.NONE | default(_secrets.USER) }}", "shop"),
    ],
)
def test_a_secret_that_could_be_anything_may_be_a_value_of_its_own(value: Any, result: Any) -> None:
    secrets = Secrets({"FLAG": "1", "USER": "shop"}.get)

    assert evaluate(value, secrets=secrets) == result


@pytest.mark.parametrize(
    "text",
    [
        "https://{{ _secrets.USER }}@db",
        "{{ 'Bearer ' ~ _secrets.USER }}",
        "{{ _secrets.USER + '!' }}",
        "{{ [_secrets.USER] | join }}",
        "{{ _secrets.USER | upper }}",
        "{{ {'user': _secrets.USER} | tojson }}",
        "{{ '%s@db' % _secrets.USER }}",
        "{{ _secrets.USER.upper() }}",
    ],
)
def test_a_secret_that_could_be_anything_is_refused_inside_text(text: str) -> None:
    secrets = Secrets({"USER": "shop"}.get)

    with pytest.raises(
        ExpressionError, match=r"_secrets\.USER: the secret is too short or too plain"
    ) as refused:
        evaluate(text, secrets=secrets)
    assert "shop" not in str(refused.value)
    evaluate(text, secrets=Secrets({"USER": "correct-horse-battery"}.get))


# -- typed values and text -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ _trigger.orderId }}", 42),
        ("  {{_trigger.orderId}}\n", 42),
        ("{{ charge.note }}", None),
        ("{{ orderPlaced.paid }}", True),
        ("{{ charge['items'] }}", [{"id": 7}]),
        ("{{ 10 / 4 }}", 2.5),
        ("{{ {'later': orderPlaced.orderId} }}", {"later": 42}),
        ("{{ {'later': orderPlaced.orderId}}}", {"later": 42}),
        ("{{ {'a': {'b': [1]}}}}", {"a": {"b": [1]}}),
        ('{{ "}}" }}', "}}"),
        ("{{ '{{ 1 + 1 }}' }}", "{{ 1 + 1 }}"),
        ("{{ 'it''s' }}", "its"),
        ("{{ 'it\\'s }}' }}", "it's }}"),
        ("{{ (1, 2) }}", [1, 2]),
        ("{{ range(3) }}", [0, 1, 2]),
        ("{{ charge | map('upper') }}", ["RECEIPT", "ITEMS", "NOTE", "9", "GET"]),
    ],
)
def test_an_expression_that_is_the_whole_string_yields_the_typed_value(text: str, value: Any) -> None:
    result = evaluate(text)

    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Order {{ orderPlaced.orderId }}", "Order 42"),
        ("{{ currency }}{{ currency }}", "EUREUR"),
        ("{{ currency }} {{ charge.note }} {{ orderPlaced.paid }}", "EUR null true"),
        ("items: {{ charge['items'] }}", 'items: [{"id":7}]'),
        ("{{ 1.0 }} and {{ 'ü' }}.", "1.0 and ü."),
        ("{{ '{{' }} and {{ '{%' }}", "{{ and {%"),
        ("a lone }} or { or %} is text", "a lone }} or { or %} is text"),
        ("", ""),
    ],
)
def test_inside_text_strings_stand_as_they_are_and_other_values_as_json(text: str, value: str) -> None:
    assert evaluate(text) == value


def test_expressions_work_in_nested_objects_and_lists_but_not_in_keys() -> None:
    config = {"{{ currency }}": [{"id": "{{ _trigger.orderId }}"}, 1, None, ["{{ currency }}"]]}

    assert evaluate(config) == {"{{ currency }}": [{"id": 42}, 1, None, ["EUR"]]}


def test_data_that_looks_like_an_expression_stays_text() -> None:
    variables = {"name": "{{ 1 + 1 }}", "list": ["{% if %}"]}

    assert evaluate("{{ name }}", variables=variables) == "{{ 1 + 1 }}"
    assert evaluate("Hi {{ name }}", variables=variables) == "Hi {{ 1 + 1 }}"
    assert evaluate("{{ list | first ~ name }}", variables=variables) == "{% if %}{{ 1 + 1 }}"


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab"), st.lists, max_leaves=5))
def test_a_value_passes_through_a_path_and_through_an_operation_unchanged(value: Any) -> None:
    variables = {"value": value, "pair": [value]}

    assert repr(evaluate("{{ value }}", variables=variables)) == repr(value)
    assert repr(evaluate("{{ pair | first }}", variables=variables)) == repr(value)


def test_what_is_evaluated_shares_nothing_with_the_scope_or_the_template() -> None:
    outputs = {"charge": {"items": [1]}}
    template = compile_template({"path": "{{ charge }}", "constant": {"list": [1]}})

    first = template.evaluate(Scope(node_outputs=outputs))
    first["path"]["items"].append(2)
    first["constant"]["list"].append(2)

    assert outputs == {"charge": {"items": [1]}}
    assert template.evaluate(Scope(node_outputs=outputs)) == {
        "path": {"items": [1]},
        "constant": {"list": [1]},
    }


def test_a_value_without_expressions_is_constant() -> None:
    template = compile_template({"a": [1, "text", {"b": None}]})

    assert template.is_constant
    assert template.names == frozenset()
    assert template.evaluate(Scope()) == {"a": [1, "text", {"b": None}]}


# -- undefined -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("user.name | default('friend')", "friend"),
        ("a.b.c[0] | default(1)", 1),
        ("a.b[c] | default(1)", 1),
        ("charge.nothing.at.all | default(b.c) | default('b')", "b"),
        ("charge.note | default('x')", None),
        ("charge.note | default('x', true)", "x"),
        ("user | default", ""),
        ("user.name is defined", False),
        ("user.name is not defined", True),
        ("charge.note is defined", True),
        ("charge.items[3] is defined", False),
        ("_secrets.NONE is defined", False),
        ("_nodeOutputs.none.x is defined", False),
        ("_nodeOutputs['no' ~ 'ne'] is defined", False),
        ("[] | first | default('none')", "none"),
        ("[] | min is defined", False),
        ("user.name if user is defined else 'nobody'", "nobody"),
    ],
)
def test_undefined_chains_until_it_is_used(expression: str, value: Any) -> None:
    assert evaluate(f"{{{{ {expression} }}}}") == value


@pytest.mark.parametrize(
    "expression",
    [
        "user.name",
        "user.name ~ ''",
        "user.name + 1",
        "1 * user.name",
        "-user.name",
        "user.name == user.name",
        "1 != user.name",
        "1 in user.name",
        "user.name < 1",
        "user.name and true",
        "not user.name",
        "1 if user.name else 2",
        "[user.name]",
        "{'a': user.name}",
        "{user.name: 1}",
        "user.name | upper",
        "'a' | replace('a', user.name)",
        "user.name is none",
        "1 is eq user.name",
        "range(user.name)",
        "charge[user.name]",
        "[1][user.name:]",
        "user.name.upper()",
        "'a'.startswith(user.name)",
        "_nodeOutputs[user.name]",
    ],
)
def test_using_what_is_undefined_is_an_error_that_names_the_path(expression: str) -> None:
    message = refusal(f"{{{{ {expression} }}}}")

    assert message.startswith("`user.name` is undefined: there is no variable `user`, and no node `user` has")
    assert "`| default(…)`" in message


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (
            "charge.nme.first",
            "`charge.nme.first` is undefined: `charge` has no such key (it has receipt,",
        ),
        ("charge.items[4].id", "`charge.items[4].id` is undefined: `charge.items` has 1 items"),
        ("charge.note.text", "`charge.note.text` is undefined: `charge.note` is null"),
        ("charge.receipt.text", "`charge.receipt.text` is undefined: `charge.receipt` is text"),
        ("charge['items'].name", "`charge.items.name` is undefined: `charge.items` is a list"),
        (
            "_nodeOutputs['out-of'].a",
            "`_nodeOutputs['out-of'].a` is undefined: no node `out-of` has",
        ),
        ("_secrets.NONE", "`_secrets.NONE` is undefined: the provider of secrets has no `NONE`"),
        (
            "charge.items | map(attribute='name')",
            "`item.name` is undefined: `item` has no such key",
        ),
    ],
)
def test_the_error_says_where_the_path_ends(expression: str, message: str) -> None:
    assert refusal(f"{{{{ {expression} }}}}").startswith(message)


def test_reading_the_trigger_of_an_execution_that_has_no_data_is_undefined() -> None:
    assert evaluate("{{ _trigger.a | default(1) }}", node_outputs={}) == 1


# -- operators, filters, tests, functions ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("orderPlaced['items'] | map(attribute='stock') | min > 0", True),
        ("orderPlaced.items | map(attribute='stock') | sum", 4),
        ("orderPlaced.items | map(attribute='price', default=5)", [5, 5]),
        ("orderPlaced.items | map(attribute='price') | select('defined')", []),
        ("orderPlaced.items | map(attribute='price') | map('default', 2)", [2, 2]),
        ("orderPlaced.items | selectattr('stock', 'gt', 1) | map(attribute='name')", ["lamp"]),
        ("orderPlaced.items | rejectattr('stock', 'gt', 1) | map(attribute='name')", ["desk"]),
        ("orderPlaced.items | selectattr('gone', 'defined')", []),
        ("orderPlaced.items | min(attribute='stock')", {"name": "desk", "stock": 1}),
        ("orderPlaced.items | max(attribute='stock')", {"name": "lamp", "stock": 3}),
        ("orderPlaced.items | sum(attribute='stock')", 4),
        ("orderPlaced.items | sort(attribute='name') | map(attribute='stock')", [1, 3]),
        ("orderPlaced.items | join(', ', attribute='name')", "lamp, desk"),
        ("[{'a': {'b': [9]}}] | map(attribute='a.b.0')", [9]),
        ("[1, 2, 3, 4] | select('odd')", [1, 3]),
        ("[1, 2, 3, 4] | reject('in', [1, 2])", [3, 4]),
        ("[0, 1, '', 'a', none] | select", [1, "a"]),
        ("['b', 'A', 'c'] | sort", ["A", "b", "c"]),
        ("['b', 'A', 'a'] | sort(case_sensitive=true, reverse=true)", ["b", "a", "A"]),
        ("[3, 1, 2] | max", 3),
        ("['b', 'B', 'a', 1, 1.0, true] | unique", ["b", "a", 1, True]),
        ("[{'a': 1}, {'a': 1}, [1]] | reject('mapping') | unique", [[1]]),
        ("[[1], [1], '[1]'] | unique(case_sensitive=true)", [[1], "[1]"]),
        ("[3, 1, 2] | reverse", [2, 1, 3]),
        ("'abc' | reverse", "cba"),
        ("'abc' | list", ["a", "b", "c"]),
        ("'abc' | length", 3),
        ("charge | length", 5),
        ("[1, 2] | last", 2),
        ("'my title, too' | title", "My Title, Too"),
        ("' a ' | trim", "a"),
        ("'xxaxx' | trim('x')", "a"),
        ("'aaa' | replace('a', 'b', 2)", "bba"),
        ("'aaa' | replace('a', 1)", "111"),
        ("42.55 | round(1, 'floor')", 42.5),
        ("-42.7 | round | abs | int", 43),
        ("'12.9' | int", 12),
        ("'ff' | int(base=16)", 255),
        ("'x' | int(default=-1)", -1),
        ("'1.5' | float", 1.5),
        ("[1, 'a'] | string", '[1,"a"]'),
        ("1 | string", "1"),
        ("{'a': 1, 'b': [2]} | items", [["a", 1], ["b", [2]]]),
        ("{'a': '<\"ü'} | tojson", '{"a":"<\\"ü"}'),
        ("'a' | tojson", '"a"'),
        ("{'q': 'a b/ü', 'n': 1} | urlencode", "n=1&q=a+b%2F%C3%BC"),
        ("'a b/ü' | urlencode", "a%20b/%C3%BC"),
        ("'Ab'.upper() ~ 'Ab'.lower() ~ ' x '.strip()", "ABabx"),
        ("'a,b,c'.split(',', 1)", ["a", "b,c"]),
        ("'abc'.startswith('ab') and 'abc'.endswith('bc')", True),
        ("7 // 2 + 7 % 2 - 2 ** 3 * 1.5", -8.0),
        ("[1] + [2] * 2", [1, 2, 2]),
        ("'a' * 3 ~ 1 ~ none ~ [true]", "aaa1null[true]"),
        ("'%.2f %s %5d%%' % [12.5, 'EUR', 3]", "12.50 EUR     3%"),
        ("1 < 2 <= 2 < 3 != 4", True),
        ("1 == 1.0 and not 1 == true and not 1 == '1'", True),
        ("'a' in 'cat' and 'receipt' in charge and 2 not in [1]", True),
        ("true in [1] or 1 in [true]", False),
        ("{'a': [1]} == {'a': [1.0]}", True),
        ("3 is odd and 4 is even and 3 is gt 2 and 3 is in [3]", True),
        ("none is none and 1 is number and true is not number and true is boolean", True),
        ("'a' is string and {} is mapping and [] is sequence", True),
        ("range(5, 0, -2)", [5, 3, 1]),
    ],
)
def test_operators_filters_tests_and_functions_do_what_jinja2_does_in_terms_of_json(
    expression: str, value: Any
) -> None:
    result = evaluate(f"{{{{ {expression} }}}}")

    assert result == value
    assert type(result) is type(value)


def test_now_is_the_time_in_utc_to_the_millisecond() -> None:
    moment = datetime(2026, 1, 1, 10, 0, 0, 123456, tzinfo=UTC)

    assert evaluate("{{ now() }}", now=lambda: moment) == "2026-01-01T10:00:00.123Z"


def test_each_uuid_is_another() -> None:
    first, second = evaluate(["{{ uuid() }}", "{{ uuid() }}"])

    assert UUID(first) != UUID(second)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 < 'a'", "`<` cannot compare a number with text; convert one of them"),
        ("[1, 'a'] | sort", "the items cannot be ordered, since they are of different kinds"),
        ("[{}, {}] | max", "the items cannot be ordered"),
        ("1 + 'a'", "`+` does not join a number and text; `~` joins anything as text"),
        ("{} - 1", "`-` needs two numbers, not an object and a number"),
        ("1 / 0", "it divides by zero"),
        ("1 in 2", "`in` cannot look for a number in a number"),
        ("2 ** 64", "the result is an integer beyond 64 bits"),
        ("(-8) ** 0.5", "the result is not a finite number"),
        ("{1: 2}", "a key of an object is text, not a number"),
        ("charge.items.upper()", "`.upper(…)` is a method of text, not of a list"),
        ("1 | length", "a number has no length"),
        ("1 | map('abs')", "a number has no items; a list is needed"),
        ("'a' | abs", "a number is needed, not text"),
        ("'%d' % 'a'", "%d format: a real number is required"),
        ("[1] | map('no' ~ 'ne')", "there is no filter `none`"),
        ("1 if false", "`… if …` is undefined: the condition is false and there is no `else`"),
    ],
)
def test_an_evaluation_that_fails_says_why_and_in_which_expression(expression: str, message: str) -> None:
    said = refusal(f"{{{{ {expression} }}}}")

    assert said.startswith(message)
    assert said.endswith(f"(in `{{{{ {expression} }}}}`)")


def test_an_error_carries_its_expression() -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate({"a": ["{{ 1 / 0 }}"]})

    assert caught.value.expression == "1 / 0"


# -- what does not compile -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% if a %}", "`{%` has no meaning here"),
        ("a {# note #}", "`{#` has no meaning here"),
        ("{{ a", "the expression `{{ a` does not end: no `}}` ends it"),
        ("{{ 'a }}", "the expression `{{ 'a }}` does not end: a quote is not closed"),
        ("{{ (a }}", "the expression `{{ (a }}` does not end: a bracket is not closed"),
        ("{{ }}", "there is no expression between `{{` and `}}`"),
        ("{{ a b }}", "`b` is not expected after an expression"),
        ("{{ a, b }}", "`,` is not expected after an expression"),
        ("{{ a + }}", "it is no expression: "),
        ("{{ a | uper }}", "there is no filter `uper`; did you mean `upper`?"),
        ("{{ a is strin }}", "there is no test `strin`; did you mean `string`?"),
        ("{{ rnge(3) }}", "there is no function `rnge`; did you mean `range`?"),
        ("{{ a | map('uper') }}", "there is no filter `uper`; did you mean `upper`?"),
        ("{{ a | selectattr('b', 'define') }}", "there is no test `define`; did you mean `defined`?"),
        ("{{ a.ljust(3) }}", "there is no method `ljust`; "),
        ("{{ a.replace('a', 'b') }}", "there is no method `replace`; use the filter `| replace`"),
        ("{{ a | replace('b') }}", "the filter `replace` takes (old, new, count=None): missing"),
        ("{{ a | map('replace', 'b') }}", "the filter `replace` takes (old, new, count=None): missing"),
        (
            "{{ a | sort(key='b') }}",
            "the filter `sort` takes (reverse=False, case_sensitive=False",
        ),
        ("{{ _variables.a }}", "there is no name `_variables`; "),
        ("{{ _secrets }}", "`_secrets` is read by name, as in `_secrets.NAME`"),
        ("{{ _nodeOutputs | length }}", "`_nodeOutputs` is read by name"),
        ("{{ _secrets[a] }}", "`_secrets` is read by a name that stands in the expression"),
        ("{{ 1e999 }}", "a literal: inf is not JSON"),
        ("{{ '\\x00' }}", "a literal: text with U+0000 cannot be stored"),
    ],
)
def test_a_text_that_does_not_compile_is_refused_with_what_to_do(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=re.escape(message)):
        compile_template({"a": [text]})


def test_every_string_that_does_not_compile_is_reported_with_its_path() -> None:
    problems = check_template(
        {
            "arguments": {"orderId": "{{ a | uper }}", "fine": "{{ a }}"},
            "items": ["text", 1, {"name": "{% if %}"}],
            "headers": {"X-Id": "{{ a"},
        }
    )

    assert [problem.path for problem in problems] == ["arguments.orderId", "items[2].name", "headers['X-Id']"]
    assert "did you mean `upper`?" in problems[0].message


def test_a_string_alone_is_reported_at_the_empty_path() -> None:
    assert [problem.path for problem in check_template("{{ a b }}")] == [""]
    assert check_template("{{ a }} {{ b | upper }}") == []


# -- bounds ----------------------------------------------------------------------------------------------


def test_outputs_are_never_listed_or_counted() -> None:
    assert (
        evaluate("{{ _nodeOutputs.a.receipt }}{{ b.receipt }}", node_outputs=Stored(lambda _: CHARGE))
        == "r-1r-1"
    )


def test_lists_as_long_as_an_output_may_be_are_within_the_bounds() -> None:
    rows = [{"id": number, "total": number % 100} for number in range(20_000)]
    chain = "rows | selectattr('total', 'gt', 50) | sort(attribute='total') | map(attribute='id') | join(',')"

    assert evaluate(f"{{{{ {chain} }}}}", variables={"rows": rows}).startswith("51,151,")


def test_work_is_bounded_for_the_value_as_a_whole() -> None:
    some = "{{ range(90000) | sum }}"
    assert evaluate(some) == 4_049_955_000

    with pytest.raises(ExpressionError, match="more than 1,000,000 steps of work"):
        evaluate([some] * 20)


def test_the_result_of_compiling_does_not_depend_on_the_depth_of_the_callers_stack() -> None:
    expression = "{{ " + "(" * 25 + "1" + ")" * 25 + " }}"

    def at_depth(levels: int) -> Any:
        return at_depth(levels - 1) if levels else evaluate(expression)

    assert at_depth(300) == 1


# -- what Jinja2's lexer does on its own -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{- 42 }}", 42),
        ("{{-42-}}", 42),
        (" {{- 42 -}} ", 42),
        ("{{+ 42 }}", 42),
        ("{{ -42 }}", -42),
        ("{{--42 }}", -42),
        ("total: {{- 42 -}} EUR", "total:42EUR"),
        ("total:\n  {{- 42 }} EUR", "total:42 EUR"),
        ("{{ 1 -}}  {{ 2 }}  {{- 3 }}", "123"),
        ("{{ 1 }} - {{- 2 }}", "1 -2"),
        ("a {{+ 1 }} b", "a 1 b"),
        ("{{ '-' -}} b", "-b"),
        ("{{ 'a -}} b' }}", "a -}} b"),
    ],
)
def test_white_space_control_is_that_of_jinja2(text: str, value: Any) -> None:
    assert evaluate(text) == value
    if isinstance(value, str):
        assert jinja2.Environment().from_string(text).render() == value


@pytest.mark.parametrize("text", ["{{-", "{{ 1 +}}", "{{-}}", "{{ 1 --}}"])
def test_braces_with_a_sign_that_means_nothing_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text)


@pytest.mark.parametrize("text", ["a\r\nb", "a\rb", r"C:\été", "\\\\é", "é\\tü"])
@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_literal_keeps_its_line_breaks_and_what_is_not_ascii(text: str, quote: str) -> None:
    expected = text.replace("\\\\", "\\").replace("\\t", "\t")

    assert evaluate(f"{{{{ {quote}{text}{quote} }}}}") == expected


@pytest.mark.parametrize("field", ["{{- order.total }}", " {{ order.total -}} "])
def test_one_expression_with_white_space_control_is_still_one(field: str) -> None:
    assert whole_expression(field) == "order.total"
    assert whole_expression(f"{field} {field}") is None
