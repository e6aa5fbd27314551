"""What a caller gives to a start, checked as far as that needs no server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import Any

from workflow_engine.errors import InvalidValue
from workflow_engine.execution.annotations import checked_metadata, checked_tags
from workflow_engine.json_values import canonical, normalise
from workflow_engine.postgres.executions.creation import Key

LONGEST_KEY = 500
"""Characters of an idempotency key; Postgres must be able to index it."""


class NoData(Enum):
    """The argument of `start` without data, which is not the same as null."""

    NO_DATA = "{}"


NO_DATA = NoData.NO_DATA


@dataclass(frozen=True)
class Start:
    """One of many starts, with those arguments of `WorkflowClient.start` that belong to it alone."""

    data: Any = NO_DATA
    _: KW_ONLY
    trigger: str | None = None
    variables: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    priority: int | None = None
    queue: str | None = None
    metadata: Mapping[str, Any] | None = None
    tags: Sequence[str] = ()


@dataclass(frozen=True)
class GivenStart:
    """A start whose values are well-formed JSON; nothing deployed is looked at."""

    start: Start
    data: Any
    variables: Mapping[str, Any]
    metadata: bytes | None
    tags: tuple[str, ...]
    key: Key | None

    @classmethod
    def of(cls, workflow_id: str, start: Start) -> GivenStart:
        """Check a start. Raises `InvalidValue`."""
        if start.priority is not None and not 0 <= start.priority <= 9:
            raise InvalidValue("priority", f"{start.priority} is not between 0 (served first) and 9")
        if start.idempotency_key is not None:
            _check_key(start.idempotency_key)
        data = normalise({} if start.data is NO_DATA else start.data, "data")
        variables = normalise(dict(start.variables), "variables") if start.variables else {}
        metadata, tags = checked_metadata(start.metadata), checked_tags(start.tags)
        key = None
        if start.idempotency_key is not None:
            key = Key(workflow_id, start.idempotency_key, _fingerprint(data, variables), start.trigger)
        return cls(start, data, variables, metadata, tags, key)

    def check_repeats(self, first: GivenStart) -> None:
        """Raise `InvalidValue` unless an earlier start of the same call, with the same key, is equal."""
        assert self.key is not None
        assert first.key is not None
        if self.key.fingerprint != first.key.fingerprint or self.key.trigger not in (None, first.key.trigger):
            raise InvalidValue(
                "idempotency_key",
                f"an earlier start of this call has the key {self.key.key!r:.80} with other data; "
                "use a new key, or the same data",
            )


def _check_key(key: str) -> None:
    normalise(key, "idempotency_key")
    if not 0 < len(key) <= LONGEST_KEY:
        raise InvalidValue("idempotency_key", f"it has {len(key)} characters, not 1 to {LONGEST_KEY}")


def _fingerprint(data: Any, variables: Mapping[str, Any]) -> str:
    """Return a hash of the caller's input alone, which no deployment can change."""
    return hashlib.sha256(canonical([data, variables])).hexdigest()
