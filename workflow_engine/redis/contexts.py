"""CachedContexts: the contexts of active executions in Redis, and the scripts that enter and leave a node.

`cached_context` defines what a context looks like there. Besides its fields, `size` is their number, so that
a partial context counts as missing. `mark` is the claim under which a node is running.

Where several nodes of an execution may run at the same time, other scripts do the same.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import orjson
import redis

from workflow_engine.errors import BrokerUnavailable, CacheUnavailable
from workflow_engine.execution.lost_messages import lost_beside_siblings_after
from workflow_engine.execution.messages import QueuedMessage
from workflow_engine.execution.records import Snapshot
from workflow_engine.outages import outages
from workflow_engine.redis.cached_context import OUTPUT, CachedContext, context_fields, read_context
from workflow_engine.redis.calls import (
    Entry,
    Leaving,
    Part,
    SentAhead,
    SentEntry,
    SentLeaving,
    leaving_arguments,
    values_of_fields,
)
from workflow_engine.redis.client import Client, call_of, load_script, redis_errors
from workflow_engine.redis.cluster.nodes import time_at
from workflow_engine.redis.finished_signals import FinishedSignals
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock import Claim, DistributedLockService, Unlocked
from workflow_engine.redis.lock_servers import LockServers
from workflow_engine.redis.results import Abandoned, Full, Held, Late, LeaveResult, Missing
from workflow_engine.settings import Settings
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

GAP_PAUSES = (0.001, 0.002, 0.004)
"""Seconds to wait for a sibling that is leaving behind its commit, or is rebuilding the context, before the
context is rebuilt."""


class CachedContexts:
    """Contexts in Redis. Every method raises `CacheUnavailable` while it is away."""

    def __init__(
        self,
        client: redis.Redis,
        servers: LockServers,
        locks: DistributedLockService,
        settings: Settings,
    ) -> None:
        self._client = client
        self._servers = servers
        self._locks = locks
        self._keys = Keys.of(settings)
        self._signals = FinishedSignals(client, self._keys)
        self._lock_ms = round(settings.lock_expiry * 1000)
        self._context_ms = round(settings.context_expiry * 1000)
        self._overdue_ms = round(lost_beside_siblings_after(settings.stall_after) * 1000)
        self._enter = load_script(client, "enter")
        self._store = load_script(client, "store_context")
        self._leave = load_script(client, "leave")
        self._drop = load_script(client, "drop_context")
        self._read = load_script(client, "read_outputs")
        # Where several nodes of an execution may run at the same time.
        self._enter_places = load_script(client, "enter_places")
        self._store_shared = load_script(client, "store_shared_context")
        self._leave_places = load_script(client, "leave_places")
        self._free_place = load_script(client, "free_place")

    def enter(
        self, claim: Claim, node_id: str, seq: int, needs: Sequence[str]
    ) -> Late | Held | Full | Missing | CachedContext:
        """Take the lock, read the context and the outputs of `needs`, and leave our mark; one call.

        `node_id` and `seq` are those of the message. A lock that is held is marked as contended and tried
        once more, since its holder may have unlocked before it could see the flag.
        """
        entered = self._try_to_enter(claim, node_id, seq, needs)
        if isinstance(entered, Held):
            self._locks.mark_contended(claim.execution_id, claim.place)
            entered = self._try_to_enter(claim, node_id, seq, needs)
            if isinstance(entered, Late):
                return Late(self._locks.clear_contended(claim.execution_id, claim.place))
        if isinstance(entered, Missing | CachedContext):
            self._locks.keep_renewed(claim)
        return entered

    def _try_to_enter(
        self, claim: Claim, node_id: str, seq: int, needs: Sequence[str]
    ) -> Late | Held | Full | Missing | CachedContext:
        """Enter, or change nothing.

        A lock that is kept on other servers is taken by a call of its own, and only if the message is not
        late.
        """
        if self._servers.keeps_contexts:
            return self._enter_context(claim, node_id, seq, needs)
        if self._call_enter(claim, b"", node_id, seq, ())[0] == b"late":
            return Late()
        holder = self._servers.acquire(self._keys.lock(claim.execution_id, claim.place), claim.value)
        if holder != claim.value:
            return Held(holder)
        entered = self._enter_context(claim, node_id, seq, needs)
        if isinstance(entered, Full):
            self._servers.release(self._keys.lock(claim.execution_id, claim.place), claim.value)
        # Late only now: the message for the node that is due may have met our lock and been dropped.
        # Rebuilding the context publishes it again.
        return Missing() if isinstance(entered, Late) else entered

    def _enter_context(
        self, claim: Claim, node_id: str, seq: int, needs: Sequence[str]
    ) -> Late | Held | Full | Missing | CachedContext:
        result = self._call_enter(claim, claim.value, node_id, seq, needs)
        return self._entered(Entry(claim, node_id, seq, needs), result)

    def _entered(self, entry: Entry, result: Any) -> Late | Held | Full | Missing | CachedContext:
        claim, node_id, seq, needs = entry
        if result[0] == b"late":
            return Late()
        if result[0] == b"held":
            return Held(result[1])
        if result[0] == b"full":
            return Full()
        if result[0] == b"missing":
            return Missing(_abandoned(claim, *result[1:]))
        _, mark, fixed, values, *seq_of_mark = result
        outputs = {name: value for name, value in zip(needs, values, strict=True) if value is not None}
        try:
            abandoned = _abandoned(claim, mark, *(seq_of_mark or fixed[:1]))
            return read_context(claim.execution_id, fixed, needs, outputs, abandoned)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning(
                "Cannot read the cached context of execution %s; rebuilding it from Postgres: %s",
                claim.execution_id,
                error,
                extra=log_fields(
                    LogEvent.CONTEXT_DISCARDED,
                    execution_id=claim.execution_id,
                    node_id=node_id,
                    seq=seq,
                    error=error,
                ),
            )
            return Missing()

    def _call_enter(self, claim: Claim, value: bytes, node_id: str, seq: int, needs: Sequence[str]) -> Any:
        """Call the script with the claim's value, or with b"" to ask only whether the message is late."""
        entry = Entry(claim, node_id, seq, needs)
        if not claim.place:
            with redis_errors():
                return self._enter(keys=self._locks.script_keys(claim), args=self._entering(entry, value))
        for pause in GAP_PAUSES:
            (result,) = self._call_enter_places([entry], [value], reports_gap=True)
            if result[0] != b"gap":
                return result
            time.sleep(pause)
        return self._call_enter_places([entry], [value], reports_gap=False)[0]

    def enter_jointly(self, entries: Sequence[Entry]) -> list[Late | Full | Missing | CachedContext | None]:
        """Do what `enter` does for nodes of one execution that may run at the same time; one call.

        None for a node that has changed nothing and has to be entered by a call of its own.
        """
        if not self._servers.keeps_contexts:
            return [None] * len(entries)
        values = [entry.claim.value for entry in entries]
        results = self._call_enter_places(entries, values, reports_gap=True)
        return [self._entered_jointly(*each) for each in zip(entries, results, strict=True)]

    def _entered_jointly(self, entry: Entry, result: Any) -> Late | Full | Missing | CachedContext | None:
        entered = self._entered(entry, result) if result[0] != b"gap" else None
        if isinstance(entered, Missing | CachedContext):
            self._locks.keep_renewed(entry.claim)
        return entered if not isinstance(entered, Held) else None

    def _call_enter_places(
        self, entries: Sequence[Entry], values: Sequence[bytes], *, reports_gap: bool
    ) -> list[Any]:
        """Return for each node what `enter` returns, or that a gap keeps it from entering."""
        claim = entries[0].claim
        runs = self._keys.run(claim.execution_id, claim.place)[: -len(claim.place)]
        args: list[Any] = [
            self._lock_ms,
            self._context_ms,
            claim.places,
            runs,
            int(reports_gap),
            len(entries),
        ]
        for entry, value in zip(entries, values, strict=True):
            fields = [OUTPUT + needed.encode() for needed in entry.needs]
            args += [value, entry.seq, entry.node_id, len(fields), *fields]
        with redis_errors():
            keys = self._locks.keys_of_places([entry.claim for entry in entries])
            fixed, results = self._enter_places(keys=keys, args=args)
        return [[*each[:2], fixed, *each[2:]] if each[0] == b"entered" else each for each in results]

    def _entering(self, entry: Entry, value: bytes) -> list[Any]:
        """Return the arguments of the script that enters a node."""
        fields = (OUTPUT + needed.encode() for needed in entry.needs)
        return [value, self._lock_ms, self._context_ms, entry.seq, entry.node_id, *fields]

    def cache_context(
        self, claim: Claim, snapshot: Snapshot, walk: bytes, *, replaces_newer: bool = True
    ) -> bool:
        """Write a context rebuilt from Postgres, whole. Return False if the lock is no longer ours.

        With several places in the lock, siblings may have brought the cached one further meanwhile:
        `replaces_newer` says whether it is replaced all the same.
        """
        fields = itertools.chain.from_iterable(context_fields(snapshot, walk).items())
        if not self._servers.keeps_contexts and not self._locks.is_locked_by_me(claim):
            return False
        keys = self._locks.script_keys(claim)
        with redis_errors():
            if not claim.place:
                return bool(self._store(keys=keys, args=[claim.value, self._context_ms, *fields]))
            newest = "" if replaces_newer else snapshot.seq
            args = [claim.value, self._context_ms, newest, *fields]
            return bool(self._store_shared(keys=keys, args=args))

    def update_context(
        self,
        claim: Claim,
        entered: int,
        committed: int,
        changed: Mapping[bytes, Any],
        message: QueuedMessage | None = None,
    ) -> LeaveResult:
        """Update the cached context from the `seq` entered to the `seq` committed, and unlock; one call.

        The same call sends a message whose queue is in this Redis, unless the lock is elsewhere: the message
        must not arrive while the lock is held.
        """
        self._locks.stop_renewing(claim)
        sent = message if message is not None and self._servers.keeps_contexts else None
        unlocked, (was_updated,) = self._locks.unlock(
            self._leave,
            claim,
            *leaving_arguments(entered, committed, changed, sent),
            queues=[sent.key] if sent is not None else [],
        )
        return _left(was_updated, unlocked.was_contended, sent is not None)

    def updating(
        self,
        claim: Claim,
        entered: int,
        committed: int,
        changed: Mapping[bytes, Any],
        message: QueuedMessage | None,
    ) -> Leaving:
        """Return what `update_context` does, for `send_ahead`."""
        keys = [*self._locks.script_keys(claim), *([message.key] if message is not None else [])]
        args = [claim.value, *leaving_arguments(entered, committed, changed, message)]
        return Leaving(claim, call_of(self._leave, keys, args), has_message=message is not None)

    def finishing(self, claim: Claim, status: str) -> Leaving:
        """Return what `finish` does, for `send_ahead`."""
        args = [claim.value, self._keys.finished(claim.execution_id), status]
        return Leaving(claim, call_of(self._drop, self._locks.script_keys(claim), args), has_message=False)

    def send_ahead(self, leaving: Sequence[Leaving], entry: Entry | None) -> SentAhead | None:
        """Send the calls that leave nodes, and the one that enters another, and do not wait.

        Return None, and send nothing, unless these locks are whole ones and beside the contexts. `left` and
        `entered` then read the replies. Without them, the new lock expires by itself.
        """
        client = self._client
        claims = [of.claim for of in (*leaving, entry) if of is not None]
        if not isinstance(client, Client) or not self._servers.keeps_contexts:
            return None
        if any(claim.place for claim in claims):
            return None
        calls = []
        for each in leaving:
            self._locks.stop_renewing(each.claim)
            calls.append(each.call)
        if entry is not None:
            keys = self._locks.script_keys(entry.claim)
            calls.append(call_of(self._enter, keys, self._entering(entry, entry.claim.value)))
        with redis_errors():
            replies = client.send_ahead(calls)
        return SentAhead(
            [SentLeaving(reply, each.has_message) for reply, each in zip(replies, leaving, strict=False)],
            SentEntry(entry, replies[-1]) if entry is not None else None,
        )

    def left(self, sent: SentLeaving) -> LeaveResult:
        """Return the result of leaving. If it raises, the node has to be left again, by a call of its own."""
        with redis_errors():
            _, was_contended, *was_updated = sent.reply.value()
        return _left(was_updated == [1], was_contended, sent.has_message)

    def entered(self, sent: SentEntry) -> Late | Held | Full | Missing | CachedContext:
        """Return what `enter` returns; if the call has to be repeated for that, repeat it."""
        entered = None
        with suppress(CacheUnavailable), redis_errors():
            entered = self._entered(sent.entry, sent.reply.value())
        if entered is None or isinstance(entered, Held):
            return self.enter(*sent.entry)
        if isinstance(entered, Missing | CachedContext):
            self._locks.keep_renewed(sent.entry.claim)
        return entered

    def add_to_context(
        self,
        claim: Claim,
        entered: int,
        committed: int,
        changed: Mapping[bytes, Any],
        in_hand: Sequence[str],
        between: Mapping[int, str],
        messages: Sequence[QueuedMessage] = (),
    ) -> LeaveResult:
        """Add what a commit has changed to a context that siblings share, and free its place; one call.

        `in_hand` are the nodes in hand after the commit, and `between` the nodes of the commits between the
        `seq` entered and the `seq` committed. The messages are sent as by `update_context`.
        """
        return self.add_jointly([Part(claim, committed, changed)], entered, in_hand, between, messages)

    def add_jointly(
        self,
        parts: Sequence[Part],
        entered: int,
        in_hand: Sequence[str],
        between: Mapping[int, str],
        messages: Sequence[QueuedMessage] = (),
    ) -> LeaveResult:
        """Do what `add_to_context` does for nodes whose commits follow one another; one call.

        `entered` is the highest `seq` that one of them was entered with. What belongs to the latest commit is
        taken from the last part.
        """
        claims = [part.claim for part in parts]
        self._locks.stop_renewing(*claims)
        sent = messages if self._servers.keeps_contexts else ()
        own = [values_of_fields(part.changed, is_own=True) for part in parts]
        state = values_of_fields(parts[-1].changed, is_own=False)
        given = {
            "hand": in_hand,
            "between": between,
            "state": len(state),
            "places": self._servers.keeps_contexts,
            "nodes": [
                (part.claim.place, part.committed, len(values))
                for part, values in zip(parts, own, strict=True)
            ],
        }
        was_contended, (was_updated, turned_away, overdue) = self._locks.unlock_places(
            self._leave_places,
            claims,
            (
                entered,
                self._context_ms,
                self._overdue_ms,
                self._keys.lock(claims[0].execution_id, claims[0].place)[: -len(claims[0].place)],
                orjson.dumps(given, option=orjson.OPT_NON_STR_KEYS),
            ),
            (*(message.content for message in sent), *state, *itertools.chain.from_iterable(own)),
            queues=[message.key for message in sent],
        )
        if sent:
            outages.record_reply(BrokerUnavailable)
        return LeaveResult(
            bool(was_updated),
            was_contended,
            bool(sent),
            turned_away=[node_id.decode() for node_id in turned_away],
            overdue=[node_id.decode() for node_id in overdue],
        )

    def finish(self, claim: Claim, status: str) -> Unlocked:
        """Remove a finished execution from the cache, notify waiting callers, and unlock; one call."""
        return self._drop_context(claim, self._keys.finished(claim.execution_id), status)

    def discard(self, claim: Claim) -> Unlocked:
        """Remove a context that may be wrong, or is no longer needed, and unlock; one call."""
        return self._drop_context(claim, "", "")

    def _drop_context(self, claim: Claim, channel: str, message: str) -> Unlocked:
        self._locks.stop_renewing(claim)
        if not claim.place:
            return self._locks.unlock(self._drop, claim, channel, message)[0]
        what = "all" if channel else "context"
        return self._locks.unlock(self._free_place, claim, claim.place, what, channel, message)[0]

    def abandoned_run(self, execution_id: str, place: str = "") -> Abandoned | None:
        """Return the run whose process vanished, of the execution or of the node of this place.

        Only a caller that knows the lock or the place to be free, or holds it, may call this.
        """
        with redis_errors():
            seq, mark = self._client.hmget(self._keys.run(execution_id, place), "seq", "mark")
        if isinstance(seq, bytes) and seq.isdigit() and isinstance(mark, bytes):
            return Abandoned(mark, int(seq))
        return None

    def in_hand_since(self, execution_id: str) -> Mapping[str, float]:
        """Return the nodes in hand, each with the seconds since it was sent or entered."""
        with redis_errors():
            now = time_at(self._client, self._keys.in_hand(execution_id))
            entries: Any = self._client.zrange(self._keys.in_hand(execution_id), 0, -1, withscores=True)
        return {node_id.decode(): now - at / 1000 for node_id, at in entries}

    def note_in_hand(self, execution_id: str, node_ids: Sequence[str], seconds: float) -> None:
        """Note nodes that are in hand and that Redis has forgotten, as if each was sent `seconds` ago."""
        key = self._keys.in_hand(execution_id)
        with redis_errors():
            at = round((time_at(self._client, key) - seconds) * 1000)
            pipeline = self._client.pipeline()
            pipeline.zadd(key, dict.fromkeys(node_ids, at), nx=True)
            pipeline.pexpire(key, self._context_ms)
            pipeline.execute()

    def take_turned_away(self, execution_id: str) -> list[str]:
        """Return the nodes that found all places taken; only one caller gets each."""
        with redis_errors():
            pipeline = self._client.pipeline()
            pipeline.smembers(self._keys.turned_away(execution_id))
            pipeline.delete(self._keys.turned_away(execution_id))
            node_ids, _ = pipeline.execute()
        return [node_id.decode() for node_id in node_ids]

    def remove_from_cache(self, execution_id: str) -> None:
        """Delete the cached context; the next node rebuilds it from Postgres."""
        with redis_errors():
            self._client.delete(self._keys.context(execution_id))

    def read_output(self, cached: CachedContext, node_id: str) -> bytes | Missing | None:
        """Return an output of the context that was entered; None if the node has none.

        Return `Missing` if the context is no longer there as it was entered.
        """
        with redis_errors():
            values: Any = self._read(
                keys=[self._keys.context(cached.execution_id)],
                args=[cached.stored_seq, OUTPUT + node_id.encode()],
            )
        if values is None:
            return Missing()
        output: bytes | None = values[0]
        return output

    def read_whole(self, execution_id: str, seq: int | None = None) -> Mapping[bytes, bytes] | None:
        """Return all fields of a context; None if it is absent or partial, or is not at `seq`.

        One that siblings share may be at a later `seq`.
        """
        with redis_errors():
            fields: Any = self._client.hgetall(self._keys.context(execution_id))
        with suppress(ValueError, TypeError, KeyError):  # an unreadable context counts as absent
            is_whole = int(fields[b"size"]) == len(fields) - (b"mark" in fields)
            gaps, found_seq = fields.get(b"gaps"), int(fields[b"seq"])
            is_at_seq = seq is None or found_seq == seq or (gaps is not None and found_seq > seq)
            if is_whole and is_at_seq and gaps in (None, b"{}"):
                found: Mapping[bytes, bytes] = fields
                return found
        return None

    def announce_finished(self, execution_id: str, status: str) -> None:
        """Notify waiting callers that an execution ended outside of a hop."""
        self._signals.announce(execution_id, status)

    def finished_signal(self, execution_id: str) -> AbstractContextManager[Callable[[float], None]]:
        """Return what `FinishedSignals.of` does: a function that waits for the end, some seconds at most."""
        return self._signals.of(execution_id)


def _abandoned(claim: Claim, mark: Any = None, seq: Any = None) -> Abandoned | None:
    """Return the run that left a mark; None if the mark is this claim's, whose call was repeated."""
    return Abandoned(mark, int(seq)) if isinstance(mark, bytes) and mark != claim.value else None


def _left(was_updated: Any, was_contended: Any, has_sent: bool) -> LeaveResult:
    if has_sent:
        outages.record_reply(BrokerUnavailable)
    return LeaveResult(bool(was_updated), bool(was_contended), has_sent)
