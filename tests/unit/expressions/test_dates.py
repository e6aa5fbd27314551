"""Dates in expressions are read, moved, compared and written in a zone by name, and stay text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_engine.errors import ExpressionError
from workflow_engine.expressions import Scope, compile_template

BERLIN = "zone='Europe/Berlin'"
"""Clocks there go forward on 2026-03-29 at 02:00, and back on 2026-10-25 at 03:00."""


def evaluate(expression: str, **variables: Any) -> Any:
    moment = datetime(2026, 1, 31, 23, 30, 0, 123456, tzinfo=UTC)
    return compile_template(f"{{{{ {expression} }}}}").evaluate(Scope(variables, now=lambda: moment))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'2026-01-31T09:00:00Z' | date", "2026-01-31T09:00:00.000Z"),
        ("'2026-01-31T09:00:00+02:00' | date", "2026-01-31T07:00:00.000Z"),
        ("'2026-01-31 09:00' | date", "2026-01-31T09:00:00.000Z"),
        ("'2026-01-31' | date", "2026-01-31T00:00:00.000Z"),
        ("'20260131T0900Z' | date", "2026-01-31T09:00:00.000Z"),
        ("'2026-W05-6' | date", "2026-01-31T00:00:00.000Z"),
        ("'2026-01-31T09:00:00.123456Z' | date", "2026-01-31T09:00:00.123Z"),
        ("'2026-01-31T09:00:00Z' | date('Europe/Berlin')", "2026-01-31T10:00:00.000+01:00"),
        (f"'2026-07-31T09:00' | date({BERLIN})", "2026-07-31T09:00:00.000+02:00"),
        (f"'2026-07-31T09:00' | date({BERLIN}) | date", "2026-07-31T07:00:00.000Z"),
        ("0 | date", "1970-01-01T00:00:00.000Z"),
        ("1769850000.5 | date", "2026-01-31T09:00:00.500Z"),
        ("1769850000123 | date(unit='milliseconds')", "2026-01-31T09:00:00.123Z"),
        ("-1 | date", "1969-12-31T23:59:59.000Z"),
        ("['2026-01-31', 86400] | map('date')", ["2026-01-31T00:00:00.000Z", "1970-01-02T00:00:00.000Z"]),
        ("('2026-01-31' | date) < ('2026-02-01T00:30+01:00' | date)", True),
    ],
)
def test_a_date_is_read_from_iso_8601_or_from_the_time_since_1970(expression: str, value: Any) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("now()", "2026-01-31T23:30:00.123Z"),
        ("now('Europe/Berlin')", "2026-02-01T00:30:00.123+01:00"),
        ("today()", "2026-01-31"),
        (f"today({BERLIN})", "2026-02-01"),
        ("today('America/New_York')", "2026-01-31"),
        ("now() | dateadd(days=1) | datediff(now(), 'hours')", -24.0),
    ],
)
def test_now_and_today_are_the_time_that_the_engine_gives_them(expression: str, value: Any) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'2026-01-31' | dateadd(months=1)", "2026-02-28T00:00:00.000Z"),
        ("'2024-02-29' | dateadd(years=1)", "2025-02-28T00:00:00.000Z"),
        ("'2026-01-31' | dateadd(months=-2)", "2025-11-30T00:00:00.000Z"),
        ("'2026-01-31' | dateadd(weeks=1, days=-1)", "2026-02-06T00:00:00.000Z"),
        ("'2026-01-31' | dateadd(hours=1.5, minutes=-10, seconds=0.25)", "2026-01-31T01:20:00.250Z"),
        ("'2026-01-31T23:00Z' | dateadd(years=1, months=1, hours=2)", "2027-03-01T01:00:00.000Z"),
        # A day later is the same time of day, 24 hours later is not.
        (f"'2026-03-28T10:00' | dateadd(days=1, {BERLIN})", "2026-03-29T10:00:00.000+02:00"),
        (f"'2026-03-28T10:00' | dateadd(hours=24, {BERLIN})", "2026-03-29T11:00:00.000+02:00"),
        # 02:30 does not exist on the 29th, and comes twice on the 25th of October.
        (f"'2026-03-28T02:30' | dateadd(days=1, {BERLIN})", "2026-03-29T03:30:00.000+02:00"),
        (f"'2026-10-24T02:30' | dateadd(days=1, {BERLIN})", "2026-10-25T02:30:00.000+02:00"),
        (f"'2026-10-25T00:30Z' | dateadd(hours=1, {BERLIN})", "2026-10-25T02:30:00.000+01:00"),
    ],
)
def test_a_date_moves_by_the_calendar_of_its_zone_and_then_by_elapsed_time(
    expression: str, value: str
) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'2026-01-01' | datediff('2026-01-31')", 30.0),
        ("'2026-01-31' | datediff('2026-01-01', 'weeks') | round(2)", -4.29),
        ("'2026-01-01' | datediff('2026-01-01T01:30Z', 'hours')", 1.5),
        ("'2026-01-01' | datediff('2026-01-01T01:30Z', unit='minutes')", 90.0),
        ("0 | datediff(1.5, 'milliseconds')", 1500.0),
        ("0 | datediff(1, 'seconds')", 1.0),
        (f"'2026-03-28T10:00' | datediff('2026-03-29T10:00', 'days', {BERLIN})", 1.0),
        (f"'2026-03-28T10:00' | datediff('2026-03-29T10:00', 'hours', {BERLIN})", 23.0),
        ("'2026-01-31' | datediff('2026-02-28', 'months')", 1),
        ("'2026-01-15T12:00' | datediff('2026-02-15T11:59', 'months')", 0),
        ("'2024-02-29' | datediff('2026-02-28', 'years')", 2),
        ("'2026-02-28' | datediff('2024-02-29', 'years')", -2),
    ],
)
def test_a_difference_runs_from_the_value_to_the_argument(expression: str, value: float) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("", "2026-03-05"),
        ("'%d.%m.%Y %H:%M:%S'", "05.03.2026 07:08:09"),
        ("'%-d.%-m.%y, %-I:%M %p'", "5.3.26, 7:08 AM"),
        ("'%A, %B %-d (%a %b)'", "Thursday, March 5 (Thu Mar)"),
        ("'%G-W%V-%u, day %j'", "2026-W10-4, day 064"),
        ("'%F %T.%f'", "2026-03-05 07:08:09.500000"),
        (f"'%H:%M %z %:z %Z', {BERLIN}", "08:08 +0100 +01:00 CET"),
        ("'%z %Z'", "+0000 UTC"),
        ("'%s'", "1772694489"),
        ("'100 %%'", "100 %"),
    ],
)
def test_a_date_is_written_as_strftime_does_in_english(form: str, text: str) -> None:
    assert evaluate(f"'2026-03-05T07:08:09.5Z' | dateformat({form})") == text


@given(st.datetimes(datetime(1900, 1, 2), datetime(2100, 1, 1)), st.sampled_from("YmdHIMSfpjyaAbBuGV"))
def test_a_directive_means_what_it_means_in_python(moment: datetime, letter: str) -> None:
    zone = "America/New_York"
    there = moment.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
    text = moment.isoformat() + "Z"

    assert evaluate(f"text | dateformat('%{letter}', '{zone}')", text=text) == there.strftime(f"%{letter}")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("'31.1.2026' | date", "a date is text in ISO 8601, such as '2026-01-31T09:00:00Z', or seconds"),
        ("'2026-02-30' | date", "a date is text in ISO 8601"),
        ("true | date", "or seconds since 1970, not a boolean"),
        ("[] | date", "not a list"),
        ("'2026-01-31' | dateadd(days='1')", "`days` is an integer, not text"),
        ("'2026-01-31' | dateadd(days=0.5)", "`days` is an integer, not a number"),
        ("'2026-01-31' | dateadd(hours=true)", "`hours` is a number, not a boolean"),
        ("'2026-01-31' | dateadd(years=8000)", "the date is outside of the years 1 to 9999"),
        ("zone | date(zone)", "there is no time zone 'Europe/Bonn'; use a name such as 'UTC'"),
        ("nothing | date", "`nothing` is undefined"),
    ],
)
def test_what_is_no_date_is_refused_with_the_form_that_is(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        evaluate(expression, zone="Europe/Bonn")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a | dateformat('%Q')", "`%Q` is no part of a date; there are %Y"),
        ("a | dateformat('100 %')", "`%` is no part of a date"),
        ("a | date('%d.%m.%Y')", "there is no time zone '%d.%m.%Y'; use a name such as 'UTC'"),
        ("a | date('%d.%m.%Y')", "to write a date in another form use `dateformat`"),
        ("a | date(unit='ms')", "`unit` is 'seconds' or 'milliseconds' since 1970"),
        ("a | dateadd(day=1)", "the filter `dateadd` takes (years=0, months=0, weeks=0, days=0"),
        ("a | dateadd(days='1')", "`days` is an integer, not text"),
        ("a | datediff('yesterday')", "a date is text in ISO 8601"),
        ("a | datediff('2026-01-01', 'fortnights')", "`unit` is one of milliseconds, seconds, minutes"),
        ("a | strftime('%d')", "there is no filter `strftime`; did you mean `dateformat`?"),
        ("a | date_add(1)", "there is no filter `date_add`; did you mean `dateadd`?"),
        ("tody()", "there is no function `tody`; did you mean `today`?"),
    ],
)
def test_constant_arguments_are_checked_before_anything_runs(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        compile_template(f"{{{{ {expression} }}}}")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/localtime",
        "Europe",
        "Europe/",
        "tzdata.zi",
        "posix/../UTC",
        "a" * 5_000,
        "Europe/Berlin\n",
        "\0",
        "",
        "é",
    ],
)
def test_the_name_of_a_zone_never_reaches_a_file_that_is_none(name: str) -> None:
    with pytest.raises(ExpressionError, match="there is no time zone"):
        evaluate("0 | date(name)", name=name)
