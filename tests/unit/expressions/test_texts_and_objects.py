"""Objects are taken apart and merged, texts split, encoded and matched, within the bounds of expressions."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_engine.errors import ExpressionError
from workflow_engine.expressions import Scope, compile_template, regex

VARIABLES = {
    "order": {"customer": {"city": "Kiel", "name": "Ada"}, "id": 7, "lines": [{"sku": "a-1"}]},
    "row": "a;b;;c",
}


def evaluate(expression: str, **variables: Any) -> Any:
    return compile_template(f"{{{{ {expression} }}}}").evaluate(Scope({**VARIABLES, **variables}))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("row | split(';')", ["a", "b", "", "c"]),
        ("row | split(';', 1)", ["a", "b;;c"]),
        ("' a  b ' | split", ["a", "b"]),
        ("['a,b', 'c'] | map('split', ',')", [["a", "b"], ["c"]]),
        ("row | slice(0, 3)", "a;b"),
        ("[1, 2, 3, 4] | slice(1)", [2, 3, 4]),
        ("[1, 2, 3, 4] | slice(stop=-1, step=2)", [1, 3]),
        ("['abc', 'def'] | map('slice', 1)", ["bc", "ef"]),
        ("order | keys", ["customer", "id", "lines"]),
        ("order.customer | values", ["Kiel", "Ada"]),
        ("order | get('id')", 7),
        ("order | get('total')", None),
        ("order | get('total', 0)", 0),
        ("order | get('lines') | get(0, default={})", {"sku": "a-1"}),
        ("order.lines | get(3, 'none')", "none"),
        ("order.lines | map('get', 'sku', '?')", ["a-1"]),
        ("{'a': 1, 'b': 1} | merge({'b': 2}, {'c': 3})", {"a": 1, "b": 2, "c": 3}),
        ("order | merge({'customer': {'city': 'Bonn'}}) | get('customer')", {"city": "Bonn"}),
        (
            "order | merge({'customer': {'city': 'Bonn'}}, deep=true) | get('customer')",
            {"city": "Bonn", "name": "Ada"},
        ),
        ("{'a': {'b': 1}} | merge({'a': 2}, {'a': {'c': 3}}, deep=true)", {"a": {"c": 3}}),
        ("{'b': 1} | merge({'a': 2}) | keys", ["a", "b"]),
        ("'Grüße' | base64", "R3LDvMOfZQ=="),
        ("'R3LDvMOfZQ==' | base64decode", "Grüße"),
        ("'fn5-Pw' | base64decode", "~~~?"),
        ("['user', 'pass'] | join(':') | base64", "dXNlcjpwYXNz"),
        ("'' | sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("{'b': 1, 'a': 2} | sha256", "d3626ac30a87e6f7a6428233b3c68299976865fa5508e4267c5415c76af7a772"),
        ("'ord-42' | regex_match('^ord-[0-9]+$')", True),
        ("'my ord-42' | regex_match('ord-[0-9]+')", True),
        ("'my ord-42' | regex_match('^ord')", False),
        ("['a1', 'b', 'c2'] | map('regex_match', '[0-9]')", [True, False, True]),
        ("'a1b22' | regex_replace('[0-9]+', '#')", "a#b#"),
        ("'a1b22' | regex_replace('[0-9]')", "ab"),
        (r"'Ada Lovelace' | regex_replace('(\\w+) (?P<last>\\w+)', '\\g<last>, \\1')", "Lovelace, Ada"),
        (r"'ab' | regex_replace('b', '\\\\\\0')", "a\\b"),
        ("'äöü' | regex_replace('', '-')", "-ä-ö-ü-"),
        ("'Straße' | regex_replace('(?i)SS|ß', 'ss')", "Strasse"),
        (r"'x' | regex_replace('(x)|(y)', '[\\1\\2]')", "[x]"),
    ],
)
def test_each_operation_does_what_its_name_says(expression: str, value: Any) -> None:
    result = evaluate(expression)

    assert result == value
    assert type(result) is type(value)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_base64_gives_back_the_text_that_it_was_given(text: str) -> None:
    assert evaluate("text | base64 | base64decode", text=text) == text


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 | split(',')", "`split` is text, not a number"),
        ("row | split('')", "empty separator"),
        ("row | split(1)", "`sep` is text, not a number"),
        ("{} | slice(1)", "an object cannot be sliced; lists and texts can"),
        ("[1] | slice('1')", "the bounds of a slice are integers"),
        ("[] | keys", "`keys` needs an object, not a list"),
        ("row | values", "`values` needs an object, not text"),
        ("row | get('a')", "`get` needs an object or a list, not text"),
        ("{} | merge([])", "`merge` needs an object, not a list"),
        ("none | merge({})", "`merge` needs an object, not null"),
        ("'_' | base64decode", "it is not the Base64 of a text in UTF-8"),
        ("'a b=' | base64decode", "it is not the Base64 of a text in UTF-8"),
        ("'gICA' | base64decode", "it is not the Base64 of a text in UTF-8"),
        ("'AA==' | base64decode", "text with U+0000 cannot be stored"),
        ("row | regex_match(1)", "a pattern is text, not a number"),
        ("row | regex_match('(a')", "'(a' is no pattern of RE2: missing ): (a"),
        (r"row | regex_match('(a)\\1')", "is no pattern of RE2: invalid escape sequence"),
        ("row | regex_match('(?=a)')", "is no pattern of RE2: invalid perl operator"),
        (r"row | regex_replace('a', '\\1')", r"`\1` in a replacement names no group of the pattern"),
        (r"row | regex_replace('a', '\\n')", r"names no group of the pattern"),
        ("row | b64encode", "there is no filter `b64encode`; did you mean `base64`?"),
        ("row | regex_search('a')", "there is no filter `regex_search`; did you mean `regex_match`?"),
        ("order | combine({})", "there is no filter `combine`; did you mean `merge`?"),
    ],
)
def test_a_refusal_says_what_was_expected(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        evaluate(expression)
    assert message in str(refused.value)


def test_without_google_re2_a_pattern_is_refused_before_anything_runs(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    regex._compiled.cache_clear()
    regex._re2.cache_clear()

    with pytest.raises(ExpressionError, match=r"install 'celery-workflow-engine\[regex\]' wherever"):
        compile_template("{{ row | regex_match('a, at the only place where it is used') }}")
    assert evaluate("row | split(';') | length") == 4
