"""Every key the engine writes to Redis expires: a crash at any moment must not leave one behind forever.

The keys of kombu, which live as long as the queues they belong to, are none of the engine's business.
Settings may put a prefix before all of these names.
"""

from __future__ import annotations

import redis

NEVER_EXPIRES = -1
KOMBU_ENDINGS = ("unacked", "unacked_index", "unacked_mutex")


def keys_that_never_expire(client: redis.Redis) -> list[str]:
    """Return the names of all keys in the client's database, except kombu's, without an expiry; sorted."""
    names = [key.decode(errors="replace") for key in client.scan_iter(count=1000)]
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.ttl(name)
            pipeline.type(name)
        answers = pipeline.execute()
    keys = zip(names, answers[::2], answers[1::2], strict=True)
    return sorted(name for name, ttl, kind in keys if ttl == NEVER_EXPIRES and not _is_kombus(name, kind))


def _is_kombus(name: str, kind: bytes) -> bool:
    """Return whether a key is kombu's: any list is a queue of its, unless its name is one of the engine's."""
    if "execution:" in name:
        return False
    return kind == b"list" or "_kombu." in name or name.endswith(KOMBU_ENDINGS)
