"""When a cron expression is due in a time zone, also where the clocks change.

The calendar is cronsim's, which behaves like Debian's cron. A schedule at fixed times of day fires once a
day. A time that the clocks jump over fires right after the gap, one that they show twice fires the first
time. A schedule whose minutes or hours begin with `*` is an interval and follows elapsed time. An hour that
comes twice has all its times twice, an hour that is left out has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from workflow_engine.json_values import is_storable_time

FORM = "minute, hour, day of month, month and day of week, as in '0 9 * * MON-FRI'"

A_MOMENT = timedelta(microseconds=1)


def check_cron(expression: str) -> None:
    """Raise ValueError if this is no cron expression of five fields, or one that is never due."""
    if len(expression.split()) != 5:
        raise ValueError(f"{expression!r:.60} does not have five fields; write {FORM}")
    try:
        first = next(CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC)), None)
    except CronSimError as error:
        what = str(error).removeprefix("Bad ")
        raise ValueError(f"the {what} of {expression!r:.60} is invalid; write {FORM}") from None
    if first is None:
        raise ValueError(f"{expression!r:.60} is never due: no such day exists")


def time_zone(name: str) -> ZoneInfo:
    """Return the IANA time zone of this name. Raises ValueError if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # not a file name, or that of a folder
        raise ValueError(f"{name!r:.60} is no time zone; write one such as 'Europe/Berlin'") from None


def instant(text: str, zone: ZoneInfo) -> datetime:
    """Return a time written in ISO 8601, in this zone if it names no offset. Raises ValueError."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r:.60} is not a time in ISO 8601, such as '2026-03-29T08:00:00Z'") from None
    moment = given if given.tzinfo else given.replace(tzinfo=zone)
    if not is_storable_time(moment):
        raise ValueError(f"{text!r:.60} is not a time between the years 1 and 9999")
    return moment.astimezone(UTC)


@dataclass(frozen=True)
class SingleTime:
    """A schedule of one time; it begins and ends with it."""

    at: datetime
    start: datetime
    end: datetime

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the time if it is later than `moment`."""
        return self.at if self.at > moment else None

    def last_until(self, moment: datetime, *, first: datetime) -> datetime:
        """Return the time itself, which is `first`."""
        return first


@dataclass(frozen=True)
class CronSchedule:
    """A cron expression in a zone, from `start` to `end`, both included if they are due."""

    cron: str
    zone: ZoneInfo
    start: datetime | None = None
    end: datetime | None = None

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first due time later than `moment`, in UTC; None if there is none within 50 years."""
        if self.start is not None and self.start > moment:
            moment = self.start - A_MOMENT
        for local in CronSim(self.cron, moment.astimezone(self.zone)):
            due = local.astimezone(UTC)
            if due > moment:  # within a repeated hour, cronsim goes back to its first pass
                return due if self.end is None or due <= self.end else None
        return None

    def last_until(self, moment: datetime, *, first: datetime) -> datetime:
        """Return the last due time not later than `moment`, where `first` is one of those.

        Looks back over windows that double, so that a year of missed minutes is not counted one by one.
        """
        due, window = first, timedelta(hours=1)
        while moment - window > first:
            candidate = self.next_after(moment - window)
            if candidate is not None and candidate <= moment:
                due = candidate
                break
            window *= 2
        while (following := self.next_after(due)) is not None and following <= moment:
            due = following
        return due
