"""How times, amounts and foreign text are written for people.

Text that comes from data may hold anything, including a terminal's control sequences, so all of it goes
through `sanitise` before it is printed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from workflow_engine.execution.states import SlotStatus, WaitStatus, WaitType
from workflow_engine.postgres.executions.queries import NodeWait
from workflow_engine.postgres.limits import SlotStanding

_RATE_UNITS = {1.0: "s", 60.0: "min", 3600.0: "h", 86_400.0: "day"}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def duration(milliseconds: float | None) -> str:
    """Return `7 ms`, `1.24 s`, `3 min 5 s`, `2 d 4 h`; "" for None."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 59_995:
        return f"{milliseconds / 1000:.2f} s"
    seconds = round(milliseconds / 1000)
    for size, unit in _UNITS:
        if seconds >= size:
            smaller = {"d": (3_600, "h"), "h": (60, "min"), "min": (1, "s")}[unit]
            whole, rest = divmod(seconds, size)
            part = rest // smaller[0]
            return f"{whole} {unit} {part} {smaller[1]}" if part else f"{whole} {unit}"
    return f"{seconds} s"


def age(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago a moment was, roughly: `12 s`, `5 min`, `3 h`, `2 d`."""
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def instant(moment: datetime) -> str:
    """Return `2026-01-01 10:00:00 UTC`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def describe_wait(wait: NodeWait) -> str:
    """Return what a node waits for: `until …`, `for paid, rated with 'order-7' until …, received shipped`."""
    if wait.needs and wait.status is WaitStatus.RESUMING:
        until = f" until {instant(wait.needed_until)}, then it fails" if wait.needed_until else ""
        return f"for a worker that has {sanitise(repr(wait.needs))}{until}"
    if wait.type is WaitType.CODE:
        return "found a worker that has its code"
    if wait.type is WaitType.LIMIT:
        return "for a slot of its limits" if wait.status is WaitStatus.WAITING else "has a slot of its limits"
    if wait.type is WaitType.RETRY and wait.resume_at:
        return f"next attempt {instant(wait.resume_at)}"
    if wait.type is WaitType.CHILDREN:
        over = " (over)" if wait.status is WaitStatus.RESUMING else ""
        until = f" until {instant(wait.expires_at)}" if wait.expires_at else ""
        return f"for its children{until}{over}"
    is_open = wait.status is WaitStatus.WAITING
    missing = [name for name in wait.events if not (is_open and name in wait.received)]
    parts = [f"for {sanitise(', '.join(missing))}"] if missing else []
    parts += [f"with {sanitise(repr(wait.correlation_id))}"] if wait.correlation_id else []
    end = wait.resume_at or wait.expires_at
    parts += [f"until {instant(end)}"] if end else []
    text = " ".join(parts)
    if is_open and wait.received:
        text += f", received {sanitise(', '.join(wait.received))}"
    return f"{text} (over)" if wait.status is WaitStatus.RESUMING else text


def rate(number: int | None, seconds: float | None) -> str:
    """Return `100/min` for a rate; "" for none."""
    if number is None or seconds is None:
        return ""
    return f"{number:,}/{_RATE_UNITS.get(seconds, f'{seconds:g} s')}"


def describe_slot(slot: SlotStanding) -> str:
    """Return what is held or awaited of a limit: `tenant:a, held since …`, `tenant:a, number 2 in line …`."""
    whose = f" for {slot.node_id}" if slot.node_id else ""
    key = f"{sanitise(slot.key)}{whose}"
    if slot.status is SlotStatus.HELD:
        return f"{key}, held since {instant(slot.held_since or slot.arrived_at)}"
    of = f" of {slot.concurrency:,}" if slot.concurrency is not None else ""
    place = f"number {slot.position:,} in line" if slot.position else "waiting"
    return f"{key}, {place} since {instant(slot.arrived_at)}; {slot.held:,}{of} held"


def quantity(number: int, noun: str) -> str:
    """Return `1 node`, `2 nodes`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sanitise(text: str) -> str:
    """Return a text with its control characters replaced, which a terminal would obey."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def compact_json(value: Any, limit: int = 400) -> str:
    """Return a value as JSON on one line, cut off at `limit` characters."""
    text = sanitise(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters; --json has them all)"
