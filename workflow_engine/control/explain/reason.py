"""Reason: why one open node does not go on, and the words in which reasons are written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from workflow_engine.control.explain.explanation import Code
from workflow_engine.control.explain.facts import Facts
from workflow_engine.execution.bounded_texts import shorten
from workflow_engine.presentation.phrases import duration, instant
from workflow_engine.redis.worker_heartbeats import WorkerHeartbeat

LONGEST_SHOWN = 300
"""Bytes of a text from data in a sentence; the evidence has more of it."""

NAMES_SHOWN = 5


@dataclass(frozen=True)
class Account:
    """What there is to say about a reason."""

    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    advice: str = ""


@dataclass(frozen=True)
class Reason:
    """Why one open node, or the execution as a whole, does not go on.

    Its account is written when it is read: of the many reasons in an overview only a few are shown.
    """

    code: Code
    node_id: str | None
    subject: str
    write: Callable[[], Account]

    @functools.cached_property
    def account(self) -> Account:
        return self.write()

    @classmethod
    def written(cls, code: Code, account: Account, node_id: str | None = None, subject: str = "") -> Reason:
        """Return a reason whose account was needed to find it."""
        return cls(code, node_id, subject, lambda: account)


def names_of(workers: Sequence[WorkerHeartbeat] | None) -> list[str]:
    """Return the names of workers; none if the workers are unknown."""
    return [worker.name for worker in workers or ()]


def listed(names: Sequence[str]) -> str:
    """Return `a, b and 3 more`."""
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


def short(text: str | None) -> str:
    """Return a text from data in a size that fits into a sentence."""
    return shorten(text, LONGEST_SHOWN) if text is not None else "none"


def capital(text: str) -> str:
    """Return the text with a capital letter at its beginning."""
    return f"{text[:1].upper()}{text[1:]}"


def at_time(moment: datetime | None) -> str:
    """Return a time for a sentence."""
    return instant(moment) if moment is not None else "an unknown time"


def json_time(moment: datetime | None) -> str | None:
    """Return a time for the evidence: ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat() if moment is not None else None


def in_seconds(seconds: float) -> str:
    """Return how long a time is."""
    return duration(round(seconds) * 1000) if seconds >= 1 else duration(seconds * 1000)


def time_left(facts: Facts, end: datetime | None) -> str:
    """Return `, in 5 min` for the end of a wait."""
    if end is None:
        return ""
    seconds = (end - facts.now).total_seconds()
    return f", in {in_seconds(seconds)}" if seconds > 0 else ", which has passed"
