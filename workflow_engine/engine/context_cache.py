"""ExecutionContextCache: the contexts in Redis, backed by the truth in Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

from workflow_engine.errors import (
    BackingServiceUnavailable,
    CacheUnavailable,
    ContextUnavailable,
    ExecutionNotFound,
)
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.json_values import decode
from workflow_engine.postgres.executions.state import ExecutionStateService
from workflow_engine.redis.cached_context import OUTPUT, CachedContext, context_fields, context_of
from workflow_engine.redis.client import Redis
from workflow_engine.redis.contexts import CachedContexts
from workflow_engine.redis.lock import DistributedLockService
from workflow_engine.redis.lock_servers import LockServers
from workflow_engine.redis.results import Missing
from workflow_engine.settings import Settings

EMPTY: Mapping[bytes, Any] = MappingProxyType({})


class ExecutionContextCache(CachedContexts):
    """Cached contexts that are read from Postgres if Redis does not have them."""

    def __init__(
        self,
        client: Redis,
        servers: LockServers,
        locks: DistributedLockService,
        state: ExecutionStateService,
        settings: Settings,
    ) -> None:
        super().__init__(client, servers, locks, settings)
        self._state = state

    def output_loader(self, cached: CachedContext) -> Callable[[str], Any]:
        """Return a function that loads outputs which entering did not read.

        It asks Redis, then Postgres, but for what was read before on an inline walk. Raises
        `ContextUnavailable` while both are away.
        """

        def load(node_id: str) -> Any:
            if node_id in cached.absent:
                raise KeyError(node_id)
            if (unstored := cached.unstored.get(OUTPUT + node_id.encode())) is not None:
                return decode(unstored)
            if (encoded := cached.encoded.get(node_id)) is None:
                with _read_by_a_node():
                    encoded = cached.encoded[node_id] = self._load_output(cached, node_id)
            return decode(encoded)

        return load

    def metadata_loader(self, cached: CachedContext) -> Callable[[str], Any]:
        """Return a function that loads the execution's path, which every node makes longer.

        It asks Redis only if the context there is still the one that was entered. In an older copy the path
        would be too short, and the fence would not detect it. The steps since then are those that an inline
        walk has made. Raises `ContextUnavailable`.
        """

        def load(key: str) -> Any:
            if key != "executionPath":
                raise KeyError(key)
            with _read_by_a_node():
                at = (cached.execution_id, cached.stored_seq)
                return self._load_context(*at, cached.unstored).metadata[key]

        return load

    def load_context(self, execution_id: str) -> ExecutionContext:
        """Return the whole context: from Redis if it is cached, else from Postgres.

        Raises `ExecutionNotFound`.
        """
        return self._load_context(execution_id)

    def persist_context(self, context: ExecutionContext, fence: str) -> bool:
        """Write a context to its execution's row. Return False if the execution has moved on since."""
        return self._state.persist_context(context.execution_id, fence, context.to_dict())

    def _load_output(self, cached: CachedContext, node_id: str) -> bytes:
        """Return the output of a node as JSON. Raises KeyError if it has produced none."""
        output: bytes | Missing | None = Missing()
        with suppress(CacheUnavailable):
            output = self.read_output(cached, node_id)
        if isinstance(output, Missing) or not _is_readable(output):
            output = self._state.load_output(cached.execution_id, node_id)
        if output is None:
            raise KeyError(node_id)
        return output

    def _load_context(
        self, execution_id: str, seq: int | None = None, unstored: Mapping[bytes, Any] = EMPTY
    ) -> ExecutionContext:
        with suppress(CacheUnavailable, ValueError, TypeError, KeyError, AttributeError):
            if (fields := self.read_whole(execution_id, seq)) is not None:
                return context_of(execution_id, {**fields, **unstored})
        if (snapshot := self._state.load_snapshot(execution_id)) is None:
            raise ExecutionNotFound(execution_id)
        return context_of(execution_id, {**context_fields(snapshot, b""), **unstored})


def _is_readable(output: bytes | None) -> bool:
    """Return whether this was read from Redis as the engine writes it: JSON, or None for no output."""
    try:
        decode(output or b"null")
    except ValueError:
        return False
    return True


@contextmanager
def _read_by_a_node() -> Iterator[None]:
    """Raise `ContextUnavailable` for an outage, to distinguish it from that of a server which a node uses."""
    try:
        yield
    except BackingServiceUnavailable as error:
        raise ContextUnavailable(str(error)) from error
