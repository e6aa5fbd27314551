"""What a benchmark has found: a table with its targets, for the terminal and for the documents.

In a document a section stands between two comments that name its benchmark, so that a run replaces exactly
what it has measured and the prose around it stays.
"""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
CHART = DOCUMENT.with_suffix(".svg")


WIDTH = 110


@dataclass(frozen=True)
class Figure:
    """One line of a table; `is_met` is None for what is told without a target."""

    name: str
    value: str
    target: str = ""
    is_met: bool | None = None

    @property
    def is_missed(self) -> bool:
        return self.is_met is False


@dataclass(frozen=True)
class Section:
    """The figures of one benchmark, and how they came about in sentences of their own."""

    figures: Sequence[Figure]
    method: str
    column: str = "measured"
    """What the table's values are."""
    chart: str = ""
    """SVG, for the document's chart; most benchmarks have none."""


def without_targets(section: Section) -> Section:
    """The same figures, judged by nobody."""
    return replace(section, figures=[Figure(figure.name, figure.value) for figure in section.figures])


def at_most(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """A figure that must not exceed its limit."""
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

    def told(self, unit: str = "", factor: float = 1) -> str:
        """`1.25 ms (1.20 to 1.31)` for a factor of 1,000 and the unit ms."""
        median, least, greatest = (
            f"{value * factor:,.2f}" for value in (self.median, self.least, self.greatest)
        )
        return f"{' '.join(filter(None, [median, unit]))} ({least} to {greatest})"

    def as_change(self) -> str:
        """Of ratios: by how many percent more or less than the same."""
        median, least, greatest = (
            f"{100 * (value - 1):+.0f}" for value in (self.median, self.least, self.greatest)
        )
        return f"{median} % ({least} to {greatest})"


def ratio_at_most(name: str, ratio: Spread, limit: float) -> Figure:
    """A ratio whose median must not exceed its limit."""
    return Figure(name, ratio.told(), f"at most {limit:g}", ratio.median <= limit)


def ratio_at_least(name: str, ratio: Spread, limit: float) -> Figure:
    """A ratio whose median must reach its limit."""
    return Figure(name, ratio.told(), f"at least {limit:g}", ratio.median >= limit)


def exactly(name: str, value: int, target: int) -> Figure:
    """A count that has to be this one."""
    return Figure(name, f"{value:,}", f"{target:,}", value == target)


def table(figures: Sequence[Figure], column: str = "measured") -> list[str]:
    """The lines of a Markdown table, its columns aligned to be read as they stand."""
    rows: list[tuple[str, ...]] = [("", column, "target")]
    for figure in figures:
        missed = "**missed** " if figure.is_missed else ""
        rows.append((figure.name, figure.value, f"{missed}{figure.target}"))
    if not any(figure.target for figure in figures):
        rows = [row[:2] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = "|".join(
        f"{'-' * (width + 1)}{':' if number == 1 else '-'}" for number, width in enumerate(widths)
    )
    return [lines[0], f"|{rule}|", *lines[1:]]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    # Values stand to the right, all else to the left.
    padded = [
        f"{cell:>{width}}" if number == 1 else f"{cell:<{width}}"
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def printed(section: Section, machine: str) -> str:
    """A section as Markdown."""
    paragraphs = ("", *textwrap.wrap(section.method, WIDTH), "", *textwrap.wrap(machine, WIDTH))
    return "\n".join([*table(section.figures, section.column), *paragraphs])


def write_into(document: Path, name: str, section: Section, machine: str) -> None:
    """Put a section between the comments that bear its name.

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
