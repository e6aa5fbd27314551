"""Which executions a list shows, and which a bulk operation moves: one set of filters for both."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from workflow_engine.errors import InvalidValue
from workflow_engine.execution.annotations import checked_tags
from workflow_engine.execution.ids import id_of
from workflow_engine.execution.states import FINISHED, ExecutionStatus
from workflow_engine.json_values import is_storable_time, normalise
from workflow_engine.postgres.values import to_jsonb

CLOCK_SKEW = timedelta(hours=1)
"""How far the clock that made an execution's id may be from that of the database."""

LONGEST_TEXT = 500

# Of `NOT (… AND …)` the planner expects so few rows that it reads all of them rather than an index.
NOT_HIDDEN = """CASE WHEN e.status IN ({finished}) THEN e.workflow_id <> ALL(
    ARRAY(SELECT w.id FROM {s}.workflows w WHERE w.state = 'ARCHIVED')) ELSE true END""".replace(
    "{finished}", ", ".join(f"'{status}'" for status in sorted(FINISHED))
)
"""Finished executions of archived workflows are left out, unless their workflow is named."""

_CONTAINED, _TAGS, _TAG = "%(contained)s::jsonb", "%(tags)s::text[]", "ARRAY[%(text)s::text]"
_WORDS = "plainto_tsquery('simple', %(text)s)"
_EVENTS = "to_jsonb(%(text)s::text)"

_AWAITED = """
    (w.status IN ('WAITING', 'RESUMING') AND w.correlation_id = %(text)s
    OR w.status = 'WAITING' AND w.wait_type = 'EVENTS' AND w.details->'events' @> {events}
        AND NOT w.received_events ? %(text)s)
""".replace("{events}", _EVENTS)

# A subquery for a value, because for EXISTS the planner may read all that waits for it first.
WAITS_ITSELF = """
    CASE WHEN e.completed_at IS NULL THEN
        (SELECT true FROM {s}.execution_wait_states w WHERE w.execution_id = e.id AND {awaited} LIMIT 1)
        ELSE false END
""".replace("{awaited}", _AWAITED)

# As an array, so that the index by id serves it beside those of the alternatives.
WAITS_FOR_IT = """
    e.id = ANY(ARRAY(SELECT w.execution_id FROM {s}.execution_wait_states w WHERE {awaited}))
""".replace("{awaited}", _AWAITED)

# The ids of those that wait, for conditions that are given them as `known`.
WAITING = """
    SELECT w.execution_id AS id FROM {s}.execution_wait_states w WHERE {awaited}
""".replace("{awaited}", _AWAITED.replace(_EVENTS, f"(SELECT {_EVENTS})"))
IS_KNOWN = "e.id = ANY(ARRAY(SELECT id FROM known))"

_HAS_TAG = f"e.tags @> {_TAG}"
_VALUES = (_CONTAINED, _TAGS, _TAG, _WORDS)

_START_OF_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{0,4}(-[0-9a-f]{0,4}(-[0-9a-f]{0,4}(-[0-9a-f]{0,12})?)?)?)?")


@dataclass(frozen=True)
class ExecutionFilter:
    """Filters that all have to hold; what is left out holds for every execution.

    A status may be given by its name. The constructor raises `InvalidValue`.
    """

    workflow_id: str | None = None
    statuses: Sequence[ExecutionStatus | str] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    """Values by path, such as `{"metadata.order": 7}`: the metadata contain them."""
    tags: Sequence[str] = ()
    """It has all of these."""
    since: datetime | None = None
    """It was started then or later."""
    until: datetime | None = None
    """It was started before."""
    older_than: float | None = None
    """It was started more than this many seconds ago, by the clock of the database."""
    text: str | None = None
    """It has an error with these words, or this idempotency key, tag, id or beginning of an id.

    Or it waits for an event of this name or correlation id.
    """
    archived: bool = False
    """Finished executions of archived workflows too, which are left out unless `workflow_id` names theirs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "statuses", tuple(statuses_named(self.statuses)))
        object.__setattr__(self, "tags", checked_tags(self.tags))
        _contained(self.where)
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and (moment.tzinfo is None or not is_storable_time(moment)):
                raise InvalidValue(name, f"{moment} names no time zone or is out of range")
        if self.text is not None:
            normalise(self.text, "text")
            if not 0 < len(self.text.strip()) <= LONGEST_TEXT:
                raise InvalidValue("text", f"it has no text, or more than {LONGEST_TEXT} characters")

    @property
    def is_empty(self) -> bool:
        """True if it holds for every execution."""
        return replace(self, archived=False) == ExecutionFilter()

    @property
    def wanted_statuses(self) -> list[str]:
        """The names of the statuses, all of them if none is given."""
        return [ExecutionStatus(status).value for status in self.statuses or ExecutionStatus]

    def plain_condition(self, *, children: bool = False) -> str:
        """Return the condition, on `executions e`, that indexes by status, workflow and id serve.

        It does not hold for executions that others have started, unless `children` is true.
        """
        parts = [] if children else ["e.parent_execution_id IS NULL"]
        if self.workflow_id is not None:
            parts.append("e.workflow_id = %(workflow_id)s")
        if self.since is not None:
            parts.append("e.id >= %(since_id)s::uuid")
        if self.until is not None:
            parts.append("e.id < %(until_id)s::uuid")
        return " AND ".join([*parts, self.condition_of_row()])

    def condition_of_row(self) -> str:
        """Return what is left to check of executions that were chosen by workflow, status and id."""
        parts = []
        if self.workflow_id is None and not self.archived:
            parts.append(NOT_HIDDEN)
        # A sum, of which the planner knows nothing: it would multiply the shares of two bounds that are one.
        if self.since is not None:
            parts.append("e.created_at + interval '0' >= %(since)s")
        if self.until is not None:
            parts.append("e.created_at + interval '0' < %(until)s")
        if self.older_than is not None:
            parts.append("e.created_at < now() - %(older_than)s * interval '1 second'")
        return " AND ".join(parts) or "true"

    def rare_condition(self, waits: str = WAITS_FOR_IT) -> str | None:
        """Return the condition, on `executions e`, that inverted indexes serve; None if there is none.

        `waits` is the condition that holds for those that wait for `text`: `WAITS_ITSELF` where each of some
        is to be checked.
        """
        return " AND ".join(self.rare_conditions(waits).values()) or None

    def rare_conditions(self, waits: str = WAITS_FOR_IT) -> dict[str, str]:
        """Return the parts of it, each with indexes of its own, by what they are about."""
        found = {}
        if self.where:
            found["metadata"] = f"e.user_metadata @> {_CONTAINED}"
        if self.tags:
            found["tags"] = f"e.tags @> {_TAGS}"
        if self.text is not None:
            waiting = [waits] if self.finds_waits else []
            found["text"] = f"({' OR '.join([*self._with_text(), _HAS_TAG, *waiting])})"
        return found

    def indexed_text_conditions(self) -> list[str]:
        """Return that of the text without waits, as conditions of which one has to hold, each for bitmaps.

        Postgres takes one of alternatives for redundant beside another condition on tags.
        """
        if self.text is None:
            return []
        if self.tags:
            return [f"({' OR '.join(self._with_text())})", _HAS_TAG]
        return [f"({' OR '.join([*self._with_text(), _HAS_TAG])})"]

    @property
    def finds_waits(self) -> bool:
        """True if those that wait for something are to be found, too."""
        return self.text is not None and not FINISHED.issuperset(self.wanted_statuses)

    def _with_text(self) -> list[str]:
        return [
            f"(e.error IS NOT NULL AND to_tsvector('simple', e.error) @@ {_WORDS})",
            "e.idempotency_key = %(text)s",
            *(["e.id BETWEEN %(first_id)s::uuid AND %(last_id)s::uuid"] if self._id_bounds else []),
        ]

    @property
    def _id_bounds(self) -> tuple[str, str] | None:
        text = (self.text or "").strip().lower()
        if _START_OF_ID.fullmatch(text) is None:
            return None
        digits = text.replace("-", "")
        return str(uuid.UUID(digits.ljust(32, "0"))), str(uuid.UUID(digits.ljust(32, "f")))

    def parameters(self) -> dict[str, Any]:
        """Return the values of the conditions' parameters."""
        first_id, last_id = self._id_bounds or (None, None)
        return {
            "statuses": self.wanted_statuses,
            "workflow_id": self.workflow_id,
            "since": self.since,
            "since_id": self.since and id_of(self.since - CLOCK_SKEW),
            "until": self.until,
            "until_id": self.until and id_of(self.until + CLOCK_SKEW),
            "older_than": self.older_than,
            "contained": to_jsonb(_contained(self.where)),
            "tags": list(self.tags),
            "text": self.text and self.text.strip(),
            "first_id": first_id,
            "last_id": last_id,
        }


def without_values(condition: str) -> str:
    """Return a condition whose values the planner does not see: it takes each for as rare as any other."""
    for value in _VALUES:
        condition = condition.replace(value, f"(SELECT {value})")
    return condition


def statuses_named(given: Sequence[ExecutionStatus | str]) -> Sequence[ExecutionStatus]:
    """Return statuses that are given as such or by name. Raises `InvalidValue`."""
    if isinstance(given, str):
        raise InvalidValue("statuses", f"it is a list of statuses; write [{given!r:.60}]")
    try:
        return [ExecutionStatus(status) for status in given]
    except ValueError as error:
        known = ", ".join(ExecutionStatus)
        raise InvalidValue("statuses", f"{error}; there are {known}") from None


def condition_of(text: str) -> tuple[str, Any]:
    """Return path and value of `metadata.order=7`; a value that is not JSON is a text.

    Raises `InvalidValue` for a text without a path and a value.
    """
    path, separator, value = text.partition("=")
    if not separator or not path:
        raise InvalidValue("where", f"{text!r:.80} has no path and value; write metadata.order=7")
    try:
        return path, json.loads(value)
    except ValueError:
        return path, value


def _contained(where: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object that the metadata must contain. Raises `InvalidValue`."""
    contained: dict[str, Any] = {}
    for path, value in where.items():
        root, *keys = path.split(".")
        if root != "metadata" or not keys or not all(keys):
            raise InvalidValue(
                "where", f"{path!r:.80} is not a path into the metadata; write metadata.order, for example"
            )
        place = contained
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise InvalidValue("where", f"{path!r:.80} and another path exclude each other; remove one")
        if keys[-1] in place:
            raise InvalidValue("where", f"{path!r:.80} and another path exclude each other; remove one")
        place[keys[-1]] = normalise(value, path)
    return contained
