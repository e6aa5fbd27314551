"""DistributedLockService: the lock of an execution, in Redis, renewed while it is held.

Where several nodes of an execution may run at the same time, its lock has as many places. Each node takes a
place of its own, by a key of its own.

The lock keeps two workers from doing the same work at the same time. Nothing depends on it being safe: a
holder that lost it without noticing is refused by the fence when it commits.

A waiter that meets the lock drops its message and sets a flag, so that the holder resumes the execution for
it. Every call that unlocks therefore returns an `Unlocked`, which says whether the lock was contended.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import redis
from redis.commands.core import Script

from workflow_engine.errors import CacheUnavailable
from workflow_engine.execution.ids import random_uuid
from workflow_engine.outages import outages
from workflow_engine.redis.client import load_script, redis_errors
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock_servers import LockServers
from workflow_engine.redis.periodic_call import PeriodicCall, call_in_children
from workflow_engine.redis.presence import life_of_this_process
from workflow_engine.redis.upkeep.data_age import DataAge
from workflow_engine.settings import Settings
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

RENEWAL_INTERVAL = 1.0
"""Seconds between two renewals: by them, locks that an emptied Redis has lost are soon taken again. A node
that is shorter is never renewed."""

RENEWING = 2.0
"""Seconds that a renewal may take, besides the time between two renewals."""


def renewal_interval(lock_expiry: float) -> float:
    """Return the seconds between two renewals of a lock, of which there are three within its expiry."""
    return min(RENEWAL_INTERVAL, lock_expiry / 3)


class Unlocked(NamedTuple):
    """The result of releasing a lock."""

    was_ours: bool
    """The claim held the lock until now."""
    was_contended: bool
    """A waiter has met the lock: a node was woken, or an operator has acted. Its execution has to be
    resumed."""


@dataclass(frozen=True)
class Claim:
    """One attempt to hold the lock of one execution. `value` is in Redis while the lock is held."""

    execution_id: str
    token: str
    value: bytes
    place: str = ""
    """The node whose place in the lock it is; empty for the whole lock."""
    places: int = 1
    """The number of places that the lock has."""


@dataclass(frozen=True)
class Holder:
    """The holder of a lock, as the lock's value describes it."""

    token: str
    instance: str
    process: int
    task_id: str
    since: str
    node_id: str = ""
    """The node that the lock was taken to run; empty if it was taken for another purpose."""
    place: str = ""
    """The node whose place in the lock is held; empty for the whole lock."""
    life: str = ""
    """The life of its process, by which `presence` knows whether it is still connected."""

    @classmethod
    def from_value(cls, value: bytes) -> Holder | None:
        """Read the value of a lock. Return None for one that this engine did not write."""
        try:
            fields: dict[str, Any] = orjson.loads(value)
            return cls(
                fields["token"],
                fields["instance"],
                fields["process"],
                fields["task"],
                fields["since"],
                fields["node"],
                fields.get("place", ""),
                fields.get("life", ""),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Hold:
    """A lock that is held, and how long it still is unless its holder renews it."""

    holder: Holder
    seconds_left: float
    renewal_due: float
    """The seconds left at which its holder has to have renewed it, if it lives."""

    @property
    def is_unrenewed(self) -> bool:
        """Its holder has missed a renewal: the process is gone, frozen, or cannot reach Redis."""
        return self.seconds_left < self.renewal_due


class DistributedLockService:
    """Locks of executions. Methods that ask Redis raise `CacheUnavailable` while it is away."""

    def __init__(self, client: redis.Redis, servers: LockServers, settings: Settings) -> None:
        self._client = client
        self._servers = servers
        self._keys = Keys.of(settings)
        self._flag_ms = round(settings.context_expiry * 1000)
        self._release = load_script(client, "release_lock")
        self._free_place = load_script(client, "free_place")
        interval = renewal_interval(settings.lock_expiry)
        self._renewal_due = settings.lock_expiry - interval - min(RENEWING, settings.lock_expiry / 6)
        self._data_age = DataAge(client, settings)
        self._instance = socket.gethostname()
        self._held: dict[str, Claim] = {}
        self._renewing = threading.Lock()
        self._renewal = PeriodicCall("lock-renewal", interval, self._renew_quietly)
        # A holder of the guard in the parent does not exist in the child, which would wait for it for ever.
        call_in_children(self._forget_parent)

    # -- taking a lock ---------------------------------------------------------------------------------

    def new_claim(self, execution_id: str, task_id: str = "", node_id: str = "", places: int = 1) -> Claim:
        """Return a claim with a random token; nothing is asked of Redis yet.

        If the lock has several places, the claim is to that of the node.
        """
        token, place = random_uuid(), node_id if places > 1 else ""
        value = orjson.dumps(
            {
                "token": token,
                "instance": self._instance,
                "process": os.getpid(),
                "life": life_of_this_process(),
                "task": task_id,
                "since": datetime.now(UTC).isoformat(),
                "node": node_id,
                **({"place": place} if place else {}),
            }
        )
        return Claim(execution_id, token, value, place, places)

    def acquire_lock(self, execution_id: str, task_id: str = "") -> Claim | None:
        """Take the lock and renew it until it is released. Return None if it is held."""
        claim = self.new_claim(execution_id, task_id)
        if self._servers.acquire(self._keys.lock(execution_id), claim.value) != claim.value:
            return None
        self.keep_renewed(claim)
        return claim

    def acquire_or_mark_contended(self, execution_id: str) -> Claim | None:
        """Take the lock; if it is held, return None, and its holder resumes the execution after unlocking.

        A returned claim serves every waiter so far.
        """
        claim = self.acquire_lock(execution_id)
        if claim is None:
            self.mark_contended(execution_id)
            claim = self.acquire_lock(execution_id)
        if claim is not None:
            self.clear_contended(execution_id)
        return claim

    def mark_contended(self, execution_id: str, place: str = "") -> None:
        """Set the flag that a waiter met the lock, or this place in it.

        Try to take the lock again afterwards: its holder may have unlocked before it could see the flag.
        """
        with redis_errors():
            self._client.set(self._keys.contended(execution_id, place), 1, px=self._flag_ms)

    def clear_contended(self, execution_id: str, place: str = "") -> bool:
        """Clear the flag, and return whether it was set; only one caller gets True for it."""
        with redis_errors():
            return bool(self._client.delete(self._keys.contended(execution_id, place)))

    # -- releasing it ----------------------------------------------------------------------------------

    def release_lock(self, claim: Claim) -> Unlocked:
        """Release the lock of a node that was not committed, or of a look; the cached context stays."""
        self.stop_renewing(claim)
        return self.release_abandoned(claim)

    def release_abandoned(self, claim: Claim) -> Unlocked:
        """Release the lock of a claim whose process is dead, and remove the mark of its node."""
        try:
            if claim.place:
                return self.unlock(self._free_place, claim, claim.place, "", "", "")[0]
            return self.unlock(self._release, claim)[0]
        except CacheUnavailable:
            if not self._servers.keeps_contexts:
                self._servers.release(self._key_of(claim), claim.value)
            raise

    def free(self, execution_id: str, value: bytes) -> bool:
        """Free the lock or place that a dead process holds by this value.

        Return False if it does not hold it; only one caller gets True. The mark of its node stays, by which
        the crash is counted.
        """
        holder = Holder.from_value(value)
        place = holder.place if holder is not None else ""
        return self._servers.release(self._keys.lock(execution_id, place), value)

    def unlock(
        self, script: Script, claim: Claim, *args: Any, queues: Sequence[str] = ()
    ) -> tuple[Unlocked, list[Any]]:
        """Unlock by a script of this package, and return what else the script returns.

        `queues` are the lists for messages that the script sends; they need a lock that is kept beside the
        contexts.
        """
        with redis_errors():
            was_ours, was_contended, *rest = script(
                keys=[*self.script_keys(claim), *queues], args=[claim.value, *args]
            )
        if not self._servers.keeps_contexts:
            was_ours = self._servers.release(self._key_of(claim), claim.value)
            # A waiter may have set the flag after the script looked, and before this.
            was_contended = self.clear_contended(claim.execution_id, claim.place) or was_contended
        return Unlocked(bool(was_ours), bool(was_contended)), rest

    def unlock_places(
        self,
        script: Script,
        claims: Sequence[Claim],
        first: Sequence[Any],
        rest: Sequence[Any],
        queues: Sequence[str] = (),
    ) -> tuple[bool, list[Any]]:
        """Free places in the lock of an execution by one call of a script, as `unlock` does.

        Its arguments are `first`, the claims, and `rest`. Return whether a waiter has met one of the places,
        and what else the script returns.
        """
        execution_id, keys = claims[0].execution_id, self.keys_of_places(claims)
        with redis_errors():
            was_contended, *others = script(
                keys=[*keys, *queues], args=[*first, *(claim.value for claim in claims), *rest]
            )
        if not self._servers.keeps_contexts:
            for claim in claims:
                self._servers.release(self._key_of(claim), claim.value)
                # A waiter may have set the flag after the script looked, and before this.
                was_contended = self.clear_contended(execution_id, claim.place) or was_contended
        return bool(was_contended), others

    def script_keys(self, claim: Claim) -> list[str]:
        """Return the keys of a script: context, contention flag, and the lock if it is kept beside them.

        Those of a place have three more before the lock: its run, the nodes in hand, those turned away.
        """
        execution_id, place = claim.execution_id, claim.place
        context, contended, lock = self._keys.of_claim(execution_id, place)
        keys = [context, contended]
        if place:
            keys.append(self._keys.run(execution_id, place))
            keys += [self._keys.in_hand(execution_id), self._keys.turned_away(execution_id)]
        return [*keys, lock] if self._servers.keeps_contexts else keys

    def keys_of_places(self, claims: Sequence[Claim]) -> list[str]:
        """Return the keys of a script for several places in the lock of an execution.

        These are the context, the nodes in hand and those turned away. For each place follow its contention
        flag, its run, and the place itself if it is kept beside them.
        """
        execution_id = claims[0].execution_id
        keys = [
            self._keys.context(execution_id),
            self._keys.in_hand(execution_id),
            self._keys.turned_away(execution_id),
        ]
        for claim in claims:
            _, contended, lock = self._keys.of_claim(execution_id, claim.place)
            keys += [contended, self._keys.run(execution_id, claim.place)]
            keys += [lock] if self._servers.keeps_contexts else []
        return keys

    def _key_of(self, claim: Claim) -> str:
        return self._keys.lock(claim.execution_id, claim.place)

    # -- looking at it ---------------------------------------------------------------------------------

    def is_locked(self, execution_id: str) -> bool:
        """Return whether any claim holds the lock, or a place in it."""
        return bool(self._held_values(execution_id))

    def is_locked_by_me(self, claim: Claim) -> bool:
        """Return whether this claim holds its lock."""
        return self._servers.values_of([self._key_of(claim)]) == [claim.value]

    def holders(self, execution_id: str) -> list[Holder]:
        """Return who holds the lock; of a lock with several places, who holds each of them."""
        holders = [Holder.from_value(value) for value in self._held_values(execution_id)]
        return [holder for holder in holders if holder is not None]

    def holds_of(self, execution_ids: Sequence[str]) -> dict[str, list[Hold]]:
        """Return who holds the locks of those of these executions that are locked; three round trips."""
        held = [
            (execution_id, holder)
            for execution_id, values in zip(execution_ids, self.held_values(execution_ids), strict=True)
            for value in values
            if (holder := Holder.from_value(value)) is not None
        ]
        keys = [self._keys.lock(execution_id, holder.place) for execution_id, holder in held]
        found: dict[str, list[Hold]] = {}
        for (execution_id, holder), seconds in zip(
            held, self._servers.seconds_left(keys) if keys else [], strict=True
        ):
            found.setdefault(execution_id, []).append(Hold(holder, seconds, self._renewal_due))
        return found

    def value_of(self, execution_id: str, place: str = "") -> bytes | None:
        """Return the claim that holds the lock, or this place in it; None if it is free."""
        return self.values_of(execution_id, [place])[0]

    def values_of(self, execution_id: str, places: Sequence[str]) -> list[bytes | None]:
        """Return, for each of these places, the claim that holds it, or None if it is free."""
        return self._servers.values_of([self._keys.lock(execution_id, place) for place in places])

    def held_values(self, execution_ids: Sequence[str]) -> list[list[bytes]]:
        """Return, for each execution, the claims that hold its lock and places in it; two round trips."""
        with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            for execution_id in execution_ids:
                pipeline.zrange(self._keys.in_hand(execution_id), 0, -1)
            in_hand: list[list[bytes]] = pipeline.execute()
        places = [["", *(node_id.decode() for node_id in node_ids)] for node_ids in in_hand]
        keys = [
            self._keys.lock(execution_id, place)
            for execution_id, each in zip(execution_ids, places, strict=True)
            for place in each
        ]
        values = iter(self._servers.values_of(keys) if keys else ())
        return [[value for _ in each if (value := next(values)) is not None] for each in places]

    def _held_values(self, execution_id: str) -> list[bytes]:
        return self.held_values([execution_id])[0]

    # -- renewing it -----------------------------------------------------------------------------------

    def keep_renewed(self, claim: Claim) -> None:
        """Renew this claim, which has taken its lock, from now on."""
        self._held[claim.token] = claim
        self._renewal.start()

    def holds(self, claim: Claim) -> bool:
        """Return whether this claim is being renewed and had its lock at the last renewal."""
        return claim.token in self._held

    def stop_renewing(self, *claims: Claim) -> None:
        """Stop renewing these claims; a renewal in progress ends before this returns.

        Otherwise the renewal could take the released lock again, although nothing runs.
        """
        with self._renewing:
            for claim in claims:
                self._held.pop(claim.token, None)

    def stop_all_renewing(self) -> None:
        """Stop renewing every claim, for a process that is about to die: its locks expire by themselves."""
        with self._renewing:
            self._held.clear()

    def renew(self) -> None:
        """Renew every lock that this process holds, in one round trip."""
        with self._renewing:
            for claim in self._lost(list(self._held.values())):
                del self._held[claim.token]
                log.warning(
                    "The lock of execution %s was taken over; the fence decides whether its node's result "
                    "counts.",
                    claim.execution_id,
                    extra=log_fields(LogEvent.LOCK_TAKEN_OVER, execution_id=claim.execution_id),
                )

    def _lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """Renew these claims. Return those whose lock another claim holds now."""
        if not claims:
            return []
        are_ours = self._servers.renew([(self._key_of(claim), claim.value) for claim in claims])
        outages.record_reply(CacheUnavailable)
        return [claim for claim, is_ours in zip(claims, are_ours, strict=True) if not is_ours]

    def _renew_quietly(self) -> None:
        with suppress(CacheUnavailable), outages.watch("renew locks"):
            self.renew()
            if self._held:
                # Its clock starts with the first call after a loss. All processes have a second to lock again
                # what they run, and so this is sooner known than by the next look for stalled executions.
                self._data_age.seconds()

    def _forget_parent(self) -> None:
        self._held = {}
        self._renewing = threading.Lock()
