"""A month of a large installation: copies of executions that really ran, of many workflows, in every status.

Some filters match most of them, some a few and some none. Ids are UUIDs of version 7 in the order of their
starts. SQL makes the copies, without checks of foreign keys, and builds most indexes afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import closing

import psycopg2
import psycopg2.extensions

from benchmarks.past_days import COLUMNS
from benchmarks.watched import Watched
from workflow_engine import ExecutionContext, Workflow, WorkflowBuilder, node, waiting
from workflow_engine.nodes.results import NodeExecutionResult
from workflow_engine.settings import Settings

WORKFLOWS = 20
NODES = 10
DAYS = 30.0
AT_ONCE = 50_000
LATER = 8 * 7 * 86_400
"""Seconds that waits take: none is over within the month."""

RETRY = {"maxAttempts": 2, "waitDuration": 1000 * LATER}

RARE_TAG, RARE_WORD, RARE_EVENT = "recalled", "xylophone", "inspected"
"""What three executions have, and what a few of the first thousandth have."""

FAMILY = 20
"""Of so many executions in a row one has a child, which is the next."""

UNUSUAL = {
    "failed": 0.015,
    "cancelled": 0.005,
    "event": 0.028,
    "delay": 0.015,
    "retry": 0.005,
    "paused": 0.002,
}
"""The share of executions with each outcome; the others have completed."""

AT_WORK = {"running": 0.06, "pending": 0.02}
"""The share of the last twentieth of the executions."""

ORIGINALS = """
CREATE TEMPORARY TABLE originals (number int PRIMARY KEY, id uuid, outcome text, created_at timestamptz)
"""

# Every `FAMILY`-th execution is a child of the one before.
COPIES = """
CREATE TEMPORARY TABLE copies AS
SELECT starts.n, starts.id, starts.chance, o.id AS original, starts.started - o.created_at AS later,
    o.outcome, CASE WHEN o.outcome = 'child' THEN lag(starts.id) OVER (ORDER BY starts.n) END AS parent
FROM (
    SELECT n, started, chance, (lpad(to_hex((extract(epoch FROM started) * 1000)::bigint), 12, '0') || '7'
        || substr(digits, 1, 3) || '8' || substr(digits, 4, 15))::uuid AS id
    FROM (
        SELECT n, now() - %(days)s * interval '1 day' * (1 - n::float / (%(times)s + 1)) AS started,
            md5(n::text) AS digits,
            ('x' || substr(md5('chance' || n), 1, 8))::bit(32)::bigint::float / 4294967296 AS chance
        FROM generate_series(%(first)s::bigint, %(last)s) AS n
    ) AS numbers
) AS starts
JOIN originals o ON o.number = CASE
    WHEN starts.n %% %(family)s = 0 THEN 0
    WHEN starts.n %% %(family)s = %(family)s - 1 THEN -1
    WHEN starts.n > 0.95 * %(times)s THEN width_bucket(chance, %(late_bounds)s::float[])
    ELSE width_bucket(chance, %(bounds)s::float[]) END
"""

SPRING_BEGINS, SPRING_ENDS = 0.3, 0.4
"""The share of executions before and until the end of the days that one tag and one word are of."""

IN_SPRING = f"copies.n BETWEEN {SPRING_BEGINS} * %(times)s AND {SPRING_ENDS} * %(times)s"

TAGS = f"""
nullif(CASE WHEN copies.n %% (%(times)s / 4) = 1 AND copies.n > 1 THEN ARRAY['{RARE_TAG}']
    WHEN copies.n %% 3 = 0 THEN ARRAY['region-' || copies.n / 3 %% 50, 'plan-' || (copies.chance * 4)::int]
    WHEN copies.n %% 20 = 1 THEN ARRAY['vip'] ELSE '{{}}' END
    || CASE WHEN {IN_SPRING} THEN ARRAY['spring'] ELSE '{{}}' END, '{{}}')
"""

METADATA = """
CASE WHEN copies.n %% 2 = 0 THEN jsonb_build_object('order', copies.n, 'customer', copies.n / 2 %% 5000,
    'channel', (ARRAY['web', 'shop', 'phone'])[copies.n / 2 %% 3 + 1]) END
"""

ERROR = f"""
CASE WHEN original.error IS NOT NULL THEN original.error || ' of customer ' || copies.n %% 5000
    || CASE WHEN copies.n < %(times)s / 1000 THEN ' {RARE_WORD}' ELSE '' END
    || CASE WHEN {IN_SPRING} THEN ' outage' ELSE '' END END
"""

OVERRIDES: Mapping[str, Mapping[str, str]] = {
    "executions": {
        "id": "copies.id",
        "parent_execution_id": "copies.parent",
        "root_execution_id": "copies.parent",
        "idempotency_key": "CASE WHEN copies.n %% 3 = 0 THEN 'key-' || copies.n END",
        "tags": TAGS,
        "user_metadata": METADATA,
        "error": ERROR,
    },
    "node_executions": {
        "execution_id": "copies.id",
        "duration_ms": "(5 * exp(4 * ((copies.n * 7 + original.seq * 13) %% 100) / 100.0))::bigint",
    },
    "execution_wait_states": {
        "id": "gen_random_uuid()",
        "execution_id": "copies.id",
        "correlation_id": "CASE WHEN original.correlation_id IS NOT NULL THEN 'order-' || copies.n END",
        "details": f"""CASE WHEN original.wait_type = 'EVENTS' AND copies.n < %(times)s / 1000
            THEN jsonb_set(original.details, '{{events}}', '["{RARE_EVENT}"]') ELSE original.details END""",
    },
}
"""How a copy differs from its original, besides its times."""

KEYS = {"executions": "id", "node_executions": "execution_id", "execution_wait_states": "execution_id"}

BUILT_LATER = """
SELECT i.indexname, i.indexdef FROM pg_indexes i
WHERE i.schemaname = current_schema() AND i.tablename = ANY(%s)
    AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conname = i.indexname)
"""


class CardDeclined(Exception):
    """The failure of some executions."""


class BankAway(Exception):
    """An error after which a node is tried again."""


@node("benchmarks.outcome")
def outcome(context: ExecutionContext, outcome: str) -> NodeExecutionResult | str:
    """Do what the start has asked for."""
    if outcome == "failed":
        raise CardDeclined("the bank has declined the card")
    if outcome == "retry":
        raise BankAway("the bank does not answer")
    if outcome == "event" and context.wake is None:
        return waiting(events=["paid"], correlation_id="order")
    if outcome == "delay" and context.wake is None:
        return waiting(seconds=LATER)
    return "paid"


def _shop(number: int) -> Workflow:
    flow = WorkflowBuilder(f"shop-{number:02}")
    last = flow.trigger("begin")
    for step in range(1, NODES + 1):
        if step == 5:
            last = last >> flow.python(
                "pay",
                "benchmarks.outcome",
                arguments={"outcome": "{{ begin.outcome }}"},
                retry={**RETRY, "ignoreExceptions": ["CardDeclined"]},
            )
        else:
            last = last >> flow.function(f"step{step}", "{{ begin.outcome }}")
    return flow.build()


def _family() -> Workflow:
    flow = WorkflowBuilder("family")
    flow.trigger("begin") >> flow.sub_workflow("part", "shop-00", data={"outcome": "completed"})
    return flow.build()


class PastMonth:
    """Fills the tables of an installation."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._watched = Watched(settings)
        self.client = self._watched.client

    def fill(self, times: int, days: float = DAYS) -> None:
        """Insert `times` executions, spread evenly over the last `days` days, each with its journal."""
        originals = self._originals()
        url = self._settings.database_url.replace("+psycopg2", "")
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                _fill(cursor, originals, times, days)

    def _originals(self) -> dict[tuple[int, str], str]:
        """Run one execution for each workflow and outcome, and return their ids."""
        for workflow in [*map(_shop, range(WORKFLOWS)), _family()]:
            self.client.deploy(workflow)
        found = {
            (number, name): self._run(f"shop-{number:02}", name)
            for number in range(WORKFLOWS)
            for name in ("completed", *UNUSUAL, *AT_WORK)
        }
        parent = self.client.start("family", {}).id
        self._watched.walk()
        (child,) = self.client.children(parent)
        return {**found, (-1, "parent"): parent, (-1, "child"): child.id}

    def _run(self, workflow: str, name: str) -> str:
        started = self.client.start(workflow, {"outcome": name}).id
        if name in ("paused", "cancelled", "running"):
            for _ in range(3):
                self._watched.hop()
            if name == "paused":
                self.client.control.pause(started, reason="waits for the new price list", actor="ada")
            if name == "cancelled":
                self.client.control.cancel(started, actor="ada")
        elif name != "pending":
            self._watched.walk()
        self._watched.messages.queue.clear()
        return started


def _fill(
    cursor: psycopg2.extensions.cursor, originals: Mapping[tuple[int, str], str], times: int, days: float
) -> None:
    cursor.execute("SET session_replication_role = replica")
    cursor.execute("SET synchronous_commit = off")
    cursor.execute("SET maintenance_work_mem = '256MB'")
    cursor.execute(ORIGINALS)
    shops = [key for key in originals if key[0] >= 0]
    numbers = {key: number for number, key in enumerate(shops, 1)}
    numbers |= {(-1, "child"): 0, (-1, "parent"): -1}
    for key, number in numbers.items():
        cursor.execute(
            "INSERT INTO originals SELECT %s, id, %s, created_at FROM executions WHERE id = %s",
            [number, key[1], originals[key]],
        )
    cursor.execute(BUILT_LATER, [list(KEYS)])
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    statements = [_copy_statement(cursor, table, key) for table, key in KEYS.items()]
    for first in range(1, times + 1, AT_ONCE):
        given = {
            "days": days,
            "times": times,
            "first": first,
            "last": min(first + AT_ONCE - 1, times),
            "family": FAMILY,
            "bounds": _bounds(shops, UNUSUAL),
            "late_bounds": _bounds(shops, {**UNUSUAL, **AT_WORK}),
        }
        cursor.execute(COPIES, given)
        cursor.execute("ANALYZE copies")
        for statement in statements:
            cursor.execute(statement, given)
        cursor.execute("DROP TABLE copies")
    for _, definition in indexes:
        cursor.execute(definition)
    for table in KEYS:
        cursor.execute(f"VACUUM (ANALYZE) {table}")  # as autovacuum would have by now
    cursor.execute("CHECKPOINT")  # or the next steps would wait for the disk to write all this


def _bounds(shops: Sequence[tuple[int, str]], shares: Mapping[str, float]) -> list[float]:
    """Return where the interval of chances of each original begins: the first workflows have most of them."""
    total = sum(1 / (number + 1) for number in range(WORKFLOWS))
    completed = 1 - sum(shares.values())
    parts = [
        ({"completed": completed, **shares}.get(name, 0.0)) / (number + 1) / total for number, name in shops
    ]
    return [0.0, *list(itertools.accumulate(parts))[:-1]]


def _copy_statement(cursor: psycopg2.extensions.cursor, table: str, key: str) -> str:
    cursor.execute(COLUMNS, [table])
    columns = dict(cursor.fetchall())
    values = [
        OVERRIDES[table].get(name)
        or (f"original.{name} + copies.later" if kind == "timestamp with time zone" else f"original.{name}")
        for name, kind in columns.items()
    ]
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} "
        f"FROM copies JOIN {table} AS original ON original.{key} = copies.original ORDER BY copies.id"
    )
