"""What the figures were measured on: a figure without its machine, versions and settings means nothing.

The durability of the servers is read from the servers themselves, because it decides the cost of a commit.
"""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import psutil
import redis

PACKAGES = ("celery", "kombu", "redis", "SQLAlchemy", "psycopg2-binary")
POSTGRES_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
REDIS_SETTINGS = ("appendonly", "appendfsync")


class MeasuredServers(Protocol):
    """A Postgres and a Redis that can be asked for their settings."""

    redis: redis.Redis

    def rows(self, statement: str) -> Any:
        """Return the rows that Postgres returns."""


def described(servers: MeasuredServers) -> str:
    """Return one paragraph: date, machine, versions and settings."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, {psutil.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()} {platform.release()}, "
        f"all on one machine; Python {platform.python_version()}, {packages}; "
        f"{_postgres(servers)}; {_redis(servers)}."
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    )
    return " ".join(found[1].split()) if found else platform.processor() or platform.machine()


def _postgres(servers: MeasuredServers) -> str:
    names = ("server_version", *POSTGRES_SETTINGS)
    values = {name: servers.rows(f"SHOW {name}")[0][0] for name in names}
    number = values.pop("server_version").split()[0]
    return f"Postgres {number} ({', '.join(f'{name} {value}' for name, value in values.items())})"


def _redis(servers: MeasuredServers) -> str:
    # One by one, because Redis before 7 takes a single name.
    settings = [f"{name} {servers.redis.config_get(name)[name]}" for name in REDIS_SETTINGS]
    return f"Redis {servers.redis.info('server')['redis_version']} ({', '.join(settings)})"
