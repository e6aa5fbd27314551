"""Running nodes: their progress, and requests to stop them.

A thread of each worker process looks after its running nodes once a second. It stores their progress in
Redis, and interrupts a node whose result an operator no longer wants. Nothing depends on it: the fence
refuses the commit of a node that was not interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import orjson
import redis

from workflow_engine.errors import CacheUnavailable
from workflow_engine.execution.bounded_texts import shorten
from workflow_engine.json_values import storable_text
from workflow_engine.redis.client import load_script, redis_errors
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock import Claim, Holder
from workflow_engine.redis.periodic_call import PeriodicCall, call_in_children
from workflow_engine.runner.interruption import interrupt
from workflow_engine.settings import Settings

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks after running nodes; a node that is shorter costs Redis nothing."""


LONGEST_MESSAGE = 1024
"""Bytes of a node's progress message; the middle of a longer one is left out."""


@dataclass(frozen=True)
class Progress:
    """The progress of a running node, as it reports it."""

    token: str
    """The token of the claim under which it runs."""
    fraction: float | None
    """From 0 to 1; None if the node does not know."""
    message: str
    at: str
    """The time of the report, ISO 8601 in UTC, by the clock of its worker."""
    node_id: str = ""
    """The node, if its worker has walked on to it since it took the lock, whose value names the first one."""
    began_at: str = ""
    """The time at which that node began."""

    @property
    def is_of_the_node(self) -> bool:
        """True if the node's own code has reported something."""
        return self.fraction is not None or bool(self.message)


@dataclass
class RunningNode:
    """One running node, as its own code sees it."""

    claim: Claim
    walked_to: str = ""
    """Its id, if its worker has walked on to it; the first look says so."""
    is_unwanted: bool = False
    """It was asked to stop."""
    _began_at: str = field(default="", repr=False)
    _unsent: Progress | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.walked_to:
            self._began_at = datetime.now(UTC).isoformat()
            self.report_progress(None, "")

    def report_progress(self, fraction: float | None, message: str) -> None:
        """Keep the report for the next look, which sends only the latest one; this costs nothing."""
        now = datetime.now(UTC).isoformat()
        text = storable_text(shorten(str(message), LONGEST_MESSAGE))
        self._unsent = Progress(self.claim.token, fraction, text, now, self.walked_to, self._began_at)

    def take_report(self) -> bytes:
        """Remove and return the report to send, as JSON; b"" if there is none."""
        report, self._unsent = self._unsent, None
        return orjson.dumps(asdict(report)) if report is not None else b""


class _LookedAfter:
    # Not a generator, which costs more: every hop runs this.
    __slots__ = ("_node", "_running")

    def __init__(self, running: dict[str, RunningNode], node: RunningNode) -> None:
        self._running = running
        self._node = node

    def __enter__(self) -> RunningNode:
        self._running[self._node.claim.token] = self._node
        return self._node

    def __exit__(self, *_: object) -> None:
        self._running.pop(self._node.claim.token, None)


class RunningNodes:
    """The nodes that this process runs, and how others reach them. Methods may raise `CacheUnavailable`."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._keys = Keys.of(settings)
        self._look_script = load_script(client, "watch_node")
        self._interrupt_script = load_script(client, "interrupt_node")
        self._running: dict[str, RunningNode] = {}
        seconds = min(LOOK_INTERVAL, settings.lock_expiry / 3)
        self._looking = PeriodicCall("running-nodes", seconds, self._look_quietly)
        call_in_children(self._forget_parent)

    def running(self, claim: Claim, walked_to: str = "") -> AbstractContextManager[RunningNode]:
        """Look after the node that runs under this claim while the block lasts.

        `walked_to` is its id, if it is not the one that the claim was made for.
        """
        self._looking.start()
        return _LookedAfter(self._running, RunningNode(claim, walked_to))

    def interrupt(self, execution_id: str, holder: Holder) -> None:
        """Ask the node that this holder runs, on any worker, to stop.

        The cached context has to be gone, unless the holder has only a place in the lock. The request expires
        when the lock would.
        """
        key = self._keys.run(execution_id, holder.place)
        with redis_errors():
            self._interrupt_script(keys=[key], args=[holder.token, round(self._settings.lock_expiry * 1000)])

    def progress(self, execution_id: str, holder: Holder) -> Progress | None:
        """Return the last report of the node that this holder runs; None if there is none."""
        with redis_errors():
            value = self._client.hget(self._keys.run(execution_id, holder.place), "progress")
        try:
            progress = Progress(**orjson.loads(value)) if isinstance(value, bytes) else None
        except (ValueError, TypeError):  # the engine has not written it
            return None
        return progress if progress is not None and progress.token == holder.token else None

    def look(self) -> None:
        """Send the progress of the nodes here, and interrupt those asked to stop, in one round trip."""
        running = list(self._running.values())
        if not running:
            return
        for node, token in zip(running, self._send_reports(running), strict=True):
            if token == node.claim.token.encode():
                node.is_unwanted = True
                # At every look, since the first may come before the node's code has begun. It is raised once.
                interrupt(node.claim.token)

    def _send_reports(self, running: Sequence[RunningNode]) -> list[bytes | None]:
        """Send the nodes' reports. Return, for each, the token of the claim that is asked to stop."""
        expiry = round(self._settings.context_expiry * 1000)
        with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            for node in running:
                key = self._keys.run(node.claim.execution_id, node.claim.place)
                self._look_script(
                    keys=[key], args=[node.claim.value, expiry, node.take_report()], client=pipeline
                )
            tokens: list[bytes | None] = pipeline.execute()
        return tokens

    def _look_quietly(self) -> None:
        try:
            self.look()
        except CacheUnavailable as error:
            # The renewal of locks, which fails too, says that Redis is away.
            log.debug("Cannot look after running nodes: %s", error)

    def _forget_parent(self) -> None:
        self._running = {}
