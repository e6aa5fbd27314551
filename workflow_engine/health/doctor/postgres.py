"""Is Postgres fit to hold the truth: reachable, of a known version, migrated, writable and durable?"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from workflow_engine.health.doctor.finding import Finding, first_few, ok, problem, warning
from workflow_engine.postgres import migrations
from workflow_engine.postgres.database import PooledDatabase
from workflow_engine.settings import Settings

OLDEST_VERSION = 14
LARGEST_SKEW = 3.0
"""Seconds between the database's clock and ours that are not worth a warning."""

FACTS = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
    extract(epoch FROM clock_timestamp())::float,
    current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
    current_setting('server_encoding')
"""

# Logical replication serves other purposes; to roles without pg_monitor the state of a standby is NULL.
STANDBYS = """
SELECT count(*), count(*) FILTER (WHERE r.sync_state = 'async')
FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
WHERE coalesce(s.slot_type, 'physical') = 'physical'
"""

# With the nodes of bodies. The timeout of a node that has one covers its children, not a process.
CODE_IN_USE = """
WITH RECURSIVE nodes AS (
    SELECT w.id, n
    FROM {s}.workflows w
    JOIN {s}.workflow_versions v ON v.workflow_id = w.id AND v.version = w.current_version
    CROSS JOIN jsonb_array_elements(v.definition -> 'nodes') n
    UNION ALL
    SELECT nodes.id, inside
    FROM nodes CROSS JOIN jsonb_array_elements(
        CASE WHEN n ->> 'type' = 'logic' AND n ->> 'subType' IN ('loop', 'sub-workflow')
                AND jsonb_typeof(n #> '{config,body,nodes}') = 'array'
            THEN n #> '{config,body,nodes}' ELSE '[]' END) inside
)
SELECT DISTINCT id, n ->> 'type', n ->> 'subType', n -> 'config' ->> 'function', n ->> 'queue',
    CASE WHEN n ->> 'type' <> 'logic' THEN (n ->> 'timeout')::float END, n -> 'config' ->> 'task'
FROM nodes
ORDER BY 1, 2, 3, 4, 5, 6, 7
"""


WAITING_FOR_CODE = """
SELECT needs, count(*) FROM {s}.execution_wait_states
WHERE status = 'RESUMING' AND needs IS NOT NULL GROUP BY needs ORDER BY needs LIMIT 20
"""

# Lines that do not move: their first has stood in it for long, or an operator has set a number to 0.
LINES_THAT_STAND = """
SELECT s.key, count(*), extract(epoch FROM now() - min(s.arrived_at))::float,
    coalesce(bool_or(o.concurrency = 0 OR o.rate = 0), false)
FROM {s}.limit_slots s LEFT JOIN {s}.limit_overrides o ON o.key = s.key
WHERE s.is_in_line GROUP BY s.key
HAVING min(s.arrived_at) < now() - %(long)s * interval '1 second' OR bool_or(o.concurrency = 0 OR o.rate = 0)
ORDER BY min(s.arrived_at) LIMIT 20
"""

LONG_IN_LINE = 3600.0
"""Seconds in line for a slot of a limit that are worth a warning."""

TRIALS = 3
"""Round trips that are measured; the quickest counts, the others waited for this process or the network."""


@dataclass(frozen=True)
class CodeInUse:
    """The code that a node in the current version of a deployed workflow needs."""

    workflow_id: str
    type: str
    sub_type: str
    function: str | None
    """The function that it calls, for `action/python`."""
    queue: str | None
    timeout: float | None = None
    """Seconds that an attempt may take; None: no limit."""
    named_task: str | None = None
    """The `task` of its config."""

    @property
    def task(self) -> str | None:
        """The Celery task that it runs, for `action/celery-task`."""
        return self.named_task if f"{self.type}/{self.sub_type}" == "action/celery-task" else None

    @property
    def name(self) -> str:
        """What a worker needs to run the node: the function it calls, its task, or its type."""
        kind = f"{self.type}/{self.sub_type}"
        return self.task or (self.function if kind == "action/python" and self.function else kind)


@dataclass(frozen=True)
class StandingLine:
    """The line for a slot of a limit that does not move, or not for long."""

    key: str
    length: int
    seconds: float
    """Since the first in it came."""
    is_closed: bool
    """An operator has set a number of this limit to 0."""


@dataclass(frozen=True)
class PostgresFacts:
    """What Postgres reports about itself."""

    version_number: int
    """140005 for 14.5."""
    version: str
    round_trip_ms: float
    skew: float
    """Seconds by which its clock is ahead of ours."""
    synchronous_commit: str
    fsync: str
    full_page_writes: str
    is_read_only: bool
    standbys: int
    asynchronous_standbys: int
    revision: str | None
    """The revision of the tables; None if there are none."""
    newest_revision: str | None
    """The revision that this release needs."""
    code_in_use: tuple[CodeInUse, ...] | None
    """None if this release cannot read the tables."""
    is_known_revision: bool = True
    """False if the tables are from a newer release."""
    encoding: str = "UTF8"
    """The encoding in which the database stores text."""
    waiting_for_code: tuple[tuple[str, int], ...] = ()
    """Node types and functions that workers lacked, each with the number of nodes that wait for it."""
    standing_lines: tuple[StandingLine, ...] = ()
    """The first that came stands first."""


def ask_postgres(settings: Settings) -> PostgresFacts:
    """Collect the facts. Raises `DatabaseUnavailable`."""
    database = PooledDatabase(settings)
    try:
        database.rows("SELECT 1")  # connects, so that the round trip does not count it
        row, round_trip, skew = min(map(_facts, [database] * TRIALS), key=lambda trial: trial[1])
        (standbys,) = database.rows(STANDBYS)
        revision = migrations.current_revision(settings.database_url, settings.database_schema)
        newest = migrations.newest_revision()
        code, waiting, lines = None, tuple[tuple[str, int], ...](), tuple[StandingLine, ...]()
        if revision is not None and revision == newest:
            code = tuple(CodeInUse(*each) for each in database.rows(CODE_IN_USE))
            waiting = tuple((name, number) for name, number in database.rows(WAITING_FOR_CODE))
            lines = tuple(StandingLine(*row) for row in database.rows(LINES_THAT_STAND, long=LONG_IN_LINE))
    finally:
        database.dispose()
    number, version, _clock, synchronous_commit, fsync, full_page_writes, is_read_only, encoding = row
    return PostgresFacts(
        version_number=number,
        version=version,
        round_trip_ms=round_trip * 1000,
        skew=skew,
        synchronous_commit=synchronous_commit,
        fsync=fsync,
        full_page_writes=full_page_writes,
        is_read_only=is_read_only,
        standbys=standbys[0],
        asynchronous_standbys=standbys[1],
        revision=revision,
        newest_revision=newest,
        code_in_use=code,
        is_known_revision=migrations.is_known(revision),
        encoding=encoding,
        waiting_for_code=waiting,
        standing_lines=lines,
    )


def _facts(database: PooledDatabase) -> tuple[Sequence[Any], float, float]:
    """Return the row of facts, the seconds it took, and those by which the database's clock is ahead."""
    asked, started = time.time(), time.perf_counter()
    (row,) = database.rows(FACTS)
    took = time.perf_counter() - started
    return row, took, row[2] - (asked + took / 2)


def judge_postgres(facts: PostgresFacts) -> Iterator[Finding]:
    """Yield a finding for each question about Postgres."""
    yield ok(REACHABLE, f"yes, round trip {facts.round_trip_ms:.1f} ms")
    yield _version(facts)
    yield _writable(facts)
    yield _encoding(facts)
    yield _migrations(facts)
    yield _safe_on_disk(facts)
    yield _standbys(facts)
    yield _clocks(facts)
    if facts.waiting_for_code:
        yield _waiting_for_code(facts)
    if facts.standing_lines:
        yield _standing_lines(facts.standing_lines)


def _waiting_for_code(facts: PostgresFacts) -> Finding:
    waiting = ", ".join(f"{number:,} for {name}" for name, number in facts.waiting_for_code)
    return warning(
        "Do all nodes have their code?",
        f"no, some wait for it: {waiting}",
        "deploy it to the workers, or finish the deployment that is under way",
    )


def _standing_lines(lines: Sequence[StandingLine]) -> Finding:
    said = [
        f"{line.length:,} for {line.key!r}, "
        + ("which is closed" if line.is_closed else f"the first for {line.seconds / 3600:,.1f} h")
        for line in lines
    ]
    return warning(
        "Do the lines for limits move?",
        f"not all, there wait {first_few(said)}",
        f"see who holds the slots with `workflow-engine limits list`; `workflow-engine limits set "
        f"{shlex.quote(lines[0].key)} --concurrency N` changes the number while executions run",
    )


REACHABLE = "Can it be reached?"


def unreachable(error: Exception) -> Finding:
    """Return the only finding about a Postgres that cannot be asked."""
    return problem(
        REACHABLE,
        f"no: {error}",
        "start it, or correct WORKFLOW_ENGINE_DATABASE_URL (host, port, user, database)",
    )


def place(url: str) -> str:
    """Return where a server is, without user and password: `db.example.com:5432/shop`."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}".rpartition("@")[2]


def _version(facts: PostgresFacts) -> Finding:
    question = "Is its version supported?"
    if facts.version_number >= OLDEST_VERSION * 10_000:
        return ok(question, f"yes, {facts.version}")
    return problem(question, f"no, it is {facts.version}", f"upgrade to Postgres {OLDEST_VERSION} or newer")


def _writable(facts: PostgresFacts) -> Finding:
    question = "Is it writable?"
    if not facts.is_read_only:
        return ok(question, "yes")
    return problem(
        question, "no, it is a standby or read-only", "set WORKFLOW_ENGINE_DATABASE_URL to the primary"
    )


def _encoding(facts: PostgresFacts) -> Finding:
    question = "Can it store every text?"
    if facts.encoding == "UTF8":
        return ok(question, "yes, its encoding is UTF8")
    return problem(
        question,
        f"no, the encoding of the database is {facts.encoding}",
        "create a database with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in "
        "WORKFLOW_ENGINE_DATABASE_URL",
    )


def _migrations(facts: PostgresFacts) -> Finding:
    question = "Are the migrations current?"
    if facts.revision == facts.newest_revision:
        return ok(question, f"yes, {facts.revision}")
    if facts.revision is None:
        return problem(question, "no, there are no tables", "run `workflow-engine db upgrade`")
    if not facts.is_known_revision:
        return problem(
            question,
            f"no, the tables are at {facts.revision}, from a newer release; this one needs "
            f"{facts.newest_revision}",
            "update the package here",
        )
    return problem(
        question,
        f"no, the tables are at {facts.revision} and this release needs {facts.newest_revision}",
        "run `workflow-engine db upgrade`",
    )


def _safe_on_disk(facts: PostgresFacts) -> Finding:
    question = "Are its commits durable?"
    unsafe = [
        name for name in ("synchronous_commit", "fsync", "full_page_writes") if getattr(facts, name) == "off"
    ]
    if not unsafe:
        return ok(
            question, f"yes, synchronous_commit {facts.synchronous_commit}, fsync and full_page_writes on"
        )
    advice = f"set {' and '.join(f'{name} = on' for name in unsafe)}; a lost commit makes its node run again"
    if "synchronous_commit" in unsafe:
        advice += ". ALTER ROLE … SET synchronous_commit = on spares other programs on that server"
    return warning(question, f"not if it crashes: {', '.join(unsafe)} off", advice)


def _standbys(facts: PostgresFacts) -> Finding:
    question = "Do its commits survive a failover?"
    if not facts.standbys:
        return ok(question, "no standby to fail over to is connected")
    if not facts.asynchronous_standbys and facts.synchronous_commit not in ("local", "off"):
        return ok(question, f"yes, none of {facts.standbys} standbys is asynchronous")
    return warning(
        question,
        f"not for certain: {facts.asynchronous_standbys} of {facts.standbys} standbys asynchronous, "
        f"synchronous_commit {facts.synchronous_commit}",
        "set synchronous_standby_names and synchronous_commit = on; every commit on that server then waits "
        "for a standby, and blocks while there is none. Or accept that a failover may lose the last commits",
    )


def _clocks(facts: PostgresFacts) -> Finding:
    question = "Do its clock and ours agree?"
    if abs(facts.skew) <= LARGEST_SKEW:
        return ok(question, f"yes, within {max(abs(facts.skew), 0.1):.1f} s")
    return warning(
        question,
        f"no, its clock is {abs(facts.skew):,.0f} s {'ahead of' if facts.skew > 0 else 'behind'} ours",
        "synchronise both machines by NTP; waits go by the database's clock",
    )
