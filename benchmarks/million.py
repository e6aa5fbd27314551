"""What a million finished executions in the tables change: next to nothing for hops, much for some lists.

Pages touched are counted by Postgres, so they do not depend on the machine. The hops, scans and lists are
the engine's own, run in this process; the finished executions are copies of one that ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.counters import SIZES
from benchmarks.footprint import Row, format_bytes
from benchmarks.nodes import texts
from benchmarks.past_days import fill
from benchmarks.report import SCALING, Comparison, Section
from benchmarks.testbed import Testbed, print_step
from benchmarks.watched import Watched
from workflow_engine import ExecutionStatus
from workflow_engine.postgres.executions.stalled import Front

NODES = 10
LENGTH = 100
LONG = 60
"""Nodes of the execution whose hops are measured."""
FEW = 100
DAYS = 10
DAY = 86_400.0

PAST, WATCHED = "past", "watched"

WAL = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure the engine's calls beside few executions and beside a million."""
    executions = 2_000 if quick else 1_000_000
    watched = Watched(testbed.settings)
    for workflow in (texts(PAST, NODES, LENGTH), texts(WATCHED, LONG, LENGTH)):
        watched.client.deploy(workflow)
    original = watched.client.start(PAST).id
    watched.walk()
    fill(testbed, original, FEW, DAYS)
    few = _calls(watched, original)
    print_step(f"{executions:,} finished executions, copied in bulk from one that ran")
    begin = time.monotonic()
    fill(testbed, original, executions - FEW, DAYS)
    print_step(f"copied in {time.monotonic() - begin:.0f} s")
    many = _calls(watched, original)
    rows = [(name, few[name], many[name]) for name in many]
    on_disk = _size_rows(testbed)
    print_step("purging the oldest of ten days")
    return Comparison(
        figures=(),
        method=_method(executions),
        document=SCALING,
        columns=[f"beside {FEW:,}", f"beside {executions:,}"],
        rows=[*rows, *on_disk, *_purge_rows(watched)],
    )


def _calls(watched: Watched, original: str) -> dict[str, str]:
    """Return the cost of each call, by its name."""
    engine, client = watched.engine, watched.client
    watched.value("SELECT 1")
    client.start(WATCHED)
    for _ in range(5):
        watched.hop()
    calls: dict[str, Callable[[], object]] = {
        "hop": watched.hop,
        "start": lambda: client.start(WATCHED),
        "timekeeper: next due times": engine.due_times.next,
        "scan for stalled executions": lambda: list(engine.stalled.pages(30, 10, _no_message)),
        "show: an execution with its journal": lambda: (client.get(original), client.journal(original)),
        "list: the newest 50": lambda: client.list(limit=50),
        "list: the newest 50 of a workflow": lambda: client.list(PAST, limit=50),
        "list: FAILED, without any match": lambda: client.list(statuses=[ExecutionStatus.FAILED]),
        "count by status": client.count,
    }
    found = {name: watched.cost(call).text() for name, call in calls.items()}
    engine.database.rows("CHECKPOINT")
    before = watched.value(WAL)
    for _ in range(10):
        watched.hop()
    found["WAL of a hop, first ten after a checkpoint"] = format_bytes((watched.value(WAL) - before) / 10)
    watched.messages.queue.clear()
    engine.database.rows("DELETE FROM executions WHERE workflow_id = %(watched)s", watched=WATCHED)
    return found


def _size_rows(testbed: Testbed) -> list[Row]:
    ((executions, rows),) = testbed.rows(
        "SELECT (SELECT count(*) FROM executions), (SELECT count(*) FROM node_executions)"
    )
    numbers = {"executions": executions, "node_executions": rows}
    return [
        (f"{table}, each: {'table' if name == table else name}", "", format_bytes(size / numbers[table]))
        for table, name, size in testbed.rows(SIZES)
        if size >= numbers[table]
    ]


def _purge_rows(watched: Watched) -> list[Row]:
    before, begin = watched.value(WAL), time.perf_counter()
    purged = watched.engine.retention.purge(older_than=(DAYS - 1) * DAY)
    seconds = time.perf_counter() - begin
    wal = watched.value(WAL) - before
    return [
        (f"purge of {purged.executions:,}, one day", "", f"{seconds:,.1f} s"),
        ("- executions a second", "", f"{purged.executions / seconds:,.0f}"),
        ("- WAL for each", "", format_bytes(wal / purged.executions)),
    ]


def _method(executions: int) -> str:
    return (
        f"In tables with {FEW:,} finished executions of {NODES} nodes with outputs of {LENGTH} B, and with "
        f"{executions:,} of them, spread evenly over {DAYS} days: copies of one that ran, made in bulk, "
        "with ids that sort by time. Calls are the engine's own, run one after another in one otherwise "
        "idle process: pages of tables and indexes that Postgres read, in memory or not, and the median "
        "time. Sizes are those of indexes that were filled in order and never updated."
    )


def _no_message(queue: str, priority: int) -> Front:
    """Report every queue as empty."""
    return Front(None)
