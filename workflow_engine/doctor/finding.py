"""What the doctor says: one finding for each question."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, but something may be lost, slow or missing
    PROBLEM = "problem"  # does not work, or not as promised


@dataclass(frozen=True)
class Finding:
    """What was asked, the answer, and what to do."""

    question: str
    severity: Severity
    answer: str
    advice: str = ""
    """What to do; "" where all is well."""


def ok(question: str, answer: str) -> Finding:
    return Finding(question, Severity.OK, answer)


def warning(question: str, answer: str, advice: str) -> Finding:
    return Finding(question, Severity.WARNING, answer, advice)


def problem(question: str, answer: str, advice: str) -> Finding:
    return Finding(question, Severity.PROBLEM, answer, advice)
