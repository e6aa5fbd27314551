"""Texts about a run in a size that can be stored: errors, their details, tracebacks.

The texts of a node's failure are stored, listed, shown and passed on to other nodes, so each has a limit.
In a text that is too long, a note replaces the middle. The beginning identifies the text, and the end of a
traceback is the exception's message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_engine.json_values import encode, normalise

LONGEST_TEXT = 16 * 1024
"""Bytes of UTF-8 of a message or traceback, and of JSON of all other details of an error."""

LONGEST_NOTE = 100
"""Bytes for the note in place of the middle of a text."""

LONGEST_LABEL = 200
"""Characters of an error's type, and of a key in its details."""

LONGEST_READ = 1024 * 1024
"""Characters that are searched for secrets, at the beginning and at the end of a text each."""


def shorten(text: str, limit: int = LONGEST_TEXT) -> str:
    """Return the text, or its beginning and end around a note, within `limit` bytes of UTF-8."""
    if len(text) * 4 <= limit or len(encoded := text.encode("utf-8", "backslashreplace")) <= limit:
        return text
    half = max(0, limit - LONGEST_NOTE) // 2
    note = f"\n… {len(encoded) - 2 * half:,} of {len(encoded):,} bytes omitted …\n"
    return f"{_decoded(encoded[:half])}{note}{_decoded(encoded[len(encoded) - half :])}"


def checked_note(reason: str | None, actor: str | None) -> dict[str, str | None]:
    """Return why and who, for a history. Raises `InvalidValue` for a text that cannot be stored."""
    return {
        "reason": reason and shorten(normalise(reason, "reason")),
        "actor": actor and shorten(normalise(actor, "actor")),
    }


def readable_part(text: str) -> str:
    """Return the text, or as much of its beginning and end as `shorten` could ever keep."""
    if len(text) <= 2 * LONGEST_READ:
        return text
    return f"{text[:LONGEST_READ]}…{text[-LONGEST_READ:]}"


def shorten_details(details: Mapping[str, Any], limit: int = LONGEST_TEXT) -> dict[str, Any]:
    """Return details of an error within `limit` bytes of JSON, the traceback apart, which has its own limit.

    Long texts lose their middle first. If that is not enough, entries that are too large are omitted;
    `_omitted` gives their number.
    """
    kept = {name[:LONGEST_LABEL]: value for name, value in details.items()}
    traceback = kept.pop("traceback", None)
    if (size := len(encode(kept))) > limit:
        kept = _within(_with_short_texts(kept, limit // 4), limit, size)
    if traceback is None:
        return kept
    return {**kept, "traceback": shorten(traceback) if isinstance(traceback, str) else traceback}


def _within(details: dict[str, Any], limit: int, size: int) -> dict[str, Any]:
    """Return the details, or those that fit beside a note of how many are omitted."""
    if len(encode(details)) <= limit:
        return details
    kept: dict[str, Any] = {}
    left = limit - LONGEST_LABEL  # for the note
    for name, value in details.items():
        if (needed := len(encode({name: value}))) <= left:
            kept[name] = value
            left -= needed
    note = f"{len(details) - len(kept)} of {len(details)} details; all were {size:,} bytes of JSON"
    return {**kept, "_omitted": note}


def _with_short_texts(value: Any, limit: int) -> Any:
    match value:
        case str():
            return shorten(value, limit)
        case dict():
            return {key[:LONGEST_LABEL]: _with_short_texts(item, limit) for key, item in value.items()}
        case list():
            return [_with_short_texts(item, limit) for item in value]
    return value


def _decoded(part: bytes) -> str:
    return part.decode("utf-8", "ignore")
