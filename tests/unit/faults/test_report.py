"""A full run of the fault suite, with either kind of hops, is written to its own place in docs/faults.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.report import DOCUMENT, PLACES, write_into


@pytest.mark.parametrize("hops", PLACES)
def test_tables_replace_those_of_the_same_hops_and_nothing_else(hops: str, tmp_path: Path) -> None:
    document = tmp_path / "faults.md"
    document.write_text(DOCUMENT.read_text())

    write_into(document, hops, "| tables |")

    begin, end = PLACES[hops]
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition(end)
    assert document.read_text() == f"{before}{begin}\n\n| tables |\n\n{end}{after}"


def test_a_document_without_a_place_for_the_tables_is_refused_and_kept(tmp_path: Path) -> None:
    document = tmp_path / "faults.md"
    document.write_text("# Nothing\n")

    with pytest.raises(ValueError, match="has 0 places"):
        write_into(document, "inline", "| tables |")

    assert document.read_text() == "# Nothing\n"
