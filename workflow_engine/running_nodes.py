"""Running nodes, as far as they are talked to while they run: their progress, and the wish that they stop.

A node that runs for longer than a moment is looked after by a thread of its process, once a second: it tells
Redis how far the node is, and interrupts it when an operator no longer wants its result. Nothing depends on
it: a node that hears of nothing is refused by the fence when it commits.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import orjson
import redis

from workflow_engine.errors import CacheUnavailable
from workflow_engine.interruption import interrupt
from workflow_engine.lock import Claim
from workflow_engine.redis_connection import load_script, redis_errors
from workflow_engine.settings import Settings

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks after running nodes; a shorter one costs Redis nothing."""


@dataclass(frozen=True)
class Progress:
    """How far a running node is, by its own account."""

    token: str
    """That of the claim under which it runs."""
    fraction: float | None
    """From 0 to 1; None if the node does not know."""
    message: str
    at: str
    """When it said so, ISO 8601 in UTC, by the clock of its worker."""


@dataclass
class RunningNode:
    """One node while it is being run, as its own code sees it."""

    claim: Claim
    is_unwanted: bool = False
    """Somebody has asked it to stop."""
    _untold: Progress | None = field(default=None, repr=False)

    def report_progress(self, fraction: float | None, message: str) -> None:
        """Costs nothing: the last report is told at the next look."""
        now = datetime.now(UTC).isoformat()
        self._untold = Progress(self.claim.token, fraction, message, now)

    def take_report(self) -> bytes:
        """The report to tell as JSON, or nothing."""
        report, self._untold = self._untold, None
        return orjson.dumps(asdict(report)) if report is not None else b""


class RunningNodes:
    """The nodes that this process runs, and how others reach them. Methods may raise `CacheUnavailable`."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._look_script = load_script(client, "look")
        self._interrupt_script = load_script(client, "interrupt")
        self._running: dict[str, RunningNode] = {}
        self._starting = threading.Lock()
        self._has_thread = False
        os.register_at_fork(after_in_child=self._forget_parent)

    @contextmanager
    def running(self, claim: Claim) -> Iterator[RunningNode]:
        """A node is run under this claim as long as this lasts."""
        running = self._running[claim.token] = RunningNode(claim)
        if not self._has_thread:
            self._start_looking()
        try:
            yield running
        finally:
            self._running.pop(claim.token, None)

    def interrupt(self, execution_id: str, token: str) -> None:
        """Ask whoever runs a node under the claim of this token to stop, wherever that is.

        The cached context has to be gone. What is asked is forgotten when the claim's lock would expire.
        """
        key = self._settings.context_key(execution_id)
        with redis_errors():
            self._interrupt_script(keys=[key], args=[token, round(self._settings.lock_expiry * 1000)])

    def progress(self, execution_id: str, token: str) -> Progress | None:
        """What the node that is run under the claim of this token has reported last."""
        with redis_errors():
            value = self._client.hget(self._settings.context_key(execution_id), "progress")
        progress = Progress(**orjson.loads(value)) if isinstance(value, bytes) else None
        return progress if progress is not None and progress.token == token else None

    def look(self) -> None:
        """Tell the progress of what runs here, and interrupt what is asked to stop, in one round trip."""
        running = list(self._running.values())
        if not running:
            return
        for node, asked in zip(running, self._told_and_asked(running), strict=True):
            if asked == node.claim.token.encode():
                node.is_unwanted = True
                # At every look: the first may come before the node's code has begun. It is told once.
                interrupt(node.claim.token)

    def _told_and_asked(self, running: Sequence[RunningNode]) -> list[bytes | None]:
        expiry = round(self._settings.context_expiry * 1000)
        with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            for node in running:
                key = self._settings.context_key(node.claim.execution_id)
                self._look_script(
                    keys=[key], args=[node.claim.value, expiry, node.take_report()], client=pipeline
                )
            answers: list[bytes | None] = pipeline.execute()
        return answers

    def _start_looking(self) -> None:
        with self._starting:
            if not self._has_thread:
                threading.Thread(target=self._keep_looking, name="running-nodes", daemon=True).start()
                self._has_thread = True

    def _keep_looking(self) -> None:
        never = threading.Event()
        while True:
            never.wait(min(LOOK_INTERVAL, self._settings.lock_expiry / 3))
            try:
                self.look()
            except CacheUnavailable as error:
                # The renewal of locks, which fails too, says that Redis is away.
                log.debug("Running nodes cannot be reached: %s", error)
            except Exception:
                log.exception("Looking after running nodes failed and goes on")

    def _forget_parent(self) -> None:
        # What runs in the parent does not run in the child, nor does the thread.
        self._running = {}
        self._starting = threading.Lock()
        self._has_thread = False
