"""Values on their way to Postgres and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_jsonb(value: Any) -> str | None:
    """Return a value as the text of a `jsonb` parameter.

    None is SQL's NULL, so JSON's null is given as bytes.
    """
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else orjson.dumps(value).decode()


def instant(microseconds: int) -> datetime:
    """Return a time that Postgres gave in microseconds since 1970."""
    return EPOCH + timedelta(microseconds=microseconds)
