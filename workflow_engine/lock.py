"""DistributedLockService: the lock of an execution, in Redis, renewed while it is held.

The lock keeps two workers from doing the same work at the same time. Nothing depends on it being
safe: a holder that lost it without noticing is refused by the fence when it commits.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import redis

from workflow_engine.errors import CacheUnavailable
from workflow_engine.lock_servers import LockServers
from workflow_engine.outages import outages
from workflow_engine.redis_connection import load_script, redis_errors
from workflow_engine.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """One attempt to hold the lock of one execution. `value` is what stands in Redis while it is held."""

    execution_id: str
    token: str
    value: bytes


@dataclass(frozen=True)
class Holder:
    """What the value of a lock says about who holds it."""

    token: str
    instance: str
    process: int
    task_id: str
    since: str

    @classmethod
    def from_value(cls, value: bytes) -> Holder | None:
        """None for a value that this engine did not write."""
        try:
            fields: dict[str, Any] = orjson.loads(value)
            return cls(
                fields["token"], fields["instance"], fields["process"], fields["task"], fields["since"]
            )
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None


class DistributedLockService:
    """Locks of executions. Methods that ask Redis may raise `CacheUnavailable`."""

    def __init__(self, client: redis.Redis, servers: LockServers, settings: Settings) -> None:
        self._settings = settings
        self._servers = servers
        self._unmark = load_script(client, "unmark")
        self._instance = socket.gethostname()
        self._held: dict[str, Claim] = {}
        self._renewer: tuple[int, threading.Thread] | None = None
        self._starting = threading.Lock()
        self._renewing = threading.Lock()
        # A holder of the guard in the parent does not exist in the child, who would wait for it for ever.
        os.register_at_fork(after_in_child=self._forget_parent)

    def new_claim(self, execution_id: str, task_id: str = "") -> Claim:
        """A claim with a random token; nothing is asked of Redis yet."""
        token = str(uuid.uuid4())
        value = orjson.dumps(
            {
                "token": token,
                "instance": self._instance,
                "process": os.getpid(),
                "task": task_id,
                "since": datetime.now(UTC).isoformat(),
            }
        )
        return Claim(execution_id, token, value)

    def acquire_lock(self, execution_id: str, task_id: str = "") -> Claim | None:
        """Take the lock if nobody holds it, and renew it until it is released; None if it is held."""
        claim = self.new_claim(execution_id, task_id)
        if self._servers.acquire(self._settings.lock_key(execution_id), claim.value) != claim.value:
            return None
        self.hold(claim)
        return claim

    def release_lock(self, claim: Claim) -> bool:
        """Give the lock up; False if it was not this claim's any more."""
        self.forget(claim)
        return self.free(claim.execution_id, claim.value)

    def free(self, execution_id: str, value: bytes) -> bool:
        """Remove a lock of exactly this value, with the mark of the node that was run under it."""
        try:
            with redis_errors():
                self._unmark(keys=[self._settings.context_key(execution_id)], args=[value])
        finally:
            was_held = self._servers.release(self._settings.lock_key(execution_id), value)
        return was_held

    @contextmanager
    def released(self, claim: Claim) -> Iterator[None]:
        """Give the lock up in the end, whatever happens."""
        try:
            yield
        finally:
            with suppress(CacheUnavailable):  # the lock then expires by itself
                self.release_lock(claim)

    def is_locked(self, execution_id: str) -> bool:
        return self.value_of(execution_id) is not None

    def is_locked_by_me(self, claim: Claim) -> bool:
        return self.value_of(claim.execution_id) == claim.value

    def held_by(self, execution_id: str) -> tuple[bytes, Holder] | None:
        """The lock's value and what it says, or None if the lock is free."""
        value = self.value_of(execution_id)
        holder = Holder.from_value(value) if value is not None else None
        return (value, holder) if value is not None and holder is not None else None

    def value_of(self, execution_id: str) -> bytes | None:
        """The claim that holds the lock, or None if it is free."""
        return self._servers.value_of(self._settings.lock_key(execution_id))

    def hold(self, claim: Claim) -> None:
        """Renew this claim from now on; it was taken by the script that enters a node."""
        self._held[claim.token] = claim
        if self._renewer is None or self._renewer[0] != os.getpid() or not self._renewer[1].is_alive():
            self._start_renewer()

    def still_holds(self, claim: Claim) -> bool:
        """Whether this claim is renewed and, as far as its last renewal showed, nobody else has the lock."""
        return claim.token in self._held

    def forget(self, claim: Claim) -> None:
        """Renew this claim no longer; a renewal that is on its way is over before this returns.

        Otherwise it could meet the lock just released, and take it again for nobody.
        """
        with self._renewing:
            self._held.pop(claim.token, None)

    def abandon(self) -> None:
        """Renew nothing of what is held now, as a process does that dies: the locks expire by themselves."""
        with self._renewing:
            self._held.clear()

    def renew(self) -> None:
        """Renew every lock that this process holds, in one round trip."""
        with self._renewing:
            for claim in self._lost(list(self._held.values())):
                del self._held[claim.token]
                log.warning(
                    "The lock of execution %s was taken over; its node's result will be offered once.",
                    claim.execution_id,
                )

    def _lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """Renew these claims; those whose lock is somebody else's now."""
        if not claims:
            return []
        answers = self._servers.renew(
            [(self._settings.lock_key(claim.execution_id), claim.value) for claim in claims]
        )
        outages.answered(CacheUnavailable)
        return [claim for claim, is_ours in zip(claims, answers, strict=True) if not is_ours]

    def _start_renewer(self) -> None:
        with self._starting:
            if self._renewer is None or self._renewer[0] != os.getpid() or not self._renewer[1].is_alive():
                thread = threading.Thread(target=self._keep_renewing, name="lock-renewal", daemon=True)
                self._renewer = (os.getpid(), thread)
                thread.start()

    def _keep_renewing(self) -> None:
        never = threading.Event()
        for _ in itertools.count():
            never.wait(self._settings.lock_expiry / 3)
            with suppress(CacheUnavailable), outages.told("renew locks"):
                self.renew()

    def _forget_parent(self) -> None:
        self._held = {}
        self._renewer = None
        self._starting = threading.Lock()
        self._renewing = threading.Lock()
