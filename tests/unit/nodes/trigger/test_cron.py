"""A cron expression has the due times that people expect, over changes of daylight saving time too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_engine.nodes.trigger.cron import CronSchedule, check_cron, instant, time_zone

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"
LORD_HOWE = "Australia/Lord_Howe"  # its clocks change by half an hour
BEIRUT = "Asia/Beirut"  # where the gap begins at midnight


def schedule(cron: str, zone: str = "UTC", start: str | None = None, end: str | None = None) -> CronSchedule:
    tz = ZoneInfo(zone)
    return CronSchedule(cron, tz, *(instant(text, tz) if text else None for text in (start, end)))


def due_times(plan: CronSchedule, after: str, until: str) -> list[str]:
    """Return due local times with their offsets, `after` excluded."""
    found, moment, last = [], datetime.fromisoformat(after), datetime.fromisoformat(until)
    while (due := plan.next_after(moment)) is not None and due <= last:
        found.append(due.astimezone(plan.zone).strftime("%d %H:%M%z"))
        moment = due
    return found


@pytest.mark.parametrize(
    ("zone", "cron", "day", "expected"),
    [
        # 29 March 2026, Berlin: 02:00 becomes 03:00.
        (BERLIN, "30 2 * * *", "2026-03-28", ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]),
        (BERLIN, "0,30 2 * * *", "2026-03-29", ["29 03:00+0200", "30 02:00+0200", "30 02:30+0200"]),
        (BERLIN, "0 3 * * *", "2026-03-28", ["28 03:00+0100", "29 03:00+0200", "30 03:00+0200"]),
        # 8 March 2026, New York: 02:00 becomes 03:00.
        (NEW_YORK, "15 2 8 3 *", "2026-03-08", ["08 03:00-0400"]),
        # 4 October 2026, Lord Howe Island: 02:00 becomes 02:30.
        (LORD_HOWE, "15 2 * * *", "2026-10-04", ["04 02:30+1100", "05 02:15+1100", "06 02:15+1100"]),
        # 29 March 2026, Beirut: 00:00 becomes 01:00.
        (BEIRUT, "0 0 * * *", "2026-03-28", ["28 00:00+0200", "29 01:00+0300", "30 00:00+0300"]),
    ],
)
def test_a_time_that_does_not_exist_fires_once_right_after_the_gap(
    zone: str, cron: str, day: str, expected: list[str]
) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)) - timedelta(minutes=1)
    until = begin + timedelta(days=3)

    assert due_times(schedule(cron, zone), begin.isoformat(), until.isoformat())[: len(expected)] == expected


@pytest.mark.parametrize(
    ("zone", "cron", "day", "expected"),
    [
        # 25 October 2026, Berlin: 03:00 becomes 02:00.
        (BERLIN, "30 2 * * *", "2026-10-24", ["24 02:30+0200", "25 02:30+0200", "26 02:30+0100"]),
        # 1 November 2026, New York: 02:00 becomes 01:00.
        (NEW_YORK, "0,30 1 * * SUN", "2026-11-01", ["01 01:00-0400", "01 01:30-0400"]),
        # 5 April 2026, Lord Howe Island: 02:00 becomes 01:30.
        (LORD_HOWE, "45 1 * * *", "2026-04-04", ["04 01:45+1100", "05 01:45+1100", "06 01:45+1030"]),
    ],
)
def test_a_time_that_exists_twice_fires_once(zone: str, cron: str, day: str, expected: list[str]) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)) - timedelta(minutes=1)
    until = begin + timedelta(days=3)

    assert due_times(schedule(cron, zone), begin.isoformat(), until.isoformat())[:3] == expected


def test_a_time_is_not_due_again_in_the_second_pass_of_its_hour() -> None:
    in_second_pass = datetime(2026, 10, 25, 1, 15, tzinfo=UTC)
    assert in_second_pass.astimezone(ZoneInfo(BERLIN)).strftime("%H:%M %Z") == "02:15 CET"

    due = schedule("30 2 * * *", BERLIN).next_after(in_second_pass)

    assert due == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_an_interval_goes_by_the_time_that_passes() -> None:
    every_half_hour = schedule("*/30 * * * *", BERLIN)
    spring = due_times(every_half_hour, "2026-03-29T01:00+01:00", "2026-03-29T04:00+02:00")
    autumn = due_times(every_half_hour, "2026-10-25T01:30+02:00", "2026-10-25T03:00+01:00")

    assert spring == ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200", "29 04:00+0200"]
    assert autumn == [
        *("25 02:00+0200", "25 02:30+0200"),
        *("25 02:00+0100", "25 02:30+0100"),
        "25 03:00+0100",
    ]


def test_a_schedule_is_due_from_its_start_to_its_end_both_included() -> None:
    daily = schedule("0 9 * * *", BERLIN, start="2026-03-28T09:00", end="2026-03-30T07:00:00Z")

    assert due_times(daily, "2020-01-01T00:00Z", "2030-01-01T00:00Z") == [
        *("28 09:00+0100", "29 09:00+0200", "30 09:00+0200"),
    ]
    assert schedule("0 9 * * *", end="2026-01-01").next_after(datetime(2026, 1, 1, tzinfo=UTC)) is None


CRONS = ["* * * * *", "*/7 * * * *", "30 2 * * *", "0,30 1-3 * * *", "0 * * * *", "15 0 1 * *", "0 2 29 2 *"]
ZONES = ["UTC", BERLIN, NEW_YORK, LORD_HOWE, BEIRUT, "America/Santiago", "Asia/Kathmandu"]
MOMENTS = st.datetimes(datetime(2015, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))
SCHEDULES = st.builds(schedule, st.sampled_from(CRONS), st.sampled_from(ZONES))


@given(SCHEDULES, MOMENTS, st.timedeltas(timedelta(0), timedelta(days=3)))
def test_due_times_do_not_depend_on_the_moment_from_which_one_looks(
    plan: CronSchedule, moment: datetime, later: timedelta
) -> None:
    due = plan.next_after(moment)

    assert due is not None
    assert due > moment
    assert due.astimezone(plan.zone).second == 0
    between = min(moment + later, due - timedelta(microseconds=1))
    assert plan.next_after(max(moment, between)) == due


@given(SCHEDULES, MOMENTS, st.timedeltas(timedelta(0), timedelta(days=1)))
def test_the_last_due_time_is_the_one_that_counting_each_would_give(
    plan: CronSchedule, moment: datetime, outage: timedelta
) -> None:
    first = plan.next_after(moment)
    assert first is not None
    due, now = first, first + outage
    while (following := plan.next_after(due)) is not None and following <= now:
        due = following

    assert plan.last_until(now, first=first) == due


def test_a_year_of_missed_minutes_is_not_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    look = CronSchedule.next_after
    monkeypatch.setattr(
        CronSchedule, "next_after", lambda plan, moment: [looks.append(moment), look(plan, moment)][1]
    )
    now = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)

    last = schedule("* * * * *").last_until(now, first=now - timedelta(days=365, seconds=30))

    assert last == now - timedelta(seconds=30)
    assert len(looks) < 100


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "does not have five fields"),
        ("@daily", "does not have five fields"),
        ("0 0 9 * * *", "does not have five fields"),
        ("60 * * * *", "the minute of '60 * * * *' is invalid"),
        ("* 24 * * *", "the hour of"),
        ("* * 0 * *", "the day-of-month of"),
        ("* * * JANUARY *", "the month of"),
        ("* * * * MON-SUN", "the day-of-week of"),
        ("0 0 31 4 *", "the day-of-month of"),
        ("0 0 */40 * 1L", "is never due"),
    ],
)
def test_an_invalid_cron_expression_is_refused_in_plain_words(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        check_cron(expression)


@pytest.mark.parametrize(
    "expression",
    ["* * * * *", "0 9 * * mon-fri", "*/5 8-18 * * 1,3", "0 0 L * *", "0 0 * * 5L", "0 0 29 2 *"],
)
def test_what_cron_understands_is_accepted(expression: str) -> None:
    check_cron(expression)
    assert schedule(expression).next_after(datetime(2026, 1, 1, tzinfo=UTC)) is not None


@pytest.mark.parametrize("name", ["Europe/Berln", "", "Europe", "../etc/passwd", "CEST+1 x"])
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no time zone; write one such as 'Europe/Berlin'"):
        time_zone(name)


def test_a_time_without_an_offset_is_one_of_the_zone() -> None:
    assert instant("2026-07-01T08:00", ZoneInfo(BERLIN)) == datetime(2026, 7, 1, 6, tzinfo=UTC)
    assert instant("2026-07-01T08:00-05:00", ZoneInfo(BERLIN)) == datetime(2026, 7, 1, 13, tzinfo=UTC)
    with pytest.raises(ValueError, match="'tomorrow' is not a time in ISO 8601"):
        instant("tomorrow", ZoneInfo(BERLIN))
