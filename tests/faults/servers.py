"""The servers of all stages: a Postgres that syncs to disk and a Redis that forgets when it is restarted.

They are started once, and anew for each stage, which also gets a database of its own: whatever a fault leaves
behind, the next one begins with servers that run and hold nothing.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil

from faults.record import query
from workflow_engine import migrations
from workflow_engine.embedded import EmbeddedPostgres, EmbeddedRedis

TEMPLATE = "template_of_stages"
FREED_WITHIN = 1.0
"""Seconds until the kernel has freed what a killed Postgres shared between its processes."""


class Servers:
    """Both servers, from `with Servers()` on until its end. Raises `EmbeddedServerFailed`."""

    def __init__(self) -> None:
        self._postgres = EmbeddedPostgres(durable=True)
        self._redis = EmbeddedRedis()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(self._redis)
            undo.enter_context(self._postgres)
            undo.callback(self.thaw_postgres)
            query(self._postgres.url, f"CREATE DATABASE {TEMPLATE}")
            migrations.upgrade(self._database_url(TEMPLATE))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    @property
    def redis_url(self) -> str:
        return self._redis.url

    def renew(self) -> str:
        """Start both anew, Redis empty; the URL of a new database with the engine's tables."""
        self.thaw_postgres()
        self.restart_postgres()
        self.restart_redis()
        name = f"stage{next(self._numbers)}"
        query(self._postgres.url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self._database_url(name)

    def _database_url(self, name: str) -> str:
        return urlsplit(self._postgres.url)._replace(path=f"/{name}").geturl()

    # -- what breaks -----------------------------------------------------------------------------------------

    def kill_redis(self) -> None:
        self._redis.kill()

    def restart_redis(self) -> None:
        """Start it with empty memory."""
        self._redis.restart()

    def stop_postgres(self) -> None:
        """A fast shutdown, which ends its sessions."""
        os.kill(self._postgres.pid, signal.SIGINT)

    def kill_postgres(self) -> None:
        """SIGKILL for the postmaster and all its sessions."""
        for process in self._postgres_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(FREED_WITHIN)

    def freeze_postgres(self) -> None:
        """SIGSTOP for all of them: the kernel accepts connections, and nobody answers."""
        for process in self._postgres_processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw_postgres(self) -> None:
        with suppress(psutil.NoSuchProcess, RuntimeError):  # it may not run
            for process in self._postgres_processes():
                process.resume()

    def restart_postgres(self) -> None:
        """Start it on what is left of its data."""
        self._postgres.restart()

    def _postgres_processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._postgres.pid)
        return [postmaster, *postmaster.children(recursive=True)]
