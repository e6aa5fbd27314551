"""What everything is set to while it is measured, asked from the servers and from running workers themselves.

Nothing is read from a file of settings, because what counts is what a process has made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery import Celery
from celery.app import defaults as celery_defaults

from benchmarks.contenders import RawWorker
from benchmarks.fleet import PROCESSES, WORKER, BenchmarkFailed, Fleet, full_name
from benchmarks.report import Figure, Section
from workflow_engine.dispatch import producer_app

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
"""By what it is called here: what a worker calls it."""

# Where the servers are says nothing, and has passwords in it.
NOT_TOLD = (
    "broker_url",
    "broker_read_url",
    "broker_write_url",
    "result_backend",
    "include",
    "deprecated_settings",
)

MASKED = "********"


def measure(fleet: Fleet, quick: bool = False) -> Section:
    """The settings of servers and workers; there is nothing to repeat, quick or not."""
    fleet.start_workers(WORKER)
    with RawWorker(fleet, PROCESSES) as raw:
        figures = [
            *(Figure(f"Postgres: {name}", fleet.rows(f"SHOW {name}")[0][0]) for name in POSTGRES),
            # One by one, because Redis before 7 answers but one at a time.
            *(Figure(f"Redis: {name}", fleet.redis.config_get(name)[name] or "none") for name in REDIS),
            *_of_worker("engine's worker", producer_app(fleet.settings), WORKER),
            *_of_worker("raw worker", raw.app, *raw.pids),
        ]
    fleet.stop_workers(WORKER)
    method = (
        "As Postgres shows them, Redis has them, and workers tell them when they are asked: their pool, and "
        "those of Celery's settings that are not its defaults, without the addresses of servers. Benchmarks "
        "that go by other settings say so."
    )
    return Section(figures, method, "setting")


def _of_worker(title: str, app: Celery, name: str) -> Iterator[Figure]:
    # With a limit, because Celery listens for more answers until the time is over.
    inspect = app.control.inspect([full_name(name)], timeout=10, limit=1)
    stats, settings = _answer_of(name, inspect.stats()), _answer_of(name, inspect.conf())
    for called, theirs in POOL.items():
        yield Figure(f"{title}: {called}", str(stats["pool"][theirs]))
    yield Figure(f"{title}: messages taken at a time", str(stats["prefetch_count"]))
    told = [
        Figure(f"{title}: {setting}", value) for setting, value in _flat(settings) if setting not in NOT_TOLD
    ]
    yield from told or [Figure(f"{title}: other than Celery's defaults", "nothing")]


def _answer_of(name: str, answers: Mapping[str, Any] | None) -> Any:
    if not answers or full_name(name) not in answers:
        raise BenchmarkFailed(f"the worker {name!r} did not answer")
    return answers[full_name(name)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    defaults = celery_defaults.DEFAULTS  # a worker also tells what was set to its default
    for name, value in sorted(settings.items()):
        if value == MASKED or (not prefix and name in defaults and value == defaults[name]):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value) if value != "" else "empty"
