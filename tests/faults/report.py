"""The tables of faults, for the terminal and for docs/faults.md.

In the document they are between two comments, one pair for each walk, so that a run replaces
exactly what it has measured and leaves the prose around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faults.verdict import Verdict

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
PLACES = {
    "spread": ("<!-- spread: written by `make chaos` -->", "<!-- end of spread -->"),
    "inline": ("<!-- inline: written by `make chaos ARGS=--inline` -->", "<!-- end of inline -->"),
    "parallel": (
        "<!-- parallel: written by `make chaos ARGS=--parallel` -->",
        "<!-- end of parallel -->",
    ),
}
"""By walk: the comments that enclose the tables in the document."""

NOTHING = "\N{EN DASH}"

HEADINGS = (
    "fault",
    "how it was caused",
    "times",
    "executions",
    "lost",
    "nodes committed twice",
    "side effects repeated",
    "moved again after: median",
    "worst",
    "promises kept",
)
NUMBERS = slice(2, 9)
"""The columns that are aligned to the right."""
MORE_HEADINGS = ("fault", "further promise", "also seen")


def tables(verdicts: Sequence[Verdict]) -> str:
    """Return two Markdown tables: what all faults have in common, and what each has of its own."""
    marks = ["---"] * len(HEADINGS)
    marks[NUMBERS] = ["--:"] * len(marks[NUMBERS])
    more_marks = ["---"] * len(MORE_HEADINGS)
    more = [_of_its_own(verdict) for verdict in verdicts]
    return "\n".join(
        [*_lines([HEADINGS, marks, *map(_cells, verdicts)]), "", *_lines([MORE_HEADINGS, more_marks, *more])]
    )


def _lines(rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _cells(verdict: Verdict) -> Sequence[str]:
    fault, findings = verdict.fault, verdict.findings
    kept = "**no**" if verdict.problems else "yes"
    if findings is None:
        return (fault.title, fault.how, *[NOTHING] * 7, kept)
    return (
        fault.title,
        fault.how,
        f"{findings.times:,}",
        f"{len(findings.record.executions):,}",
        f"{verdict.lost:,}",
        f"{verdict.committed_twice:,}",
        f"{verdict.effects_repeated:,}",
        _seconds(verdict.median),
        _seconds(verdict.worst),
        kept,
    )


def _of_its_own(verdict: Verdict) -> Sequence[str]:
    seen = "; ".join(verdict.findings.also) if verdict.findings else "the suite itself failed"
    return verdict.fault.title, verdict.fault.promise or NOTHING, seen or NOTHING


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f} s"


def plain(verdict: Verdict) -> str:
    """Return a verdict as text for the terminal."""
    cells = dict(zip(HEADINGS, _cells(verdict), strict=True))
    figures = ", ".join(f"{name} {cells[name]}" for name in HEADINGS[NUMBERS])
    _, promise, seen = _of_its_own(verdict)
    lines = [
        f"{verdict.fault.title}: {verdict.fault.how}",
        f"  {figures}",
        f"  further promise: {promise}; also seen: {seen}",
        f"  promises kept: {'no' if verdict.problems else 'yes'} ({verdict.took:.0f} s)",
        *(f"    {line}" for problem in verdict.problems for line in problem.splitlines()),
    ]
    return "\n".join(lines)


def write_into(document: Path, walk: str, written: str) -> None:
    """Put the tables and what they were measured on between the comments for this walk.

    Raises ValueError if the document has no such place.
    """
    begin, end = PLACES[walk]
    place = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    text, count = place.subn(lambda _: f"{begin}\n\n{written}\n\n{end}", document.read_text())
    if count != 1:
        raise ValueError(f"{document} has {count} places for the tables, which begin with {begin}")
    document.write_text(text)
