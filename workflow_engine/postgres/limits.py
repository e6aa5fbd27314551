"""Limits: the slots that executions and attempts of nodes hold, and the owners that stand in line for one.

A slot is a row. That of an attempt is a lease, which its process renews; that of an execution lasts until it
ends. Both are freed in the transaction of the commit or end, and granted to the next owner in line right
after it. If a process dies in between, the timekeepers do what it has left undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflow_engine.execution.records import FollowUps, WantedSlot
from workflow_engine.execution.states import SlotStatus
from workflow_engine.postgres.database import Database
from workflow_engine.postgres.executions.creation import slot_documents
from workflow_engine.postgres.executions.follow_ups import follow_ups_of
from workflow_engine.postgres.values import to_jsonb

SLOT_LEASE = 3.5
"""Seconds for which a slot is held without a renewal."""

RENEWAL_INTERVAL = 1.0
"""Seconds between two renewals, so that one may be late or fail."""

AT_ONCE = 500
"""Slots that one look frees at most."""

SHOWN_HOLDERS = 5

TAKE = """
SELECT {s}.take_slots_v1(%(execution_id)s, %(node_id)s, %(wanted)s::jsonb, %(token)s::uuid, %(lease)s::float8)
"""

RENEW = """
UPDATE {s}.limit_slots s SET leased_until = now() + %(lease)s * interval '1 second'
FROM unnest(%(executions)s::uuid[], %(nodes)s::text[], %(tokens)s::uuid[])
    AS held (execution_id, node_id, token)
WHERE s.execution_id = held.execution_id AND s.node_id = held.node_id AND s.token = held.token
RETURNING s.token::text
"""

GRANT = "SELECT {s}.grant_slots_v1(%(keys)s::text[], %(lease)s::float8)"

LOOK = "SELECT open_keys, next_in FROM {s}.look_at_limits_v1(%(most)s)"

FORGET_WINDOWS = "DELETE FROM {s}.limit_windows WHERE ends_at < now()"

# An execution of which every slot is held is not in line; nor is one of which none is needed.
STANDING = """
SELECT s.execution_id::text, s.key, nullif(s.node_id, ''), s.status, s.is_in_line, s.arrived_at, s.held_since,
    coalesce(o.concurrency, s.concurrency), coalesce(o.rate, s.rate),
    CASE WHEN o.rate IS NULL THEN s.rate_seconds ELSE o.rate_seconds END,
    CASE WHEN s.is_in_line AND %(with_places)s THEN (
        SELECT count(*) + 1 FROM {s}.limit_slots b
        WHERE b.key = s.key AND b.is_in_line
            AND (b.arrived_at, b.execution_id, b.node_id) < (s.arrived_at, s.execution_id, s.node_id)) END,
    (SELECT count(*) FROM {s}.limit_slots h WHERE h.key = s.key AND h.status = 'HELD'),
    ARRAY(SELECT h.execution_id::text FROM {s}.limit_slots h
        WHERE h.key = s.key AND h.status = 'HELD' AND h.execution_id <> s.execution_id
        ORDER BY h.held_since LIMIT %(holders)s)
FROM {s}.limit_slots s LEFT JOIN {s}.limit_overrides o ON o.key = s.key
WHERE s.execution_id = ANY(%(executions)s::uuid[])
ORDER BY s.execution_id, s.node_id, s.key
"""

# Names and numbers of all keys that are in use, or that an operator has set.
LIST = """
SELECT key, coalesce(o.concurrency, u.concurrency), coalesce(o.rate, u.rate),
    CASE WHEN o.rate IS NULL THEN u.rate_seconds ELSE o.rate_seconds END,
    u.concurrency, u.rate, u.rate_seconds, coalesce(u.held, 0), coalesce(u.waiting, 0), u.oldest,
    coalesce(o.concurrency IS NOT NULL OR o.rate IS NOT NULL, false), o.actor, o.reason, o.updated_at
FROM (
    SELECT s.key, min(s.concurrency) AS concurrency, min(s.rate) AS rate, min(s.rate_seconds) AS rate_seconds,
        count(*) FILTER (WHERE s.status = 'HELD') AS held,
        count(*) FILTER (WHERE s.status = 'LIMITED') AS waiting,
        min(s.arrived_at) FILTER (WHERE s.status = 'LIMITED') AS oldest
    FROM {s}.limit_slots s WHERE %(key)s::text IS NULL OR s.key = %(key)s GROUP BY s.key
) u FULL JOIN (
    SELECT * FROM {s}.limit_overrides o WHERE %(key)s::text IS NULL OR o.key = %(key)s
) o USING (key)
ORDER BY coalesce(u.waiting, 0) DESC, key
LIMIT %(limit)s
"""

SET = """
INSERT INTO {s}.limit_overrides AS o (key, concurrency, rate, rate_seconds, actor, reason)
VALUES (%(key)s, %(concurrency)s, %(rate)s, %(seconds)s, %(actor)s, %(reason)s)
ON CONFLICT (key) DO UPDATE SET
    concurrency = coalesce(excluded.concurrency, o.concurrency),
    rate = coalesce(excluded.rate, o.rate),
    rate_seconds = CASE WHEN excluded.rate IS NULL THEN o.rate_seconds ELSE excluded.rate_seconds END,
    actor = excluded.actor, reason = excluded.reason, updated_at = now()
"""

RESET = "DELETE FROM {s}.limit_overrides WHERE key = %(key)s RETURNING key"

NEXT_DUE = (
    "SELECT leased_until FROM {s}.limit_slots WHERE leased_until IS NOT NULL ORDER BY leased_until LIMIT 1"
)

HAS_LINES = "SELECT EXISTS (SELECT FROM {s}.limit_slots WHERE is_in_line)"


@dataclass(frozen=True)
class HeldSlots:
    """The slots of an attempt that a process of this engine runs."""

    execution_id: str
    node_id: str
    token: str
    """That of the claim under which it runs."""


@dataclass(frozen=True)
class SlotStanding:
    """A slot that an execution, or a node of it, holds or waits for."""

    key: str
    node_id: str | None
    """None: the execution itself."""
    status: SlotStatus
    is_in_line: bool
    """It is for this key that its owner stands in line, of all those that it lacks."""
    arrived_at: datetime
    held_since: datetime | None
    concurrency: int | None
    """The numbers that are in force: those of the definition, or of an operator."""
    rate: int | None
    rate_seconds: float | None
    position: int | None
    """Its place in the line, from 1 on; None if it stands in none, or the places were not asked for."""
    held: int
    """The slots of this key that are held."""
    holders: tuple[str, ...]
    """Other executions that hold one, the longest first; a few of them."""


@dataclass(frozen=True)
class LimitUse:
    """A key of limits: its numbers, and how many hold a slot of it or wait for one."""

    key: str
    concurrency: int | None
    rate: int | None
    rate_seconds: float | None
    defined_concurrency: int | None
    """The lowest number of the definitions of those who hold or wait."""
    defined_rate: int | None
    defined_rate_seconds: float | None
    held: int
    waiting: int
    oldest: datetime | None
    """Since when the first in line waits."""
    is_set: bool
    """An operator has set one of its numbers."""
    actor: str | None = None
    reason: str | None = None
    updated_at: datetime | None = None


class Limits:
    """Slots of limits in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database, *, claim_lease: float) -> None:
        self._database = database
        self._claim_lease = claim_lease

    def take_for_execution(self, execution_id: str, wanted: Sequence[WantedSlot]) -> bool:
        """Take the slots that an execution needs. Return False if it stands in line for them now."""
        return self._take(execution_id, "", wanted, None, None)

    def take_for_attempt(
        self, execution_id: str, node_id: str, wanted: Sequence[WantedSlot], token: str
    ) -> bool:
        """Take the slots that an attempt of a node needs, for a lease. Return False if it lacks one.

        Safe to repeat; slots that were granted to the node are taken over.
        """
        return self._take(execution_id, node_id, wanted, token, SLOT_LEASE)

    def _take(
        self,
        execution_id: str,
        node_id: str,
        wanted: Sequence[WantedSlot],
        token: str | None,
        lease: float | None,
    ) -> bool:
        ((is_held,),) = self._database.rows(
            TAKE,
            execution_id=execution_id,
            node_id=node_id,
            wanted=to_jsonb(slot_documents(wanted)),
            token=token,
            lease=lease,
        )
        return bool(is_held)

    def renew(self, held: Sequence[HeldSlots]) -> set[str]:
        """Renew the slots of these attempts. Return the tokens of those that still hold them."""
        rows = self._database.rows(
            RENEW,
            executions=[each.execution_id for each in held],
            nodes=[each.node_id for each in held],
            tokens=[each.token for each in held],
            lease=SLOT_LEASE,
        )
        return {row[0] for row in rows}

    def grant(self, keys: Sequence[str]) -> FollowUps | None:
        """Grant the free slots of these keys to the owners in line. Return what is to be published."""
        ((returned,),) = self._database.rows(GRANT, keys=sorted(set(keys)), lease=self._claim_lease)
        return follow_ups_of(returned)

    def look(self) -> tuple[list[str], float | None]:
        """Free what dead processes held. Return the keys that have room for their line.

        The second value is the seconds until a rate admits the next one; None if no line waits for that.
        """
        self._database.rows(FORGET_WINDOWS)
        ((open_keys, next_in),) = self._database.rows(LOOK, most=AT_ONCE)
        return open_keys or [], next_in

    def standing(self, execution_id: str) -> list[SlotStanding]:
        """Return the slots that an execution and its nodes hold or wait for."""
        return self.standings([execution_id]).get(execution_id, [])

    def standings(
        self, execution_ids: Sequence[str], *, with_places: bool = True
    ) -> dict[str, list[SlotStanding]]:
        """Return the slots of many executions, by execution; counting their places costs most."""
        found: dict[str, list[SlotStanding]] = {}
        for execution_id, *row in self._database.rows(
            STANDING, executions=list(execution_ids), with_places=with_places, holders=SHOWN_HOLDERS
        ):
            found.setdefault(execution_id, []).append(_standing(row))
        return found

    def uses(self, key: str | None = None, *, limit: int = 100) -> list[LimitUse]:
        """Return the keys of limits in use or set by an operator, those with the longest lines first."""
        return [LimitUse(*row) for row in self._database.rows(LIST, key=key, limit=limit)]

    def set(
        self,
        key: str,
        *,
        concurrency: int | None,
        rate: tuple[int, float] | None,
        actor: str | None,
        reason: str | None,
    ) -> None:
        """Set numbers of a key in place of those of the definitions; None leaves one as it is."""
        number, seconds = rate or (None, None)
        given: dict[str, Any] = {"concurrency": concurrency, "rate": number, "seconds": seconds}
        self._database.rows(SET, key=key, **given, actor=actor, reason=reason)

    def reset(self, key: str) -> bool:
        """Return to the numbers of the definitions. Return False if none were set."""
        return bool(self._database.rows(RESET, key=key))


def _standing(row: Sequence[Any]) -> SlotStanding:
    key, node_id, status, is_in_line, arrived_at, held_since, *numbers = row
    concurrency, rate, seconds, position, held, holders = numbers
    return SlotStanding(
        key,
        node_id,
        SlotStatus(status),
        is_in_line,
        arrived_at,
        held_since,
        concurrency,
        rate,
        seconds,
        position,
        held,
        tuple(holders),
    )
