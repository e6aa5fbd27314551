"""Stalled executions: they should be moving, but have not moved for a while; and the claim to rescue one.

Finding them changes nothing. A rescue begins with a claim, so that only one of several rescuers publishes.
The claim also records that there is a message now, which has to be given time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from workflow_engine.execution.lost_messages import QUICK_TRIES
from workflow_engine.execution.records import FORMAT, OUT_OF_ORDER
from workflow_engine.postgres.database import Database

PAGE = 5_000
"""Executions that one statement examines, which takes Postgres some milliseconds."""

LARGEST_FACTOR = 2**7
"""Where queues cannot be inspected, an execution is rescued after `stall_after`, then after twice that and so
on, up to this multiple of it."""

# A rescued execution is soon examined again: its message, too, may have met a worker that died. If Redis has
# lost its data since, it is examined like any other.
ACTIVE = """
SELECT id, concat_ws('#', workflow_id, body) AS workflow_id, workflow_version, updated_at, recovered_at,
    greatest(updated_at, recovered_at) AS moved_at,
    CASE WHEN recoveries_seq = seq THEN recoveries ELSE 0 END AS recoveries,
    coalesce(due_queue, queue) AS queue,
    coalesce(due_priority, priority, %(node_priority)s) AS priority,
    -- Of the message with which it was rescued, or moved by an operator.
    coalesce(due_priority, 0) AS priority_ahead,
    format <= %(format)s AND greatest(updated_at, recovered_at) < now() - interval '1 second' * CASE
        WHEN recovered_at > updated_at AND recovered_at >= now() - %(kept)s * interval '1 second'
            THEN least(%(stall_after)s,
                %(again)s * power(2, greatest(0, least(recoveries, 10) - %(quick_tries)s)))
        ELSE %(seconds)s END AS is_suspicious
FROM {s}.executions
WHERE status IN ('PENDING', 'RUNNING') AND id > %(after)s
    -- One that waits for a slot of its limits has no message.
    AND NOT EXISTS (SELECT FROM {s}.limit_slots l
        WHERE l.execution_id = executions.id AND l.node_id = '' AND l.status = 'LIMITED')
"""

QUEUES = """
WITH page AS MATERIALIZED ({active} ORDER BY executions.id LIMIT %(page)s),
suspicious AS (
    SELECT DISTINCT queue, each.priority
    FROM page CROSS JOIN LATERAL (VALUES (page.priority), (page.priority_ahead)) AS each (priority)
    WHERE is_suspicious
)
SELECT (SELECT id::text FROM page ORDER BY id DESC LIMIT 1), (SELECT count(*) FROM page) = %(page)s,
    (SELECT array_agg(queue) FROM suspicious), (SELECT array_agg(priority) FROM suspicious)
""".replace("{active}", ACTIVE)

# Queues are served in order: if the oldest message is younger than the last move, that of the move is gone.
# So it is if Redis has lost its data in between, and all that is queued is from after that. Those that have
# stood for longest come first: if the rescues are lost in turn, those behind must not be the same each time.
LOST = """
SELECT id::text, workflow_id, workflow_version, moved_at, extract(epoch FROM now() - moved_at)::float,
    queue, ARRAY[priority, priority_ahead]
FROM ({active} AND id <= %(last)s) AS page
WHERE is_suspicious AND NOT EXISTS (
    SELECT FROM unnest(
        %(queues)s::text[], %(priorities)s::int[], %(oldest)s::timestamptz[], %(hidden)s::boolean[]
    ) AS front (queue, priority, oldest, is_hidden)
    WHERE front.queue = page.queue AND front.priority IN (page.priority, page.priority_ahead)
        AND (front.oldest <= moved_at + %(out_of_order)s
                AND NOT (moved_at < now() - %(kept)s * interval '1 second'
                    AND front.oldest >= now() - %(kept)s * interval '1 second')
            OR front.is_hidden AND now() - moved_at
                < %(stall_after)s * least(power(2, recoveries), %(largest_factor)s) * interval '1 second'))
ORDER BY page.updated_at, page.id
""".replace("{active}", ACTIVE)

# Those that wait, too, if a node of theirs was woken: it may be running.
ACTIVE_PAGE = """
SELECT id::text, workflow_id, workflow_version FROM (
    (SELECT id, workflow_id, workflow_version FROM {s}.executions
        WHERE status IN ('PENDING', 'RUNNING') AND id > %(after)s ORDER BY id LIMIT %(page)s)
    UNION
    (SELECT DISTINCT e.id, e.workflow_id, e.workflow_version
        FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
        WHERE w.status = 'RESUMING' AND w.needs IS NULL AND e.status = 'WAITING' AND e.id > %(after)s
        ORDER BY e.id LIMIT %(page)s)
) AS active ORDER BY id LIMIT %(page)s
"""

LOOK_AGAIN_LATER = """
UPDATE {s}.executions SET
    recovered_at = now(),
    recoveries = CASE WHEN recoveries_seq = seq THEN recoveries + 1 ELSE 1 END,
    recoveries_seq = seq
WHERE id = %(id)s AND status IN ('PENDING', 'RUNNING')
"""

CLAIM = (
    LOOK_AGAIN_LATER
    + """
    AND greatest(updated_at, recovered_at) = %(moved_at)s
RETURNING id
"""
)

NEVER_LOST = 1e9
"""Seconds since queues have lost anything that have not."""

BEFORE_ALL = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class ActiveExecution:
    """An execution of which a node may be running."""

    id: str
    workflow_id: str
    version: int


@dataclass(frozen=True)
class StalledExecution(ActiveExecution):
    """An execution that has not moved for a while and has no queued message. A long node may be running."""

    moved_at: datetime
    """When it was last committed or rescued, by the database's clock."""
    seconds: float
    """Since then."""
    queue: str
    priorities: Sequence[int]
    """Where its message was sent, with either of these."""


class Front(NamedTuple):
    """The message at the front of a queue and priority."""

    oldest: datetime | None
    """When the commit was made that led to it; None if no message waits or none carries a time."""
    is_hidden: bool = False
    """The broker does not report whether messages wait."""


FrontOf = Callable[[str, int], Front]


class Stalled:
    """Finds and claims stalled executions in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database, *, node_priority: int, stall_after: float) -> None:
        self._database = database
        self._parameters = {
            "node_priority": node_priority,
            "format": FORMAT,
            "page": PAGE,
            "out_of_order": OUT_OF_ORDER,
            "stall_after": stall_after,
            "quick_tries": QUICK_TRIES,
            "largest_factor": LARGEST_FACTOR,
        }

    def pages(
        self, seconds: float, again: float, front_of: FrontOf, kept: float = NEVER_LOST
    ) -> Iterator[Sequence[StalledExecution]]:
        """Examine all executions that ought to move, a page at a time; yield the stalled ones of each page.

        They have not moved for `seconds`; those that have stood for longest come first. Those that were
        rescued and have not moved since are found `again` seconds after the rescue, the first few times, then
        after twice that and so on, up to `stall_after`. `front_of` reads the
        front of a queue and priority. It is called before the executions are read, so that a message served
        in between counts as waiting. An execution is left out while its own message may be waiting there.
        `kept` are the seconds since when the queues have lost nothing.
        """
        looked = {**self._parameters, "seconds": seconds, "again": again, "kept": kept, "after": BEFORE_ALL}
        has_more = True
        while has_more:
            last, has_more, queues, priorities = self._database.rows(QUEUES, **looked)[0]
            yield self._lost(looked, last, queues, priorities, front_of) if queues else ()
            looked["after"] = last

    def _lost(
        self,
        looked: Mapping[str, Any],
        last: str,
        queues: Sequence[str],
        priorities: Sequence[int],
        front_of: FrontOf,
    ) -> Sequence[StalledExecution]:
        fronts = [front_of(queue, priority) for queue, priority in zip(queues, priorities, strict=True)]
        rows = self._database.rows(
            LOST,
            **looked,
            last=last,
            queues=queues,
            priorities=priorities,
            oldest=[front.oldest for front in fronts],
            hidden=[front.is_hidden for front in fronts],
        )
        return [StalledExecution(*row) for row in rows]

    def active_pages(self) -> Iterator[Sequence[ActiveExecution]]:
        """Return all executions of which a node may be running, a page at a time."""
        after = BEFORE_ALL
        while rows := self._database.rows(ACTIVE_PAGE, after=after, page=PAGE):
            yield [ActiveExecution(*row) for row in rows]
            after = rows[-1][0]

    def claim(self, execution: StalledExecution) -> bool:
        """Claim a stalled execution; return False if it has moved or another worker has claimed it."""
        return bool(self._database.rows(CLAIM, id=execution.id, moved_at=execution.moved_at))

    def leave(self, execution_id: str) -> None:
        """Record that an execution is left to others: they examine it soon, then ever later.

        A woken node needs no record: its claim ends by itself.
        """
        self._database.rows(LOOK_AGAIN_LATER, id=execution_id)
