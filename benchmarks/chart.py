"""A chart of a run as SVG: bars with their spread, and bars stacked from parts.

No library draws it, so that measuring needs none. It has its own colours for light and for dark pages, and no
background, because the reader chooses the page of the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.report import Spread

WIDTH = 760
LABELS = 170
"""Where bars begin; their labels are to the left."""
VALUES = 150
"""Room for the value behind the longest bar."""
BAR, STEP = 24, 38
HEAD = 58
"""Room above the bars of a panel for its title and a note."""
LEGEND = 26
GAP = 26
LEGIBLE = 34
"""A part as wide as this has room for its value."""

PARTS = ("part1", "part2", "part3", "part4")

STYLE = """
text { font: 13px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.note { font-size: 12px; fill: #59636e }
.label { text-anchor: end }
.value { font-weight: 600; font-variant-numeric: tabular-nums }
.inside { font-size: 11px; text-anchor: middle; fill: #ffffff; font-variant-numeric: tabular-nums }
.axis { stroke: #818b98; stroke-width: 1 }
.spread { stroke: #1f2328; stroke-width: 1.5; fill: none; opacity: .75 }
.beside { fill: #8c959f }
.ours { fill: #2563eb }
.part1 { fill: #1e40af } .part2 { fill: #3574e8 } .part3 { fill: #c2410c } .part4 { fill: #0f766e }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .inside { fill: #ffffff }
  .spread { stroke: #e6edf3 }
  .beside { fill: #6e7681 }
}
"""


@dataclass(frozen=True)
class Bar:
    """A median and its spread; ours stand out."""

    label: str
    spread: Spread
    is_ours: bool = True


@dataclass(frozen=True)
class Bars:
    """A panel of bars."""

    title: str
    note: str
    unit: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Stacks:
    """A panel of bars, by their labels, that consist of the same parts."""

    title: str
    note: str
    unit: str
    stacks: Mapping[str, Mapping[str, float]]


def drawn(title: str, bars: Bars, stacks: Stacks) -> str:
    """Return the chart: both panels, one below the other."""
    top = 8
    below = top + HEAD + STEP * len(bars.bars) + GAP
    height = below + HEAD + LEGEND + STEP * len(stacks.stacks)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title">',
        f'<title id="title">{escape(title)}</title>',
        f"<style>{STYLE}</style>",
        *_bars(bars, top),
        *_stacks(stacks, below),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bars(panel: Bars, top: int) -> Iterator[str]:
    yield from _head(panel.title, panel.note, top)
    top += HEAD
    scale = _scale(bar.spread.greatest for bar in panel.bars)
    for number, bar in enumerate(panel.bars):
        y = top + STEP * number
        spread, end = bar.spread, LABELS + bar.spread.greatest * scale
        yield _label(bar.label, y)
        yield _box("ours" if bar.is_ours else "beside", 0, spread.median * scale, y)
        yield _whisker(LABELS + spread.least * scale, end, y)
        end = max(end, LABELS + spread.median * scale)
        yield _value(f"{spread.median:.2f} {panel.unit}", end, y)
    yield _axis(top, len(panel.bars))


def _stacks(panel: Stacks, top: int) -> Iterator[str]:
    yield from _head(panel.title, panel.note, top)
    top += HEAD
    parts = list(dict.fromkeys(part for stack in panel.stacks.values() for part in stack))
    looks = dict(zip(parts, PARTS, strict=False))
    x = LABELS
    for part in parts:
        yield f'<rect class="{looks[part]}" x="{x}" y="{top - 5}" width="11" height="11" rx="2"/>'
        yield f'<text class="note" x="{x + 17}" y="{top + 5}">{escape(part)}</text>'
        x += 50 + round(6.4 * len(part))
    top += LEGEND
    scale = _scale(sum(stack.values()) for stack in panel.stacks.values())
    for number, (label, stack) in enumerate(panel.stacks.items()):
        y, begin = top + STEP * number, 0.0
        yield _label(label, y)
        for part, value in stack.items():
            width = value * scale
            yield _box(looks[part], begin, width, y)
            if width >= LEGIBLE:
                middle = LABELS + begin + width / 2
                yield f'<text class="inside" x="{middle:.1f}" y="{y + 16}">{value:.2f}</text>'
            begin += width
        yield _value(f"{sum(stack.values()):.2f} {panel.unit}", LABELS + begin, y)
    yield _axis(top, len(panel.stacks))


def _scale(values: Iterator[float]) -> float:
    """Return the units of the drawing for one unit of the values."""
    return (WIDTH - LABELS - VALUES) / (max(values) or 1)


def _head(title: str, note: str, top: int) -> Iterator[str]:
    yield f'<text class="title" x="0" y="{top + 16}">{escape(title)}</text>'
    yield f'<text class="note" x="0" y="{top + 36}">{escape(note)}</text>'


def _label(label: str, y: int) -> str:
    return f'<text class="label" x="{LABELS - 12}" y="{y + 17}">{escape(label)}</text>'


def _value(value: str, x: float, y: int) -> str:
    return f'<text class="value" x="{x + 10:.1f}" y="{y + 17}">{escape(value)}</text>'


def _box(look: str, x: float, width: float, y: int) -> str:
    return f'<rect class="{look}" x="{LABELS + x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}"/>'


def _whisker(least: float, greatest: float, y: int) -> str:
    middle, half = y + BAR / 2, 5
    ends = "".join(f"M{x:.1f} {middle - half:g}v{2 * half}" for x in (least, greatest))
    return f'<path class="spread" d="M{least:.1f} {middle:g}H{greatest:.1f}{ends}"/>'


def _axis(top: int, number: int) -> str:
    bottom = top + STEP * number - (STEP - BAR)
    return f'<line class="axis" x1="{LABELS}" x2="{LABELS}" y1="{top - 4}" y2="{bottom + 4}"/>'
