"""The servers of all stages: a Postgres that syncs to disk, and others that may lose their data.

They are restarted for each stage, which also gets a database of its own. So each fault begins with servers
that run and hold nothing, regardless of what the previous one left behind.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self
from urllib.parse import urlsplit

import psutil

from faults.record import query
from faults.topologies.topology import OneRedis, Topology
from workflow_engine.embedded import EmbeddedPostgres
from workflow_engine.postgres import migrations

TEMPLATE = "template_of_stages"
FREED_WITHIN = 1.0
"""Seconds until the kernel has freed the shared memory of a killed Postgres."""


class Servers:
    """All servers, from `with Servers.started()` on until its end."""

    def __init__(self, postgres: EmbeddedPostgres, topology: Topology) -> None:
        self._postgres = postgres
        self.topology = topology
        self._numbers = itertools.count(1)

    @classmethod
    @contextmanager
    def started(cls, topology: Topology | None = None) -> Iterator[Self]:
        """Start Postgres and, unless others are given, one Redis. Raise `EmbeddedServerFailed`."""
        with topology or OneRedis() as others, EmbeddedPostgres(durable=True) as postgres:
            servers = cls(postgres, others)
            query(postgres.url, f"CREATE DATABASE {TEMPLATE}")
            migrations.upgrade(servers._database_url(TEMPLATE))
            try:
                yield servers
            finally:
                servers.thaw_postgres()  # a frozen one does not end

    def renew(self) -> str:
        """Restart Postgres and empty the others. Return the URL of a new database with all tables."""
        self.thaw_postgres()
        self.restart_postgres()
        self.topology.renew()
        name = f"stage{next(self._numbers)}"
        query(self._postgres.url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self._database_url(name)

    def _database_url(self, name: str) -> str:
        return urlsplit(self._postgres.url)._replace(path=f"/{name}").geturl()

    # -- what breaks -----------------------------------------------------------------------------------------

    def stop_postgres(self) -> None:
        """Shut Postgres down fast, which ends its sessions."""
        os.kill(self._postgres.pid, signal.SIGINT)

    def kill_postgres(self) -> None:
        """Send SIGKILL to the postmaster and all its sessions."""
        for process in self._postgres_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(FREED_WITHIN)

    def freeze_postgres(self) -> None:
        """Send SIGSTOP to all of them: the kernel accepts connections, and no process replies."""
        for process in self._postgres_processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw_postgres(self) -> None:
        with suppress(psutil.NoSuchProcess, RuntimeError):  # it may not run
            for process in self._postgres_processes():
                process.resume()

    def restart_postgres(self) -> None:
        """Start Postgres on what is left of its data."""
        self._postgres.restart()

    def _postgres_processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._postgres.pid)
        return [postmaster, *postmaster.children(recursive=True)]
