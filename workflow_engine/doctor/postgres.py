"""Is Postgres fit to hold the truth: reachable, of a known version, migrated, writable, and safe on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from workflow_engine import migrations
from workflow_engine.database import autocommit, connect_engine
from workflow_engine.doctor.finding import Finding, ok, problem, warning
from workflow_engine.settings import Settings

OLDEST_VERSION = 14
LARGEST_SKEW = 3.0
"""Seconds between the database's clock and ours before anybody is warned."""

FACTS = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
    extract(epoch FROM clock_timestamp())::float,
    current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'
"""

# Logical replication serves other purposes; to roles without pg_monitor the state of a standby is NULL.
STANDBYS = """
SELECT count(*), count(*) FILTER (WHERE r.sync_state = 'async')
FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
WHERE coalesce(s.slot_type, 'physical') = 'physical'
"""

CODE_IN_USE = """
SELECT DISTINCT w.id, n ->> 'type', n ->> 'subType', n -> 'config' ->> 'function', n ->> 'queue'
FROM {s}.workflows w
JOIN {s}.workflow_versions v ON v.workflow_id = w.id AND v.version = w.current_version
CROSS JOIN jsonb_array_elements(v.definition -> 'nodes') n
ORDER BY 1, 2, 3, 4, 5
"""


TRIALS = 3
"""The quickest of so many round trips counts: the others waited for this process or the network."""


@dataclass(frozen=True)
class CodeInUse:
    """What a node of the current version of a deployed workflow asks for."""

    workflow_id: str
    type: str
    sub_type: str
    function: str | None
    """For `action/python`: the function it calls."""
    queue: str | None


@dataclass(frozen=True)
class PostgresFacts:
    """What Postgres says about itself."""

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
    """Of the tables; None if there are none."""
    newest_revision: str | None
    """What this release needs."""
    code_in_use: tuple[CodeInUse, ...] | None
    """None if the tables cannot be read by this release."""


def ask_postgres(settings: Settings) -> PostgresFacts:
    """Ask all questions. Raises `DatabaseUnavailable`."""
    engine = connect_engine(settings)
    try:
        with autocommit(engine) as connection:
            connection.exec_driver_sql("SELECT 1")  # the round trip is not to count the connecting
            row, round_trip, skew = min(map(_facts, [connection] * TRIALS), key=lambda trial: trial[1])
            standbys = connection.exec_driver_sql(STANDBYS).one()
            revision = migrations.current_revision(settings.database_url, settings.database_schema)
            newest = migrations.newest_revision()
            code = None
            if revision is not None and revision == newest:
                statement = CODE_IN_USE.format(s=settings.database_schema)
                code = tuple(CodeInUse(*each) for each in connection.exec_driver_sql(statement))
    finally:
        engine.dispose()
    number, version, _clock, synchronous_commit, fsync, full_page_writes, is_read_only = row
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
    )


def _facts(connection: Any) -> tuple[Sequence[Any], float, float]:
    """The row, the seconds it took, and those by which the database's clock is ahead."""
    asked, started = time.time(), time.perf_counter()
    row = connection.exec_driver_sql(FACTS).one()
    took = time.perf_counter() - started
    return row, took, row[2] - (asked + took / 2)


def judge_postgres(facts: PostgresFacts) -> Iterator[Finding]:
    """What the facts mean."""
    yield ok(REACHABLE, f"yes, in {facts.round_trip_ms:.1f} ms there and back")
    yield _version(facts)
    yield _writable(facts)
    yield _migrations(facts)
    yield _safe_on_disk(facts)
    yield _standbys(facts)
    yield _clocks(facts)


REACHABLE = "Can it be reached?"


def unreachable(error: Exception) -> Finding:
    """The only finding where Postgres cannot be asked."""
    return problem(
        REACHABLE,
        f"no: {error}",
        "start it, or correct WORKFLOW_ENGINE_DATABASE_URL (host, port, user, database)",
    )


def place(url: str) -> str:
    """Where a server is, without who connects to it: `db.example.com:5432/shop`."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}".rpartition("@")[2]


def _version(facts: PostgresFacts) -> Finding:
    question = "Is its version supported?"
    if facts.version_number >= OLDEST_VERSION * 10_000:
        return ok(question, f"yes, {facts.version}")
    return problem(question, f"no, it is {facts.version}", f"upgrade to Postgres {OLDEST_VERSION} or newer")


def _writable(facts: PostgresFacts) -> Finding:
    question = "Can it be written to?"
    if not facts.is_read_only:
        return ok(question, "yes")
    return problem(
        question, "no, it is a standby or read-only", "let WORKFLOW_ENGINE_DATABASE_URL name the primary"
    )


def _migrations(facts: PostgresFacts) -> Finding:
    question = "Are the migrations current?"
    if facts.revision == facts.newest_revision:
        return ok(question, f"yes, {facts.revision}")
    if facts.revision is None:
        return problem(question, "no, there are no tables", "run `workflow-engine db upgrade`")
    return problem(
        question,
        f"no, the tables are at {facts.revision} and this release needs {facts.newest_revision}",
        "run `workflow-engine db upgrade`; if the tables are newer, update the engine here",
    )


def _safe_on_disk(facts: PostgresFacts) -> Finding:
    question = "Does it keep what it has confirmed?"
    unsafe = [
        name for name in ("synchronous_commit", "fsync", "full_page_writes") if getattr(facts, name) == "off"
    ]
    if not unsafe:
        return ok(
            question, f"yes, synchronous_commit {facts.synchronous_commit}, fsync and full_page_writes on"
        )
    return warning(
        question,
        f"not if it crashes: {', '.join(unsafe)} off",
        f"set {' and '.join(f'{name} = on' for name in unsafe)}; a lost commit is a node that runs again",
    )


def _standbys(facts: PostgresFacts) -> Finding:
    question = "Does it keep that through a failover?"
    if not facts.standbys:
        return ok(question, "no standby to fail over to is connected")
    if not facts.asynchronous_standbys and facts.synchronous_commit not in ("local", "off"):
        return ok(question, f"yes, of {facts.standbys} standbys none is asynchronous")
    return warning(
        question,
        f"not certainly: {facts.asynchronous_standbys} of {facts.standbys} standbys asynchronous, "
        f"synchronous_commit {facts.synchronous_commit}",
        "set synchronous_standby_names and synchronous_commit = on, or be ready to lose the last commits",
    )


def _clocks(facts: PostgresFacts) -> Finding:
    question = "Do its clock and ours agree?"
    if abs(facts.skew) <= LARGEST_SKEW:
        return ok(question, f"yes, within {max(abs(facts.skew), 0.1):.1f} s")
    return warning(
        question,
        f"no, its clock is {abs(facts.skew):,.0f} s {'ahead of' if facts.skew > 0 else 'behind'} ours",
        "let both machines take their time by NTP; what waits for a time goes by the database's clock",
    )
