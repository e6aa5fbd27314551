"""Metadata and tags: what a caller notes about an execution at its start, to find it again.

They belong to the caller. The engine stores, shows and filters by them, and no node reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from workflow_engine.errors import InvalidValue
from workflow_engine.json_values import check_size, encode, normalise

MOST_KEYS = 16
"""Keys of the metadata of one execution, and tags."""

LARGEST_METADATA = 4096
"""Bytes of the metadata as JSON."""

LONGEST_TAG = 100
"""Characters of a tag."""

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)


def checked_metadata(given: Mapping[str, Any] | None, path: str = "metadata") -> bytes | None:
    """Return metadata as a JSON object; None if there is none. Raises `InvalidValue`."""
    if not given:
        return None
    if not isinstance(given, Mapping):
        raise InvalidValue(path, f"it is an object of names and JSON values, not {given!r:.60}")
    metadata = normalise(dict(given), path)
    if len(metadata) > MOST_KEYS:
        raise InvalidValue(path, f"it has {len(metadata)} keys, and at most {MOST_KEYS} are allowed")
    for key in metadata:
        if _KEY.fullmatch(key) is None:
            raise InvalidValue(
                path,
                f"the key {key!r:.80} is not 1 to 64 letters, digits, _ and -, beginning with a letter or _; "
                "rename it",
            )
    encoded = encode(metadata)
    check_size(encoded, LARGEST_METADATA, path)
    return encoded


def checked_tags(given: Sequence[str] | None, path: str = "tags") -> tuple[str, ...]:
    """Return the tags, each once, in the order given. Raises `InvalidValue`."""
    if given is None:
        return ()
    if isinstance(given, str):
        raise InvalidValue(path, f"it is a list of tags; write [{given!r:.60}]")
    tags = tuple(given)
    for tag in tags:
        if not isinstance(tag, str) or not 0 < len(tag) <= LONGEST_TAG or tag != tag.strip():
            raise InvalidValue(
                path,
                f"the tag {tag!r:.120} is not a text of 1 to {LONGEST_TAG} characters with no spaces around",
            )
        normalise(tag, path)
    tags = tuple(dict.fromkeys(tags))
    if len(tags) > MOST_KEYS:
        raise InvalidValue(path, f"there are {len(tags)} tags, and at most {MOST_KEYS} are allowed")
    return tags
