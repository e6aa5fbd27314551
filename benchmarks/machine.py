"""What the figures were measured on: a figure without its machine, versions and settings says nothing.

How durable the servers are is read from the servers themselves, because that decides what a commit costs.
"""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.fleet import Fleet
from workflow_engine.database import autocommit

PACKAGES = ("celery", "kombu", "redis", "SQLAlchemy", "psycopg2-binary")
POSTGRES_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
REDIS_SETTINGS = ("appendonly", "appendfsync")


def described(fleet: Fleet) -> str:
    """One paragraph: when, on what machine, with which versions and settings."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, {psutil.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()} {platform.release()}, "
        f"all on one machine; Python {platform.python_version()}, {packages}; "
        f"{_postgres(fleet)}; {_redis(fleet)}."
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    )
    return " ".join(found[1].split()) if found else platform.processor() or platform.machine()


def _postgres(fleet: Fleet) -> str:
    with autocommit(fleet.engine.state.engine) as connection:
        names = ("server_version", *POSTGRES_SETTINGS)
        values = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names}
    number = values.pop("server_version").split()[0]
    return f"Postgres {number} ({', '.join(f'{name} {value}' for name, value in values.items())})"


def _redis(fleet: Fleet) -> str:
    # One by one, because Redis before 7 answers but one at a time.
    settings = [f"{name} {fleet.redis.config_get(name)[name]}" for name in REDIS_SETTINGS]
    return f"Redis {fleet.redis.info('server')['redis_version']} ({', '.join(settings)})"
