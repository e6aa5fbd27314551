"""The counters of Postgres and Redis: bytes of WAL, commands, updates that stay in the page.

Some counters are exact at once. Others a session of Postgres flushes only now and then, and always when it
ends. So these are read after ending all other sessions, which workers survive like any outage.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from benchmarks.testbed import Testbed

BROKER_COMMANDS = frozenset({"brpop", "lpush", "rpush", "publish", "llen", "lrange"})
"""The commands that Celery sends; the rest are the engine's."""
DIRECT_COMMANDS = BROKER_COMMANDS | {"evalsha", "eval"}
"""The commands of a hop that arrive over a connection; scripts call the others."""

END_SESSIONS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
SESSION_END = 0.3
"""Seconds within which a session has ended; idle workers reconnect later."""

EXECUTIONS = """
SELECT n_tup_upd, n_tup_hot_upd, n_dead_tup, autovacuum_count
FROM pg_stat_user_tables WHERE relid = 'executions'::regclass
"""
SIZES = """
SELECT t.relname, t.relname, pg_relation_size(t.oid) FROM pg_class t
WHERE t.oid IN ('executions'::regclass, 'node_executions'::regclass) AND t.relkind IN ('r', 'p')
UNION ALL
SELECT t.relname, 'TOAST', pg_total_relation_size(t.reltoastrelid) FROM pg_class t
WHERE t.oid IN ('executions'::regclass, 'node_executions'::regclass)
    AND t.relkind = 'r' AND t.reltoastrelid <> 0
UNION ALL
SELECT t.relname, i.relname, pg_relation_size(i.oid)
FROM pg_class t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid
WHERE t.oid IN ('executions'::regclass, 'node_executions'::regclass)
"""


@dataclass(frozen=True)
class Counters:
    """The counts of the servers up to a time; as a difference, the counts in between."""

    wal_bytes: int
    aof_bytes: int
    redis_received: int
    redis_sent: int
    calls: Counter[str]
    """Commands of Redis by name, including those that scripts call."""
    microseconds: Counter[str]
    """The time of the same commands; a script's time includes that of the commands it calls."""

    @classmethod
    def now(cls, testbed: Testbed) -> Counters:
        ((wal_bytes,),) = testbed.rows("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
        commands = {
            name.removeprefix("cmdstat_"): stats for name, stats in testbed.redis.info("commandstats").items()
        }
        stats = testbed.redis.info("stats")
        return cls(
            wal_bytes=wal_bytes,
            aof_bytes=testbed.redis.info("persistence")["aof_current_size"],
            redis_received=stats["total_net_input_bytes"],
            redis_sent=stats["total_net_output_bytes"],
            calls=Counter({name: stats["calls"] for name, stats in commands.items()}),
            microseconds=Counter({name: stats["usec"] for name, stats in commands.items()}),
        )

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            self.wal_bytes - earlier.wal_bytes,
            self.aof_bytes - earlier.aof_bytes,
            self.redis_received - earlier.redis_received,
            self.redis_sent - earlier.redis_sent,
            self.calls - earlier.calls,
            self.microseconds - earlier.microseconds,
        )


@dataclass(frozen=True)
class TableCounters:
    """The counts that sessions have flushed, of `executions` and of the whole database."""

    updates: int
    hot_updates: int
    """Those that stayed in the page and left the indexes unchanged."""
    dead_rows: int
    """Row versions that are waiting for vacuum."""
    vacuums: int
    transactions: int

    @property
    def hot_percent(self) -> float:
        return 100 * self.hot_updates / self.updates

    @classmethod
    def at_last(cls, testbed: Testbed) -> TableCounters:
        """Read the counts after ending all sessions but this one, so that they are complete."""
        testbed.rows(END_SESSIONS)
        time.sleep(SESSION_END)
        testbed.execute("SELECT pg_stat_force_next_flush()")
        ((updates, hot_updates, dead_rows, vacuums),) = testbed.rows(EXECUTIONS)
        ((transactions,),) = testbed.rows(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
        return cls(updates, hot_updates, dead_rows, vacuums, transactions)

    def __sub__(self, earlier: TableCounters) -> TableCounters:
        return TableCounters(
            self.updates - earlier.updates,
            self.hot_updates - earlier.hot_updates,
            self.dead_rows,
            self.vacuums - earlier.vacuums,
            self.transactions - earlier.transactions,
        )


def sizes(testbed: Testbed) -> dict[tuple[str, str], int]:
    """Return the bytes of the two tables, of their TOAST and of each index, by table and name."""
    return {(table, name): size for table, name, size in testbed.rows(SIZES)}
