"""The chart of the benchmarks shows its figures whole and in proportion."""

from xml.etree import ElementTree

import pytest

from benchmarks.chart import WIDTH, Bar, Bars, Stacks, drawn
from benchmarks.report import Spread

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def chart() -> ElementTree.Element:
    bars = [Bar("raw", Spread.of([1.0, 2.0, 2.5]), is_ours=False), Bar("R & D", Spread.of([1.0, 1.0, 4.0]))]
    stacks = {"raw": {"pool": 1.0, "Redis": 0.5}, "R & D": {"pool": 2.0, "Redis": 1.0}}
    return ElementTree.fromstring(
        drawn("A title", Bars("Time", "note", "ms", bars), Stacks("Work", "note", "s", stacks))
    )


def boxes(chart: ElementTree.Element, look: str) -> list[float]:
    return [
        float(box.get("width", 0))
        for box in chart.iter(f"{SVG}rect")
        if box.get("class") == look and box.get("height") == "24"
    ]


def test_every_bar_bears_its_name_and_its_value(chart: ElementTree.Element) -> None:
    texts = [text.text for text in chart.iter(f"{SVG}text")]

    for expected in ("raw", "R & D", "2.00 ms", "1.00 ms", "1.50 s", "3.00 s", "pool", "Redis"):
        assert expected in texts


def test_bars_and_parts_are_as_long_as_their_values(chart: ElementTree.Element) -> None:
    (raw,), (ours,) = boxes(chart, "beside"), boxes(chart, "ours")
    pools, redis = boxes(chart, "part1"), boxes(chart, "part2")

    assert raw == pytest.approx(2 * ours, abs=0.2)
    assert pools[1] == pytest.approx(2 * pools[0], abs=0.2)
    assert redis[0] == pytest.approx(pools[0] / 2, abs=0.2)


def test_nothing_is_drawn_beyond_the_edge(chart: ElementTree.Element) -> None:
    for box in chart.iter(f"{SVG}rect"):
        assert float(box.get("x", 0)) + float(box.get("width", 0)) < WIDTH


def test_a_chart_without_any_time_is_drawn_nevertheless() -> None:
    nothing = Bars("Time", "", "ms", [Bar("raw", Spread.of([0.0]))])

    ElementTree.fromstring(drawn("Nothing", nothing, Stacks("Work", "", "s", {"raw": {"pool": 0.0}})))
