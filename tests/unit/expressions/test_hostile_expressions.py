"""Expressions written to exhaust a worker or to reach Python are refused, quickly and in little memory.

They run in one child process that has 512 MB of address space and, for each, two seconds of processor time:
one that gets through cannot take the tests down with it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

DEEP = 5_000

EXHAUSTING = {
    "a power tower": "9 ** (9 ** 8)",
    "powers in a row": "2 ** 10 ** 9",
    "a power of a negative number": "(-7) ** 1000000000",
    "a power of data": "numbers[1] ** numbers[1] ** numbers[1]",
    "a long chain of products": " * ".join(["9223372036854775807"] * 60),
    "an integer of thousands of digits": "1" + "0" * 9_000,
    "an integer beyond 64 bits": "9223372036854775807 + 1",
    "an infinite literal": "1e999",
    "a float that overflows": "1e308 * 10",
    "rounding to a million digits": "1.5 | round(1000000000, 'ceil')",
    "a text repeated": "'a' * 1000000000",
    "a text repeated from the right": "1000000000 * 'a'",
    "a text repeated repeatedly": "'a' * 100000 * 100000",
    "a list repeated": "[1] * 1000000000",
    "lists repeated in lists": "[[[1] * 100000] * 100000] * 100000",
    "lists repeated in lists, compared": "[[[1] * 900] * 900] * 900 == [[[1] * 900] * 900] * 900",
    "lists repeated in lists, as text": "([[[1] * 900] * 900] * 900) | string",
    "lists repeated in lists, sorted": "([[[1] * 900] * 900] * 900) | sort",
    "lists repeated in lists, searched": "[[2] * 900] * 90000 in [[[2] * 900] * 90000]",
    "lists repeated in lists, compared with lt": "[[[1] * 900] * 900] * 900 < [[[1] * 900] * 900] * 900",
    "lists repeated in lists, made unique": "([[[1] * 900] * 900] * 900) | unique",
    "a long text, joined to itself": "('a' * 1000000) ~ ('a' * 1000000)",
    "long texts added": "('a' * 1000000) + ('a' * 1000000)",
    "a long separator": "(['a'] * 100000) | join('a' * 10000)",
    "a long replacement": "('a' * 100000) | replace('a', 'b' * 100000)",
    "an insertion between all characters": "('a' * 100000) | replace('', 'b' * 100000)",
    "a wide format": "'%1000000000d' % 1",
    "a precise format": "'%.1000000000f' % 1",
    "a format of many fields": "('%999d' * 10000) % ([1] * 10000)",
    "a format with a width from data": "'%*d' % [1000000000, 1]",
    "a format of one text many times": "('%s' * 1000) % ([('a' * 10000)] * 1000)",
    "a long text in JSON": "([('a' * 1000000)] * 1000) | tojson",
    "a long text in a URL": "('ä' * 1000000) | urlencode",
    "a long text in a part of a URL": "(['ä' * 100000] * 1000) | map('urlpart')",
    "capitals of long texts": "([('ΐ' * 300000)] * 1000) | map('upper')",
    "a huge range": "range(1000000000)",
    "a range beyond C": "range(9223372036854775807)",
    "a range downwards": "range(0, -1000000000, -1)",
    "a range without a step": "range(1, 2, 0)",
    "ranges of a range": "range(1000) | map('string') | map('replace', '', 'a' * 1000) | list | tojson",
    "each of many in many": "range(100000) | select('in', range(100000))",
    "each of many equal to many": "([range(10000)] * 100000) | select('eq', range(10000))",
    "each of many in a long text": "(['b'] * 100000) | select('in', 'a' * 1000000)",
    "many long texts, equal, not the same": "(['a' * 1000000] * 100000) | select('eq', 'a' ~ 'a' * 999999)",
    "many long texts, sorted": "(['a' * 1000000] * 50000 + ['a' ~ 'a' * 999999] * 50000) | sort",
    "a long attribute": "range(100000) | map(attribute='a' * 1000000, default=1)",
    "an attribute of many keys": "range(100000) | map(attribute='a.' * 100000, default=1)",
    "nested maps": "([range(300)] * 10000) | map('map', 'abs')",
    "sums of lists": "([range(200)] * 400) | sum(start=[])",
    "long needles": "([('a' * 1000000)] * 100) | map('replace', 'a' * 60 ~ 'b', 'c')",
    "long needles in texts that nearly match": "(['b' ~ 'a' * 90] * 1000) | select('in', 'a' * 1000000)",
    "titles of many words": "([('a-' * 500000)] * 100) | map('title')",
    "a long strip": "('a' * 1000000).strip('b' * 1000000 ~ 'a')",
    "a split into characters": "('a ' * 500000).split()",
    "pieces of a split text": "([('a,' * 45000)] * 100) | map('list')",
    "a text split by a letter": "('a,' * 500000) | split(',')",
    "a text split by nothing, again and again": "(['a ' * 40000] * 100) | map('split')",
    "slices of long lists": "([range(90000)] * 90000) | map('slice', 0, 80000)",
    "slices without a step": "range(9) | slice(0, 9, 0)",
    "the keys of many objects": "([wide] * 90000) | map('keys')",
    "the values of many objects": "([wide] * 90000) | map('values')",
    "objects merged again and again": "([wide] * 90000) | map('merge', wide)",
    "deep objects merged": "tree | merge(tree, deep=true)",
    "deep objects merged many times": "([branch] * 90000) | map('merge', branch, deep=true)",
    "parts of what is very long": "(['a' * 1000000] * 1000) | map('base64')",
    "base64 of base64": "('a' * 900000) | base64 | base64",
    "base64 read many times": "(['YWFh' * 200000] * 1000) | map('base64decode')",
    "hashes of long texts": "(['ä' * 500000] * 10000) | map('sha256')",
    "hashes of many objects": "([wide] * 90000) | map('sha256')",
    "many dates": "range(99999) | map('date')",
    "many dates written": "range(99999) | map('dateformat', '%A' * 100)",
    "many dates moved": "range(99999) | map('dateadd', months=9)",
    "many differences": "range(99999) | map('datediff', '2026-01-01')",
    "a date far away": "9223372036854775807 | date",
    "a date of a large float": "1e308 | date",
    "a date moved beyond the calendar": "'9999-12-31' | dateadd(days=1)",
    "a date moved by all that fits": "0 | dateadd(years=9223372036854775807, days=9223372036854775807)",
    "a date moved by a large float": "0 | dateadd(hours=1e308)",
    "a date moved out of its zone": "'0001-01-01T00:00Z' | date('America/New_York')",
    "a date that is long": "('2026-01-01' ~ ' ' * 900000) | date",
    "a date of digits": "('9' * 900000) | date",
    "a format that is wide": "0 | dateformat('%1000000000Y')",
    "a format that is long": "0 | dateformat('%A' * 400000)",
    "a zone out of the folder": "0 | date('../../../../etc/passwd')",
    "a zone of data": "0 | date('Europe/' ~ 'x' * 900000)",
    "a zone that is a folder": "today('America')",
    "a pattern that goes back": "('a' * 900000) | regex_match('(a{0,900}b)|(a{0,900}c)')",
    "a pattern of many repetitions": "('a' * 900000) | regex_match('[ab]{1000}c')",
    "a pattern of nested repetitions": "'a' | regex_match('(((a{30}){30}){30}){30}')",
    "a pattern that is large": "'a' | regex_match('(.{1,1000}){1,1000}')",
    "a pattern that is long": "'a' | regex_match('a?' * 5000 ~ 'a' * 5000)",
    "a pattern deep in brackets": "'a' | regex_match('(' * 900 ~ ')' * 900)",
    "a pattern tried on many texts": "(['a' * 99999] * 999) | map('regex_match', '(a+)+$')",
    "a match that looks far ahead": "('a' * 300000) | regex_replace('a(.*b)?', 'x')",
    "a match at each letter": "('a' * 900000) | regex_replace('a', 'x')",
    "a match between all letters": "('a' * 900000) | regex_replace('', 'x')",
    "a replacement that is long": "('a' * 9000) | regex_replace('a', 'b' * 9000)",
    "a replacement that repeats its match": r"('a' * 9000) | regex_replace('(a+)', '\\1' * 900)",
    "a replacement of many groups": r"'a' | regex_replace('a', '\\0' * 900000)",
    "deep brackets": "(" * DEEP + "1" + ")" * DEEP,
    "deep lists": "[" * DEEP + "]" * DEEP,
    "deep objects": "{'a':" * 1_000 + "1" + "}" * 1_000,
    "deep negations": "not " * 2_000 + "true",
    "deep signs": "- " * DEEP + "1",
    "deep additions": "+".join(["1"] * DEEP),
    "deep filters": "1" + "|abs" * 2_000,
    "deep conditions": "1 if 1 else " * 800 + "1",
    "a very long path that is not there": "numbers" + ".a" * 4_000,
    "a very long expression": "1 + " * 10_000 + "1",
    "a very long literal": "'" + "a" * 20_000 + "'",
    "quotes without end": "'\\" * 4_000,
    "very deep data": "deep | string",
    "very deep data, compared": "deep == deeper",
}

BREAKING_OUT = {
    "the class of a text": "''.__class__.__mro__",
    "the class of a number": "(1).__class__",
    "the class of the variables": "_vars.__class__",
    "the class in brackets": "''['__class__']['__base__']",
    "the globals of a function": "range.__globals__",
    "the code of a filter": "numbers | attr('__class__')",
    "a method of a list": "numbers.append(1)",
    "a method of an object": "_vars.update({'a': 1})",
    "a key as a method": "_metadata.items()",
    "format": "'{0.__class__}'.format(1)",
    "format_map": "'{a.__class__}'.format_map({'a': 1})",
    "a private method": "''.__class__()",
    "attributes by map": "[''] | map(attribute='__class__')",
    "attributes by the filter attr in map": "[''] | map('attr', '__class__')",
    "attributes by a computed filter name": "[''] | map('at' ~ 'tr', '__class__')",
    "attributes by sort": "['', ''] | sort(attribute='__class__')",
    "Jinja2's cycler": "cycler.__init__.__globals__",
    "Jinja2's cycler, called": "cycler(1)",
    "Jinja2's joiner": "joiner(', ')",
    "Jinja2's lipsum": "lipsum()",
    "Jinja2's namespace": "namespace(a=1)",
    "Jinja2's dict": "dict(a=1)",
    "Jinja2's self": "self._TemplateReference__context",
    "Jinja2's loop": "loop.index",
    "Jinja2's super": "super()",
    "the evaluation itself": "run.scope",
    "Python's import": "__import__('os')",
    "arguments from data": "range(*numbers)",
    "options from data": "numbers | sort(**_vars)",
    "all secrets": "_secrets",
    "all secrets as a list": "_secrets | list",
    "attributes by get": "'' | get('__class__')",
    "attributes by get of an object": "_vars | get('__class__') | get('__mro__')",
    "all secrets merged": "{} | merge(_secrets)",
    "the keys of all node outputs": "_nodeOutputs | keys",
    "a secret by get": "_secrets | get('AB')",
    "a secret by a computed name": "_secrets['A' ~ 'B']",
    "the provider of secrets": "_secrets._provider",
    "all node outputs": "_nodeOutputs | tojson",
    "the store of node outputs": "_nodeOutputs._load",
    "a call of a value": "(numbers)(1)",
    "a call of a call": "range(1)(1)",
    "an assignment": "a = 1",
    "a lambda": "(lambda: 1)()",
    "a comprehension": "[x for x in numbers]",
}

CHILD = """
import json, resource, signal, sys
from workflow_engine.errors import ExpressionError
from workflow_engine.expressions import Scope, compile_template

def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value

class TimeOut(BaseException):
    pass

def interrupt(*_):
    raise TimeOut

resource.setrlimit(resource.RLIMIT_AS, (512 * 2**20, 512 * 2**20))
signal.signal(signal.SIGPROF, interrupt)
tree = branch = {}
for level in range(5_000):
    tree = {"a": tree}
for level in range(90):
    branch = {"a": branch, "b": level}
variables = {
    "numbers": [1, 99], "deep": nested(50_000), "deeper": nested(50_000), "tree": tree, "branch": branch,
    "wide": {f"key {number}": number for number in range(1_000)},
}
scope = Scope(variables, {}, "start", {"startedAt": "now"})
for expression in json.load(sys.stdin):
    signal.setitimer(signal.ITIMER_PROF, 2)
    try:
        outcome = f"a result: {str(compile_template('{{ ' + expression + ' }}').evaluate(scope))[:60]}"
    except ExpressionError as error:
        outcome = "refused" if len(str(error)) < 2_000 else "a refusal too long to read"
    except BaseException as error:
        outcome = type(error).__name__
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps(outcome), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """Run each hostile expression; return the outcomes by title, or the child's stderr after a crash."""
    hostile = {**EXHAUSTING, **BREAKING_OUT}
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(list(hostile.values())),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    reported = map(json.loads, child.stdout.splitlines())
    return dict.fromkeys(hostile, child.stderr) | dict(zip(hostile, reported, strict=False))


@pytest.mark.parametrize("title", EXHAUSTING)
def test_an_expression_cannot_exhaust_time_or_memory(outcomes: dict[str, str], title: str) -> None:
    assert outcomes[title] == "refused"


@pytest.mark.parametrize("title", BREAKING_OUT)
def test_an_expression_cannot_reach_what_is_not_data(outcomes: dict[str, str], title: str) -> None:
    assert outcomes[title] == "refused"
