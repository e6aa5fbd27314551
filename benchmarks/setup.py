"""The settings of a measurement, as the servers and the running workers report them.

None is read from a settings file, because the effective values count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery import Celery
from celery.app import defaults as celery_defaults

from benchmarks.contenders import RawWorker
from benchmarks.report import Figure, Section
from benchmarks.testbed import PROCESSES, WORKER, BenchmarkFailed, Testbed, full_name
from workflow_engine.broker.dispatcher import producer_app

POSTGRES = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_sync_method",
    "wal_compression",
    "commit_delay",
    "max_wal_size",
    "checkpoint_timeout",
    "shared_buffers",
    "work_mem",
    "max_connections",
    "autovacuum",
    "jit",
)
REDIS = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy", "databases")
POOL = {"pool": "implementation", "concurrency": "max-concurrency"}
"""Our name of a property: the worker's name of it."""

# The addresses of servers mean nothing to a reader, and hold passwords.
OMITTED = (
    "broker_url",
    "broker_read_url",
    "broker_write_url",
    "result_backend",
    "include",
    "deprecated_settings",
)

MASKED = "********"


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Read the settings of servers and workers; a quick run does the same."""
    testbed.start_workers(WORKER)
    with RawWorker(testbed, PROCESSES) as raw:
        figures = [
            *(Figure(f"Postgres: {name}", testbed.rows(f"SHOW {name}")[0][0]) for name in POSTGRES),
            # One by one, because Redis before 7 takes a single name.
            *(Figure(f"Redis: {name}", testbed.redis.config_get(name)[name] or "none") for name in REDIS),
            *_of_worker("engine's worker", producer_app(testbed.settings), WORKER),
            *_of_worker("raw worker", raw.app, *raw.pids),
        ]
    testbed.stop_workers(WORKER)
    method = (
        "As Postgres, Redis and the workers report them: the pool of each worker, and its settings of Celery "
        "that are not the defaults, without the addresses of servers. Benchmarks that use other settings say "
        "so."
    )
    return Section(figures, method, "setting")


def _of_worker(title: str, app: Celery, name: str) -> Iterator[Figure]:
    # With a limit, because Celery otherwise waits for more replies until the timeout.
    inspect = app.control.inspect([full_name(name)], timeout=10, limit=1)
    stats, settings = _reply_of(name, inspect.stats()), _reply_of(name, inspect.conf())
    for called, theirs in POOL.items():
        yield Figure(f"{title}: {called}", str(stats["pool"][theirs]))
    yield Figure(f"{title}: prefetch count", str(stats["prefetch_count"]))
    changed = [
        Figure(f"{title}: {setting}", value) for setting, value in _flat(settings) if setting not in OMITTED
    ]
    yield from changed or [Figure(f"{title}: settings other than Celery's defaults", "nothing")]


def _reply_of(name: str, replies: Mapping[str, Any] | None) -> Any:
    if not replies or full_name(name) not in replies:
        raise BenchmarkFailed(f"worker {name!r} did not reply")
    return replies[full_name(name)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    defaults = celery_defaults.DEFAULTS  # a worker also reports settings that were set to their defaults
    for name, value in sorted(settings.items()):
        if value == MASKED or (not prefix and name in defaults and value == defaults[name]):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value) if value != "" else "empty"
