"""The findings of a benchmark: a table with its targets, for the terminal and for the documents.

In a document a section is between two comments that name its benchmark, so that a run replaces exactly what
it has measured and leaves the prose around it.
"""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
CHART = DOCUMENT.with_suffix(".svg")
SCALING = DOCUMENT.with_name("scaling.md")

WIDTH = 110

UNCERTAINTY = 0.05
"""The chance that the interval of an estimate misses the true value."""


@dataclass(frozen=True)
class Figure:
    """One line of a table; `is_met` is None for a figure without a target."""

    name: str
    value: str
    target: str = ""
    is_met: bool | None = None

    @property
    def is_missed(self) -> bool:
        return self.is_met is False


@dataclass(frozen=True)
class Section:
    """The figures of one benchmark, and in full sentences how they were measured."""

    figures: Sequence[Figure]
    method: str
    column: str = "measured"
    """The heading of the values."""
    chart: str = ""
    """SVG, for the document's chart; most benchmarks have none."""
    document: Path = DOCUMENT
    further: Mapping[str, Section] = field(default_factory=dict)
    """Further findings of the same run, in sections of their own, by name."""

    def lines(self) -> list[str]:
        """Return the lines of the table."""
        return table(self.figures, self.column)


@dataclass(frozen=True)
class Comparison(Section):
    """Figures of several cases side by side, without targets."""

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    """The name of each, and its value in each column."""

    def lines(self) -> list[str]:
        return aligned([("", *self.columns), *self.rows], right=range(1, len(self.columns) + 1))


def without_targets(section: Section) -> Section:
    """Return the same figures without targets."""
    return replace(section, figures=[Figure(figure.name, figure.value) for figure in section.figures])


def at_most(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """Return a figure that must not exceed its limit."""
    return Figure(name, f"{value:.2f} {unit}".rstrip(), f"at most {limit:g} {unit}".rstrip(), value <= limit)


@dataclass(frozen=True)
class Spread:
    """The median of repetitions, and the least and the greatest of them."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, unit: str = "", factor: float = 1) -> str:
        """Return `1.25 ms (1.20 to 1.31)` for a factor of 1,000 and the unit ms."""
        median, least, greatest = (
            f"{value * factor:,.2f}" for value in (self.median, self.least, self.greatest)
        )
        return f"{' '.join(filter(None, [median, unit]))} ({least} to {greatest})"

    def as_change(self) -> str:
        """Return ratios as changes in percent."""
        median, least, greatest = (
            f"{100 * (value - 1):+.0f}" for value in (self.median, self.least, self.greatest)
        )
        return f"{median} % ({least} to {greatest})"


@dataclass(frozen=True)
class Estimate:
    """The median of repeated measurements, and the interval that has the true one in 95 of 100 runs."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Return it from order statistics, which assume nothing of how the values are distributed.

        Of fewer than six values no interval is that certain: it is from the least to the greatest.
        """
        ordered, number = sorted(values), len(values)
        left_out, chance = 0, 0.5**number
        while chance <= UNCERTAINTY / 2:
            left_out += 1
            chance += comb(number, left_out) * 0.5**number
        left_out = max(left_out - 1, 0)
        return cls(statistics.median(ordered), ordered[left_out], ordered[-1 - left_out])

    def text(self) -> str:
        """Return `1.004 (0.998 to 1.011)`."""
        return f"{self.median:.3f} ({self.lower:.3f} to {self.upper:.3f})"


def estimate_at_most(name: str, ratio: Estimate, limit: float) -> Figure:
    """Return a ratio that must not exceed its limit, which is judged only if its interval leaves no doubt."""
    target = f"at most {limit:g}"
    if ratio.lower <= limit < ratio.upper:
        return Figure(name, ratio.text(), f"{target}; not told apart")
    return Figure(name, ratio.text(), target, ratio.upper <= limit)


def ratio_at_most(name: str, ratio: Spread, limit: float) -> Figure:
    """Return a ratio whose median must not exceed its limit."""
    return Figure(name, ratio.text(), f"at most {limit:g}", ratio.median <= limit)


def ratio_at_least(name: str, ratio: Spread, limit: float) -> Figure:
    """Return a ratio whose median must reach its limit."""
    return Figure(name, ratio.text(), f"at least {limit:g}", ratio.median >= limit)


def exactly(name: str, value: int, target: int) -> Figure:
    """Return a count that has to equal its target."""
    return Figure(name, f"{value:,}", f"{target:,}", value == target)


def table(figures: Sequence[Figure], column: str = "measured") -> list[str]:
    """Return the lines of a Markdown table with aligned columns."""
    rows: list[tuple[str, ...]] = [("", column, "target")]
    for figure in figures:
        missed = "**missed** " if figure.is_missed else ""
        rows.append((figure.name, figure.value, f"{missed}{figure.target}"))
    if not any(figure.target for figure in figures):
        rows = [row[:2] for row in rows]
    return aligned(rows, right=[1])


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    """Return the lines of a Markdown table; its first row is the head, columns in `right` are flush right."""
    columns = range(len(rows[0]))
    widths = [max(len(row[column]) for row in rows) for column in columns]

    def line(row: Sequence[str]) -> str:
        cells = [f"{row[n]:>{widths[n]}}" if n in right else f"{row[n]:<{widths[n]}}" for n in columns]
        return f"| {' | '.join(cells)} |".rstrip()

    rule = "|".join(f"{'-' * (widths[n] + 1)}:" if n in right else "-" * (widths[n] + 2) for n in columns)
    return [line(rows[0]), f"|{rule}|", *map(line, rows[1:])]


def printed(section: Section, machine: str) -> str:
    """Return a section as Markdown."""
    paragraphs = ("", *textwrap.wrap(section.method, WIDTH), "", *textwrap.wrap(machine, WIDTH))
    return "\n".join([*section.lines(), *paragraphs])


def write_into(document: Path, name: str, section: Section, machine: str) -> None:
    """Write a section between the comments that bear its name.

    Raises ValueError if the document has no such place.
    """
    begin, end = f"<!-- {name}: written by `make bench` -->", f"<!-- end of {name} -->"
    place = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    new, count = place.subn(
        lambda _: f"{begin}\n\n{printed(section, machine)}\n\n{end}", document.read_text()
    )
    if count != 1:
        raise ValueError(f"{document} has {count} places for {name}, which begin with {begin}")
    document.write_text(new)
