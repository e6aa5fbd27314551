"""The texts of a node's failure are stored within 16 KB, with a note wherever a part is omitted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workflow_engine.execution.bounded_texts import LONGEST_TEXT, shorten, shorten_details
from workflow_engine.json_values import encode


def test_a_text_that_fits_stays_as_it_is() -> None:
    text = "ä" * (LONGEST_TEXT // 2)

    assert shorten(text) is text


@pytest.mark.parametrize("character", ["x", "ä", "😀", "\n"])
def test_a_text_that_is_too_long_keeps_its_beginning_and_end_and_says_so(character: str) -> None:
    text = f"began {character * 100_000} ended"

    short = shorten(text)

    assert short.startswith("began ")
    assert short.endswith(" ended")
    assert f" of {len(text.encode()):,} bytes omitted …\n" in short
    assert LONGEST_TEXT - 100 < len(short.encode()) <= LONGEST_TEXT


def test_details_that_fit_stay_as_they_are() -> None:
    details = {"code": 7, "body": "x" * 10_000, "traceback": "y" * LONGEST_TEXT}

    assert shorten_details(details) == details


@pytest.mark.parametrize(
    "details",
    [
        {"body": "x" * 8_000_000},
        {"bodies": ["x" * 8_000_000] * 3, "code": 7},
        {f"key {n}": "x" * 100 for n in range(10_000)},
        {"k" * 100_000: {"k" * 100_000: "x"}},
        {"rows": [[1] * 1000] * 100},
    ],
    ids=["a long text", "several", "many entries", "long keys", "a large list"],
)
def test_details_that_are_too_large_lose_their_large_parts_and_say_so(details: dict[str, Any]) -> None:
    short = shorten_details({**details, "traceback": "y" * 100_000})

    traceback = short.pop("traceback")
    assert len(traceback) <= LONGEST_TEXT
    assert "bytes omitted" in traceback
    assert len(encode(short)) <= LONGEST_TEXT
    text = json.dumps(short, ensure_ascii=False)
    assert "bytes omitted" in text or "_omitted" in text or len(text) < 1000


def test_entries_that_are_left_out_are_counted() -> None:
    short = shorten_details({"first": 1, "rows": [0] * 20_000, "last": 2})

    assert short == {
        "first": 1,
        "last": 2,
        "_omitted": "1 of 3 details; all were 40,029 bytes of JSON",
    }
