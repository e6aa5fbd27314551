"""The names of everything that the engine keeps in Redis.

In a Redis Cluster the part of a name in braces, its hash tag, decides which node has the key. There, all keys
of an execution have its id as their tag, so that one script may use them. A single Redis has no use for tags,
and its names never get them: workers of two releases have to agree on the name of a lock.
"""

from __future__ import annotations

from dataclasses import dataclass

from workflow_engine.settings import Settings

CONTEXT, LOCK, CONTENDED = "execution:context", "lock:execution", "lock:contended"


@dataclass(frozen=True)
class Keys:
    """The keys and channels of one installation, which all begin with its `key_prefix`."""

    prefix: str
    is_cluster: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Keys:
        return cls(settings.key_prefix, settings.redis_address.is_cluster)

    def of_claim(self, execution_id: str, place: str) -> tuple[str, str, str]:
        """Return the keys of the context, of the contention flag and of the lock that a claim needs."""
        tag, suffix = self._tag(execution_id), _of(place)
        return (
            f"{self.prefix}{CONTEXT}:{tag}",
            f"{self.prefix}{CONTENDED}:{tag}{suffix}",
            f"{self.prefix}{LOCK}:{tag}{suffix}",
        )

    def context(self, execution_id: str) -> str:
        return f"{self.prefix}{CONTEXT}:{self._tag(execution_id)}"

    def lock(self, execution_id: str, place: str = "") -> str:
        """Return the key of an execution's lock, or of the place in it that one node takes."""
        return f"{self.prefix}{LOCK}:{self._tag(execution_id)}{_of(place)}"

    def contended(self, execution_id: str, place: str = "") -> str:
        """Return the key of the flag of waiters that met the lock; its holder then resumes the execution."""
        return f"{self.prefix}{CONTENDED}:{self._tag(execution_id)}{_of(place)}"

    def in_hand(self, execution_id: str) -> str:
        """Return the key of the nodes that were sent or are running, where several may run at once."""
        return f"{self.prefix}execution:in-hand:{self._tag(execution_id)}"

    def turned_away(self, execution_id: str) -> str:
        """Return the key of the nodes that found all places taken."""
        return f"{self.prefix}execution:turned-away:{self._tag(execution_id)}"

    def run(self, execution_id: str, place: str = "") -> str:
        """Return the key of a running node's mark, progress and interruption.

        That is the context, unless other nodes may run at the same time.
        """
        if not place:
            return self.context(execution_id)
        return f"{self.prefix}execution:node:{self._tag(execution_id)}{_of(place)}"

    def lease(self, work: str) -> str:
        return f"{self.prefix}lease:{work}"

    @property
    def workers(self) -> str:
        """The key of the names of the workers that are alive, by the time of their last heartbeat."""
        return f"{self.prefix}{self._tag('workers')}"

    def worker(self, name: str) -> str:
        """Return the key of a worker's last heartbeat."""
        return f"{self.workers}:{name}" if self.is_cluster else f"{self.prefix}worker:{name}"

    @property
    def data_age(self) -> str:
        """The key that holds the time since which Redis has kept its data."""
        return f"{self.prefix}data-age"

    @property
    def presence(self) -> str:
        """The key of the processes that are, or lately were, connected."""
        return f"{self.prefix}presence"

    def finished(self, execution_id: str) -> str:
        """Return the pub/sub channel for the end of an execution; not a key, so it holds nothing."""
        return f"{self.prefix}execution:finished:{execution_id}"

    def _tag(self, name: str) -> str:
        return f"{{{name}}}" if self.is_cluster else name


def _of(place: str) -> str:
    return f":{place}" if place else ""
