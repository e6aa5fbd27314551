"""The result of an examination: one finding for each question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, but something may be lost, slow or missing
    PROBLEM = "problem"  # does not work, or not as promised


@dataclass(frozen=True)
class Finding:
    """A question, its answer, and what to do."""

    question: str
    severity: Severity
    answer: str
    advice: str = ""
    """What to do; "" if all is well."""


def ok(question: str, answer: str) -> Finding:
    return Finding(question, Severity.OK, answer)


def warning(question: str, answer: str, advice: str) -> Finding:
    return Finding(question, Severity.WARNING, answer, advice)


def problem(question: str, answer: str, advice: str) -> Finding:
    return Finding(question, Severity.PROBLEM, answer, advice)


def first_few(texts: Sequence[str], most: int = 3) -> str:
    """Return the first of them, separated by commas, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
