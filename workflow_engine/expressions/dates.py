"""Dates and times in expressions, all of them texts in ISO 8601: what JSON can hold, and what `now` writes.

One rule holds for every operation: a text without an offset is read in the `zone` given, and the result is
in that zone; UTC if none is given. Results have milliseconds, so those of one offset can be compared with
`<`. Formats are written here and not by the platform, whose names of days depend on its language and whose
`%1000000000Y` fills the memory.
"""

from __future__ import annotations

import functools
import re
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from workflow_engine.expressions.sandbox import Evaluation, RefusedError, is_number, kind

STEPS = 20
"""Work of one operation on a date, in steps of the evaluation."""

LONGEST_TEXT, LONGEST_FORMAT = 64, 200
"""Characters of a date, and of a format."""

_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")
_NO_DATE = "a date is text in ISO 8601, such as '2026-01-31T09:00:00Z', or seconds since 1970, not "


class OutOfRangeError(RefusedError):
    """A calculation leads beyond the years that a date may have."""

    def __init__(self) -> None:
        super().__init__("the date is outside of the years 1 to 9999")


@functools.lru_cache(maxsize=1024)
def _zone_file(name: str) -> tzinfo | None:
    if name == "UTC":
        return UTC
    if _ZONE_NAME.fullmatch(name) is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # nothing, or not a zone's file
        return None


def _zone(name: Any) -> tzinfo:
    if not isinstance(name, str):
        raise RefusedError(f"`zone` is the name of a time zone such as 'Europe/Berlin', not {kind(name)}")
    if len(name) > LONGEST_TEXT or (zone := _zone_file(name)) is None:
        advice = "; to write a date in another form use `dateformat`" if "%" in name else ""
        raise RefusedError(
            f"there is no time zone {name[:40]!r}; use a name such as 'UTC' or 'Europe/Berlin'{advice}"
        )
    return zone


def _moment(run: Evaluation, value: Any, zone: tzinfo, unit: str = "seconds") -> datetime:
    """Return the point in time that a value means, in the zone. Raises RefusedError."""
    run.spend(STEPS)
    try:
        if isinstance(value, str) and len(value) <= LONGEST_TEXT:
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(zone)
        if is_number(value) and not isinstance(value, bool):
            seconds = value / 1_000 if unit == "milliseconds" else value
            return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).astimezone(zone)
    except OverflowError:
        raise OutOfRangeError from None
    except ValueError:  # not ISO 8601, or no such day
        pass
    raise RefusedError(_NO_DATE + (repr(value[:40]) if isinstance(value, str) else kind(value)))


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(name: str, value: Any, whole: bool = False) -> Any:
    if type(value) is int or (type(value) is float and not whole):
        return value
    raise RefusedError(f"`{name}` is {'an integer' if whole else 'a number'}, not {kind(value)}")


def now(run: Evaluation, /, zone: Any = "UTC") -> str:
    """Return the present time, to the millisecond."""
    return _written(_present(run, zone))


def today(run: Evaluation, /, zone: Any = "UTC") -> str:
    """Return the present day in the zone: `2026-01-31`."""
    return _present(run, zone).date().isoformat()


def _present(run: Evaluation, zone: Any) -> datetime:
    run.spend(STEPS)
    return run.scope.now().astimezone(_zone(zone))


def date(run: Evaluation, value: Any, /, zone: Any = "UTC", unit: Any = "seconds") -> str:
    """Read ISO 8601, or a number of seconds or milliseconds since 1970."""
    if unit not in ("seconds", "milliseconds"):
        raise RefusedError("`unit` is 'seconds' or 'milliseconds' since 1970")
    return _written(_moment(run, value, _zone(zone), unit))


def dateadd(
    run: Evaluation,
    value: Any,
    /,
    years: Any = 0,
    months: Any = 0,
    weeks: Any = 0,
    days: Any = 0,
    hours: Any = 0,
    minutes: Any = 0,
    seconds: Any = 0,
    zone: Any = "UTC",
) -> str:
    """Move a date: first by the calendar of the zone, from years to days, then by elapsed time.

    A day that the month does not have becomes its last one. A time of day that the clocks jump over becomes
    the one after the gap.
    """
    moment = _moment(run, value, _zone(zone))
    calendar = [("years", years), ("months", months), ("weeks", weeks), ("days", days)]
    by_year, by_month, by_week, by_day = (_number(name, amount, whole=True) for name, amount in calendar)
    elapsed = [("hours", hours), ("minutes", minutes), ("seconds", seconds)]
    by_hour, by_minute, by_second = (_number(name, amount) for name, amount in elapsed)
    try:
        if by_year or by_month or by_week or by_day:
            year, month = divmod(12 * (moment.year + by_year) + moment.month - 1 + by_month, 12)
            day = min(moment.day, monthrange(year, month + 1)[1]) if 1 <= year <= 9999 else moment.day
            moved = moment.replace(year=year, month=month + 1, day=day, fold=0)
            moved += timedelta(days=7 * by_week + by_day)
            moment = moved.astimezone(UTC).astimezone(moment.tzinfo)
        if by_hour or by_minute or by_second:
            passing = timedelta(hours=by_hour, minutes=by_minute, seconds=by_second)
            moment = (moment.astimezone(UTC) + passing).astimezone(moment.tzinfo)
    except (OverflowError, ValueError):
        raise OutOfRangeError from None
    return _written(moment)


_SECONDS_OF = {"milliseconds": 0.001, "seconds": 1, "minutes": 60, "hours": 3_600}
_DAYS_OF = {"days": 1, "weeks": 7}
_MONTHS_OF = {"months": 1, "years": 12}
UNITS = (*_SECONDS_OF, *_DAYS_OF, *_MONTHS_OF)


def datediff(run: Evaluation, value: Any, /, other: Any, unit: Any = "days", zone: Any = "UTC") -> Any:
    """Return how much time passes from the value to the other date, below zero if that is earlier.

    Up to hours it is elapsed time. Days and weeks are those of the zone's calendar, which a change of the
    clocks does not make longer. Of months and years, whole ones count.
    """
    place = _zone(zone)
    start, end = _moment(run, value, place), _moment(run, other, place)
    if not isinstance(unit, str) or unit not in UNITS:
        raise RefusedError(f"`unit` is one of {', '.join(UNITS)}")
    if (seconds := _SECONDS_OF.get(unit)) is not None:
        return (end.astimezone(UTC) - start.astimezone(UTC)).total_seconds() / seconds
    start, end = start.replace(tzinfo=None), end.replace(tzinfo=None)
    if (days := _DAYS_OF.get(unit)) is not None:
        return (end - start) / timedelta(days=days)
    return (
        _whole_months(start, end) // _MONTHS_OF[unit]
        if end >= start
        else -(_whole_months(end, start) // _MONTHS_OF[unit])
    )


def _whole_months(earlier: datetime, later: datetime) -> int:
    months = 12 * (later.year - earlier.year) + later.month - earlier.month
    last = monthrange(later.year, later.month)[1]
    # Of the 31st of January, the 28th of February completes a month, as `dateadd` counts.
    is_complete = (later.day, later.time()) >= (min(earlier.day, last), earlier.time())
    return months if is_complete else months - 1


# -- formats ---------------------------------------------------------------------------------------------

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def _offset(moment: datetime, colon: str) -> str:
    written = moment.isoformat()[-6:]  # +01:00, for every offset of whole minutes
    return written.replace(":", colon) if written[0] in "+-" else moment.strftime("%z")


_DIRECTIVES: dict[str, Callable[[datetime], str]] = {
    "Y": lambda moment: f"{moment.year:04}",
    "y": lambda moment: f"{moment.year % 100:02}",
    "m": lambda moment: f"{moment.month:02}",
    "d": lambda moment: f"{moment.day:02}",
    "H": lambda moment: f"{moment.hour:02}",
    "I": lambda moment: f"{(moment.hour - 1) % 12 + 1:02}",
    "M": lambda moment: f"{moment.minute:02}",
    "S": lambda moment: f"{moment.second:02}",
    "f": lambda moment: f"{moment.microsecond:06}",
    "p": lambda moment: "AM" if moment.hour < 12 else "PM",
    "j": lambda moment: f"{moment.timetuple().tm_yday:03}",
    "a": lambda moment: _DAYS[moment.weekday()][:3],
    "A": lambda moment: _DAYS[moment.weekday()],
    "b": lambda moment: _MONTHS[moment.month - 1][:3],
    "B": lambda moment: _MONTHS[moment.month - 1],
    "u": lambda moment: f"{moment.isoweekday()}",
    "G": lambda moment: f"{moment.isocalendar().year:04}",
    "V": lambda moment: f"{moment.isocalendar().week:02}",
    "F": lambda moment: moment.date().isoformat(),
    "T": lambda moment: f"{moment:%H:%M:%S}",
    "s": lambda moment: f"{(moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(0, 1)}",
    "z": lambda moment: _offset(moment, ""),
    ":z": lambda moment: _offset(moment, ":"),
    "Z": lambda moment: moment.tzname() or "",
    "%": lambda moment: "%",
}
"""Python's directives, in English. A `-` after the `%` leaves out leading zeros."""

_DIRECTIVE = re.compile(r"%(-?)(:?[A-Za-z%]?)")


def dateformat(run: Evaluation, value: Any, /, format: Any = "%Y-%m-%d", zone: Any = "UTC") -> str:
    """Write a date in the form of Python's `strftime`: `%d.%m.%Y %H:%M`."""
    moment = _moment(run, value, _zone(zone))
    if not isinstance(format, str) or len(format) > LONGEST_FORMAT:
        raise RefusedError(f"`format` is text such as '%d.%m.%Y', of at most {LONGEST_FORMAT} characters")

    def part(directive: re.Match[str]) -> str:
        flag, letter = directive.groups()
        if letter not in _DIRECTIVES:
            raise RefusedError(
                f"`{directive[0]}` is no part of a date; there are %{' %'.join(_DIRECTIVES)}, and `%-d` "
                "for one without leading zeros"
            )
        text = _DIRECTIVES[letter](moment)
        return text.lstrip("0") or "0" if flag and text.isdecimal() else text

    run.spend(STEPS * (1 + format.count("%")))
    text = _DIRECTIVE.sub(part, format)
    run.produce_text(len(text))
    return text
