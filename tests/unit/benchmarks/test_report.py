"""A run replaces the figures that it has measured, between two comments in a document."""

from pathlib import Path

import pytest

from benchmarks.report import (
    Comparison,
    Estimate,
    Figure,
    Section,
    Spread,
    at_most,
    estimate_at_most,
    exactly,
    printed,
    ratio_at_least,
    ratio_at_most,
    table,
    without_targets,
    write_into,
)

DOCUMENT = """Before.
<!-- speed: written by `make bench` -->
old
<!-- end of speed -->
Between.
<!-- size: written by `make bench` -->
<!-- end of size -->
"""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(DOCUMENT)
    return path


def test_a_run_replaces_its_own_section_and_nothing_else(document: Path) -> None:
    section = Section([Figure("hops", r"1,000 \1/s")], "One worker.")

    for _ in range(2):
        write_into(document, "speed", section, "A machine.")

    begin, _, rest = document.read_text().partition("written by `make bench` -->\n")
    written, _, after = rest.partition("<!-- end of speed -->\n")
    assert begin == "Before.\n<!-- speed: "
    assert written.strip() == printed(section, "A machine.")
    assert after == DOCUMENT.partition("<!-- end of speed -->\n")[2]


def test_a_document_without_a_place_for_the_figures_is_refused(document: Path) -> None:
    with pytest.raises(ValueError, match="0 places for cost"):
        write_into(document, "cost", Section([], ""), "")


@pytest.mark.parametrize(
    ("values", "lower", "upper"), [(5, 1, 5), (6, 1, 6), (10, 2, 9), (20, 6, 15), (80, 31, 50)]
)
def test_the_interval_of_a_median_is_that_of_order_statistics(values: int, lower: int, upper: int) -> None:
    estimate = Estimate.of([float(value) for value in range(values, 0, -1)])

    assert estimate == Estimate((values + 1) / 2, lower, upper)


def test_an_estimate_misses_its_limit_only_if_its_whole_interval_does() -> None:
    missed = estimate_at_most("cost", Estimate(1.03, 1.02, 1.04), 1.01)
    undecided = estimate_at_most("cost", Estimate(1.02, 1.0, 1.04), 1.01)
    met = estimate_at_most("cost", Estimate(1.0, 0.99, 1.01), 1.01)

    assert (missed.is_met, undecided.is_met, met.is_met) == (False, None, True)
    assert table([undecided])[-1].endswith("| at most 1.01; not told apart |")


def test_a_target_is_missed_above_its_limit_and_beside_its_count() -> None:
    assert not at_most("delay", 2.0, 2, "s").is_missed
    assert at_most("delay", 2.01, 2, "s").is_missed
    assert not exactly("messages", 0, 0).is_missed
    assert exactly("messages", 1, 0).is_missed
    assert not Figure("shown", "1").is_missed


def test_a_missed_target_stands_out_in_the_table_and_is_gone_where_nothing_is_judged() -> None:
    section = Section([at_most("delay", 3, 2, "s")], "")

    assert "| delay |   3.00 s | **missed** at most 2 s |" in table(section.figures)
    assert "missed" not in printed(without_targets(section), "")


def test_a_ratio_is_judged_by_its_median_and_shown_with_its_spread() -> None:
    ratio = ratio_at_most("hop", Spread.of([1.3, 0.9, 0.8]), 0.9)

    assert ratio.value == "0.90 (0.80 to 1.30)"
    assert not ratio.is_missed
    assert ratio_at_most("hop", Spread.of([1.3, 0.91, 0.8]), 0.9).is_missed


def test_a_ratio_that_must_be_reached_is_missed_below_its_limit() -> None:
    assert not ratio_at_least("throughput", Spread.of([0.8, 0.9, 1.0]), 0.9).is_missed
    assert ratio_at_least("throughput", Spread.of([0.8, 0.89, 1.0]), 0.9).is_missed


def test_a_ratio_is_shown_as_a_change_in_percent() -> None:
    assert Spread.of([1.1, 0.95, 1.25]).as_change() == "+10 % (-5 to +25)"


def test_a_table_in_which_nothing_is_judged_has_no_column_for_targets() -> None:
    assert table([Figure("fsync", "on")], "setting") == [
        "|       | setting |",
        "|-------|--------:|",
        "| fsync |      on |",
    ]


def test_times_are_shown_in_their_unit() -> None:
    assert Spread.of([0.0012, 0.001, 0.0015]).text("ms", 1000) == "1.20 ms (1.00 to 1.50)"


def test_cases_stand_side_by_side_and_keep_their_table_where_nothing_is_judged() -> None:
    section = Comparison((), "", columns=["small", "large"], rows=[("WAL", "1 B", "1,000 B")])
    lines = [
        "|     | small |   large |",
        "|-----|------:|--------:|",
        "| WAL |   1 B | 1,000 B |",
    ]

    assert section.lines() == lines
    assert printed(without_targets(section), "").splitlines()[:3] == lines
