"""The demo's stage: two servers, two workers and Flower, all ready when `set_up` returns."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from workflow_engine.demo.processes import DemoFailed, Interruption, Processes
from workflow_engine.embedded import EmbeddedPostgres, EmbeddedRedis
from workflow_engine.embedded.lifetime import ScratchFolder
from workflow_engine.postgres import migrations
from workflow_engine.settings import ENVIRONMENT_PREFIX, Settings

WORKERS = ("worker1", "worker2")
PROCESSES_EACH = 2
FLOWER = "Flower"
# The user's own servers may have other workers, which lack the nodes of the example.
QUEUE = "workflow-demo"
READY_TIMEOUT = 60.0

CELERY = (sys.executable, "-m", "celery", "-A", "workflow_engine.worker")
WORKER = ("worker", "--concurrency", str(PROCESSES_EACH), "--loglevel", "WARNING", "--task-events")
QUICK_START = ("--without-gossip", "--without-mingle")
# With port 0 Flower takes any that is free, and logs which.
FLOWER_ON_A_FREE_PORT = ("flower", "--address=127.0.0.1", "--port=0", "--read-only=True")
FLOWER_ADDRESS = re.compile(r"Visit me at (http://[\d.:]+)")


@dataclass(frozen=True)
class Stage:
    """The addresses of the servers, and the processes that use them."""

    settings: Settings
    own: dict[str, Any]
    """The settings that differ from those of the environment."""
    processes: Processes
    flower: str
    """The address of Flower, without a slash at the end."""

    @property
    def outlives_the_demo(self) -> bool:
        """True if the demo's data in Postgres is kept after the demo."""
        return "database_url" not in self.own


def set_up(undo: ExitStack, interruption: Interruption, nodes: str, folder: Path) -> Stage:
    """Start the servers that the environment does not name, and workers with the module `nodes` in `folder`.

    Raises EmbeddedServerFailed, DatabaseUnavailable, DemoFailed and Interrupted; `undo` then ends everything
    that was started.
    """
    # A developer's Celery settings would lead workers and producer to the broker of another project.
    for name in [name for name in os.environ if name.startswith(("CELERY_", "FLOWER_"))]:
        del os.environ[name]
    own: dict[str, Any] = {"imports": nodes, **_database(undo)}
    interruption.check()
    own |= _redis(undo)
    interruption.check()
    settings = Settings(**own)
    scratch = _scratch(undo)
    processes = Processes(scratch, _environment(own, folder, scratch))
    undo.callback(processes.stop)
    processes.start(FLOWER, [*CELERY, *FLOWER_ON_A_FREE_PORT])
    for worker in WORKERS:
        processes.start(worker, [*CELERY, *WORKER, *QUICK_START, "--hostname", f"{worker}@%h"])
    migrations.upgrade(settings.database_url, settings.database_schema)
    return Stage(settings, own, processes, _ready(processes, interruption))


def servers_to_start() -> list[str]:
    """Return the names of the servers that the environment does not name."""
    servers = {"Postgres": "DATABASE_URL", "Redis": "REDIS_URL"}
    return [name for name, setting in servers.items() if not _is_named(setting)]


def _is_named(setting: str) -> bool:
    return bool(os.environ.get(f"{ENVIRONMENT_PREFIX}{setting}"))


def _database(undo: ExitStack) -> dict[str, str]:
    if _is_named("DATABASE_URL"):
        return {}
    return {"database_url": undo.enter_context(EmbeddedPostgres()).url}


def _redis(undo: ExitStack) -> dict[str, str]:
    if _is_named("REDIS_URL"):
        return {"queue": QUEUE}
    return {"redis_url": undo.enter_context(EmbeddedRedis()).url, "broker_url": ""}


def _scratch(undo: ExitStack) -> Path:
    scratch = ScratchFolder({})
    undo.callback(scratch.leave)
    return scratch.data


def _environment(own: dict[str, Any], folder: Path, scratch: Path) -> dict[str, str]:
    settings = {f"{ENVIRONMENT_PREFIX}{name.upper()}": value for name, value in own.items()}
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    # The leftovers of a killed worker in its temporary folder are removed with ours.
    return {**os.environ, **settings, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TMPDIR": str(scratch)}


def _ready(processes: Processes, interruption: Interruption) -> str:
    """Wait until Flower lists every worker, and return its address."""
    deadline = time.monotonic() + READY_TIMEOUT
    while True:
        processes.check()
        address = FLOWER_ADDRESS.search(processes.log(FLOWER))
        if address and _online(address[1]) >= set(WORKERS):
            return address[1]
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"workers and Flower were not ready within {READY_TIMEOUT:g} s\n{processes.log_ends()}"
            )
        interruption.pause(0.1)


def _online(flower: str) -> set[str]:
    """Return the workers from which Flower gets events, without their hosts."""
    # Not through a proxy of the environment: it could not reach this machine's loopback address.
    direct = build_opener(ProxyHandler({}))
    try:
        with direct.open(f"{flower}/workers?json=1", timeout=5) as response:
            workers = json.load(response)["data"]
    except (OSError, HTTPException):
        return set()
    return {worker["hostname"].partition("@")[0] for worker in workers if worker["status"]}
