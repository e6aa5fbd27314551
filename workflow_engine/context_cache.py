"""ExecutionContextCache: the context of active executions in Redis, in front of the truth in Postgres.

`cached_context` says what a context looks like there. Beside its fields, `size` is their number, so that a
context that lost a part is seen to be missing, and `mark` is the claim under which a node is being run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson
import redis

from workflow_engine.cached_context import OUTPUT, CachedContext, context_fields, context_of
from workflow_engine.context import ExecutionContext
from workflow_engine.errors import BrokerUnavailable, CacheUnavailable, ExecutionNotFound
from workflow_engine.execution_records import Snapshot
from workflow_engine.execution_state import ExecutionStateService
from workflow_engine.lock import Claim
from workflow_engine.lock_servers import LockServers
from workflow_engine.outages import outages
from workflow_engine.queued_message import QueuedMessage
from workflow_engine.redis_connection import load_script, redis_errors
from workflow_engine.settings import Settings


@dataclass(frozen=True)
class Held:
    """Somebody else holds the execution's lock."""

    holder: bytes


@dataclass(frozen=True)
class Late:
    """The execution has gone on since the message was sent, and its node is not due; nothing is locked."""


@dataclass(frozen=True)
class Missing:
    """The lock is ours, but the context has to be rebuilt from Postgres."""


@dataclass(frozen=True)
class Left:
    """A node was left after its commit, and the lock released."""

    was_updated: bool
    """The cached context is up to date; else it did not hold what we entered with, and was deleted."""
    is_awaited: bool
    """Somebody has met our lock; a node was woken, or an operator has acted."""
    has_sent: bool = False
    """The message that was given along is in its queue."""


class ExecutionContextCache:
    """Contexts in Redis. Methods may raise `CacheUnavailable`; what is missing is in Postgres."""

    def __init__(
        self,
        client: redis.Redis,
        lock_servers: LockServers,
        state: ExecutionStateService,
        settings: Settings,
    ) -> None:
        self._client = client
        self._lock_servers = lock_servers
        self._state = state
        self._settings = settings
        self._lock_ms = round(settings.lock_expiry * 1000)
        self._context_ms = round(settings.context_expiry * 1000)
        self._enter = load_script(client, "enter")
        self._cache = load_script(client, "cache")
        self._leave = load_script(client, "leave")
        self._finish = load_script(client, "finish")
        self._read = load_script(client, "read")

    def enter(
        self, claim: Claim, node_id: str, seq: int, needs: Sequence[str]
    ) -> Late | Held | Missing | CachedContext:
        """Take the lock, read the context and the outputs of `needs`, and leave our mark; one call.

        `node_id` and `seq` are those of the message that asks for it. Where locks are kept on servers of
        their own, the lock is taken by a call of its own, and only if the message is not late.
        """
        if self._lock_servers.keeps_contexts:
            return self._enter_context(claim, node_id, seq, needs)
        with redis_errors():
            answer: Any = self._enter(
                keys=self._keys(claim.execution_id), args=["", 0, self._context_ms, seq, node_id]
            )
        if answer[0] == b"late":
            return Late()
        holder = self._lock_servers.acquire(self._settings.lock_key(claim.execution_id), claim.value)
        if holder != claim.value:
            return Held(holder)
        entered = self._enter_context(claim, node_id, seq, needs)
        # Late only now: the message for the node that is due may meet our lock, and be dropped. Whoever
        # rebuilds the context publishes that again.
        return Missing() if isinstance(entered, Late) else entered

    def _enter_context(
        self, claim: Claim, node_id: str, seq: int, needs: Sequence[str]
    ) -> Late | Held | Missing | CachedContext:
        fields = [OUTPUT + node_id.encode() for node_id in needs]
        with redis_errors():
            answer: Any = self._enter(
                keys=self._keys(claim.execution_id),
                args=[claim.value, self._lock_ms, self._context_ms, seq, node_id, *fields],
            )
        if answer[0] == b"late":
            return Late()
        if answer[0] == b"held":
            return Held(answer[1])
        if answer[0] == b"missing":
            return Missing()
        _, mark, (cached_seq, fence, walk, variables, identity), values = answer
        found = {
            name: orjson.loads(value) for name, value in zip(needs, values, strict=True) if value is not None
        }
        return CachedContext(
            execution_id=claim.execution_id,
            seq=int(cached_seq),
            fence=fence.decode(),
            walk=walk,
            stored_seq=int(cached_seq),
            variables=variables,
            identity=orjson.loads(identity),
            outputs=found,
            absent=frozenset(needs) - found.keys(),
            mark=mark if mark != claim.value else None,
        )

    def cache_context(self, claim: Claim, snapshot: Snapshot, walk: bytes) -> bool:
        """Write a context rebuilt from Postgres, whole; False if the lock is not ours any more."""
        fields = itertools.chain.from_iterable(context_fields(snapshot, walk).items())
        args = [claim.value, self._context_ms, *fields]
        if not self._lock_servers.keeps_contexts:
            key = self._settings.lock_key(claim.execution_id)
            if self._lock_servers.value_of(key) != claim.value:
                return False
        with redis_errors():
            return bool(self._cache(keys=self._keys(claim.execution_id), args=args))

    def update_context(
        self,
        claim: Claim,
        entered: int,
        committed: int,
        changed: Mapping[bytes, Any],
        message: QueuedMessage | None = None,
    ) -> Left:
        """Bring the cached context from `seq` entered to `seq` committed, and unlock; one call.

        A message whose queue is in this Redis is sent by the same call, unless the lock is elsewhere: it must
        not arrive while that is held.
        """
        keys, content = self._keys(claim.execution_id), b""
        if has_sent := message is not None and self._lock_servers.keeps_contexts:
            keys, content = [*keys, message.key], message.content
        pairs = itertools.chain.from_iterable(changed.items())
        with redis_errors():
            was_updated, is_awaited = self._leave(
                keys=keys,
                args=[claim.value, entered, committed, content, *pairs],
            )
        if not self._lock_servers.keeps_contexts:
            self._unlock_elsewhere(claim)
            is_awaited = self.take_knock(claim.execution_id) or is_awaited
        if has_sent:
            outages.answered(BrokerUnavailable)
        return Left(bool(was_updated), bool(is_awaited), has_sent)

    def finish(self, claim: Claim, status: str) -> None:
        """Remove a finished execution from the cache, tell whoever waits for it, and unlock; one call."""
        channel = self._settings.finished_channel(claim.execution_id)
        with redis_errors():
            self._finish(keys=self._keys(claim.execution_id), args=[claim.value, channel, status])
        self._unlock_elsewhere(claim)

    def discard(self, claim: Claim) -> bool:
        """Remove a context that is not to be believed, and unlock; True if the lock was still ours."""
        with redis_errors():
            was_ours = self._finish(keys=self._keys(claim.execution_id), args=[claim.value, "", ""])
        return bool(was_ours) or self._unlock_elsewhere(claim)

    def knock(self, execution_id: str) -> None:
        """Let the holder of a lock know that we have met it. Try again after it: the holder may have gone."""
        with redis_errors():
            self._client.set(self._settings.knock_key(execution_id), 1, px=self._context_ms)

    def take_knock(self, execution_id: str) -> bool:
        """Whether somebody has knocked; for whoever has just unlocked, and told to one of them."""
        with redis_errors():
            return bool(self._client.delete(self._settings.knock_key(execution_id)))

    def mark_of(self, execution_id: str) -> bytes | None:
        """The claim of whoever runs a node, or vanished while it did; None if nobody has left a mark."""
        with redis_errors():
            mark = self._client.hget(self._settings.context_key(execution_id), "mark")
        return mark if isinstance(mark, bytes) else None

    def abandoned_run(self, execution_id: str) -> tuple[int, bytes] | None:
        """For whoever holds the lock: the `seq` on which a node was being run when its process vanished.

        With the claim under which it ran; None if nobody has left a mark.
        """
        with redis_errors():
            seq, mark = self._client.hmget(self._settings.context_key(execution_id), "seq", "mark")
        return (int(seq), mark) if isinstance(seq, bytes) and isinstance(mark, bytes) else None

    def remove_from_cache(self, execution_id: str) -> None:
        """Delete the cached context; the next node rebuilds it from Postgres."""
        with redis_errors():
            self._client.delete(self._settings.context_key(execution_id))

    def announce_finished(self, execution_id: str, status: str) -> None:
        """Tell whoever waits that an execution ended outside of a hop."""
        with redis_errors():
            self._client.publish(self._settings.finished_channel(execution_id), status)

    def output_loader(self, cached: CachedContext) -> Callable[[str], Any]:
        """Fetches outputs that were not asked for on entering, from Redis or else from Postgres."""

        def load(node_id: str) -> Any:
            if node_id in cached.absent:
                raise KeyError(node_id)
            encoded = cached.unstored.get(OUTPUT + node_id.encode()) or self._read_output(cached, node_id)
            if encoded is None:
                raise KeyError(node_id)
            return orjson.loads(encoded)

        return load

    def metadata_loader(self, cached: CachedContext) -> Callable[[str], Any]:
        """Fetches the path of the execution, which grows with every node and is seldom read.

        From Redis only if the context there is the one that was entered with: of an older copy the path
        would be too short, and the fence would not show it.
        """

        def load(key: str) -> Any:
            if key != "executionPath":
                raise KeyError(key)
            return self._whole_context(cached.execution_id, cached.seq).metadata[key]

        return load

    def _read_output(self, cached: CachedContext, node_id: str) -> bytes | None:
        try:
            with redis_errors():
                answer: Any = self._read(
                    keys=[self._settings.context_key(cached.execution_id)],
                    args=[cached.stored_seq, OUTPUT + node_id.encode()],
                )
        except CacheUnavailable:
            answer = None
        if answer is None:
            return self._state.load_output(cached.execution_id, node_id)
        value: bytes | None = answer[0]
        return value

    def load_context(self, execution_id: str) -> ExecutionContext:
        """The whole context: from Redis if it is cached, else from Postgres.

        Raises `ExecutionNotFound`.
        """
        return self._whole_context(execution_id)

    def _whole_context(self, execution_id: str, seq: int | None = None) -> ExecutionContext:
        """With a `seq`, a context in Redis counts only if it stands there."""
        try:
            with redis_errors():
                fields: Any = self._client.hgetall(self._settings.context_key(execution_id))
        except CacheUnavailable:
            fields = {}
        is_whole = fields and int(fields.get(b"size", -1)) == len(fields) - (b"mark" in fields)
        if not is_whole or (seq is not None and int(fields[b"seq"]) != seq):
            if (snapshot := self._state.load_snapshot(execution_id)) is None:
                raise ExecutionNotFound(execution_id)
            fields = context_fields(snapshot, b"")
        return context_of(execution_id, fields)

    def persist_context(self, context: ExecutionContext, fence: str) -> bool:
        """Write a context to its execution's row; False if the execution has moved on since."""
        return self._state.persist_context(context.execution_id, fence, context.to_dict())

    @contextmanager
    def finished_signal(self, execution_id: str) -> Iterator[Callable[[float], None]]:
        """Listen for the end of an execution: gives a function that waits for it, some seconds at most.

        Whoever listens asks Postgres after subscribing and after every wait: the signal only saves
        time. It never raises for Redis being away; the wait then just takes its seconds.
        """
        pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            with suppress(CacheUnavailable), redis_errors():
                pubsub.subscribe(self._settings.finished_channel(execution_id))
            yield lambda seconds: _wait_for_message(pubsub, seconds)
        finally:
            pubsub.close()

    def _keys(self, execution_id: str) -> list[str]:
        """What the scripts are given: the context, and the lock if it is kept beside it."""
        keys = [self._settings.context_key(execution_id), self._settings.knock_key(execution_id)]
        if self._lock_servers.keeps_contexts:
            keys.append(self._settings.lock_key(execution_id))
        return keys

    def _unlock_elsewhere(self, claim: Claim) -> bool:
        """Release a lock that the scripts could not; True if there is such a lock and it was ours."""
        if self._lock_servers.keeps_contexts:
            return False
        return self._lock_servers.release(self._settings.lock_key(claim.execution_id), claim.value)


def _wait_for_message(pubsub: redis.client.PubSub, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    try:
        with redis_errors():
            while (left := deadline - time.monotonic()) > 0:
                if pubsub.get_message(timeout=left) is not None:
                    return
    except CacheUnavailable:
        time.sleep(max(0.0, min(1.0, deadline - time.monotonic())))
